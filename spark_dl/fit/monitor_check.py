"""Check of the metric that decides which epoch is best, before any Spark job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spark_dl.errors import OptionError
from spark_dl.options import EstimatorOptions

if TYPE_CHECKING:
    import keras

    from spark_dl.fit.worker_checks import Fitted
    from spark_dl.train.model.examples import Example

__all__ = ["check_monitor", "with_metrics"]

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
    built = with_metrics(fitted.copied(), fitted.inputs, fitted.examples, options.weighted)
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


def with_metrics(
    model: keras.Model,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    examples: Sequence[Example],
    weighted: bool,
) -> keras.Model | None:
    """Build the metrics of a compiled model, which Keras itself does in the first step, and return it.

    Args:
        model: The compiled model; a copy, as it is changed.
        inputs: The shape of one row and the dtype of each input, by the input's name.
        examples: Shapes and dtypes of labels and outputs.
        weighted: Whether rows have weights.

    Returns:
        The model; None if Keras can't build its metrics from synthetic rows.
    """
    import keras

    from spark_dl._compat.keras import build_compiled_state
    from spark_dl.train.model.examples import made_up_batch

    batch = made_up_batch(inputs, examples, weighted, "classes", rows=2, seed=0)
    try:
        build_compiled_state(model, keras.tree.map_structure(keras.ops.convert_to_tensor, batch))
        model.get_metrics_result()
    except Exception:
        return None
    return model
