"""Check of the metric that decides which epoch is best, before any Spark job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spark_dl.errors import OptionError
from spark_dl.options import EstimatorOptions

if TYPE_CHECKING:
    import keras

    from spark_dl.fit.worker_checks import Fitted

__all__ = ["check_monitor"]

# Methods that decide which logs a model has.
_LOGS = ("train_step", "test_step", "compute_metrics", "get_metrics_result")
# What Keras's callbacks add to the logs.
_ADDED = ("learning_rate",)


def check_monitor(fitted: Fitted, options: EstimatorOptions) -> None:
    """Check that the best epoch can be determined by the option monitor, as far as the model's logs are known.

    Args:
        fitted: The compiled model.
        options: The estimator's options; nothing is checked without restoreBestWeights.

    Raises:
        OptionError: The model doesn't report the metric, it has several values per epoch, or it is unknown whether
            lower or higher values are better.
    """
    from spark_dl.train.metrics.best import mode_of, no_best_epoch, no_direction, unknown_monitor
    from spark_dl.train.metrics.joins import values_of

    if not options.restore_best_weights:
        return
    validated = bool(options.validation_col or options.validation_fraction)
    monitor = options.monitor or ("val_loss" if validated else "loss")
    for name, values in values_of(fitted.model, fitted.examples).items():
        if values > 1 and monitor.removeprefix("val_") == name:
            raise OptionError(no_best_epoch(monitor, values))
    if _makes_own_logs(fitted.model) or any(_may_add_logs(callback) for callback in options.callbacks or []):
        return
    built = _built(fitted, options.weighted)
    if built is None:
        return
    own = list(built.get_metrics_result())
    names = [*own, *(f"val_{name}" for name in own if validated), *_ADDED]
    if monitor not in names:
        raise OptionError(unknown_monitor(monitor, names[: -len(_ADDED)]))
    if options.monitor_mode == "auto" and monitor not in _ADDED and not mode_of(built, monitor):
        raise OptionError(no_direction(monitor))


def _makes_own_logs(model: keras.Model) -> bool:
    import keras

    return any(getattr(type(model), name) is not getattr(keras.Model, name) for name in _LOGS)


def _may_add_logs(callback: Any) -> bool:
    """Return whether a callback may add values to the logs: one of the user's own."""
    import keras

    from spark_dl.train.model.parts import is_keras

    return not is_keras(type(callback)) or isinstance(callback, keras.callbacks.LambdaCallback)


def _built(fitted: Fitted, weighted: bool) -> keras.Model | None:
    """Return a copy of the model with built metrics; None if Keras can't build them from synthetic rows."""
    import keras

    from spark_dl._compat.keras import build_compiled_state
    from spark_dl.train.model.examples import made_up_batch

    model = fitted.copied()
    batch = made_up_batch(fitted.inputs, fitted.examples, weighted, "classes", rows=2, seed=0)
    try:
        build_compiled_state(model, keras.tree.map_structure(keras.ops.convert_to_tensor, batch))
        model.get_metrics_result()
    except Exception:
        return None
    return model
