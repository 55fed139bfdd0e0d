"""Checks of what is trained in federated rounds, before any Spark job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cloudpickle
from pyspark.sql.types import BooleanType, DateType, IntegralType, StringType, StructType

from spark_dl.errors import DataError, ModelError, OptionError, explain, hint
from spark_dl.fit.spec import FitSpec
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.options import EstimatorOptions, options_of

__all__ = ["check_arguments", "check_model", "check_options", "check_silo_column"]

# Options that imply gradients of global batches, or that have no meaning for rounds, with the reasons.
_REFUSED = {
    "epochs": "rounds and localEpochs take its place",
    "initialEpoch": "rounds are counted from the first",
    "globalBatchSize": "silos don't share batches: set batchSize",
    "gradientAccumulation": "each rank applies its own gradients: set a larger batchSize",
    "compression": "ranks send weights, not gradients",
    "learningRateScaling": "batches aren't joined, so the rate is that of one rank",
    "warmupEpochs": "ranks take different numbers of steps",
    "checkpointSteps": "ranks have a model in common only at the end of a round",
    "checkpointDir": "an unfinished fit can't be taken up again",
    "minWorkers": "each silo needs its rank",
    "balance": "rows would count more than once in the weights of silos",
    "validationData": "its rows belong to no silo: mark them in validationCol",
}


def check_arguments(estimator: Any, rounds: Any, local_epochs: Any, proximal: Any, silos: Any) -> None:
    """Check the arguments of a federated fit.

    Raises:
        OptionError: One can't be used.
    """
    if not isinstance(estimator, KerasEstimator):
        raise _unusable("estimator", "a KerasEstimator, KerasClassifier, KerasRegressor or KerasTagger", estimator)
    for name, value in (("rounds", rounds), ("localEpochs", local_epochs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _unusable(name, "an integer >= 1", value)
    if isinstance(proximal, bool) or not isinstance(proximal, (int, float)) or not 0 <= proximal < float("inf"):
        raise _unusable("proximal", "a number >= 0", proximal)
    if silos is not None and (isinstance(silos, str) or not isinstance(silos, Sequence)):
        raise _unusable("silos", "a list of values, or None", silos)


def check_options(options: EstimatorOptions) -> None:
    """Check that the estimator has no option that implies global batches.

    Raises:
        OptionError: It has one.
    """
    for option in options_of(type(options)):
        value = getattr(options, option.field)
        if option.name in _REFUSED and value != option.default:
            shown = "a DataFrame" if option.name == "validationData" else repr(value)
            raise OptionError(
                explain(
                    f"Federated training can't have {option.name}: {_REFUSED[option.name]}.",
                    expected=f"an estimator without {option.name}",
                    received=f"{option.name}={shown}",
                    fix=f"Leave {option.name} out.",
                )
            )


def check_silo_column(columns: StructType, name: Any) -> None:
    """Check that a DataFrame has the column of silos, in a type whose values are names.

    Raises:
        DataError: The column is missing, or has another type.
    """
    if not isinstance(name, str) or name not in columns.names:
        raise DataError(
            explain(
                "siloCol isn't a column of the DataFrame.",
                expected="one of " + ", ".join(columns.names),
                received=f"siloCol={name!r}",
                fix=hint(name, columns.names) if isinstance(name, str) else "Give the name of a column.",
            )
        )
    kind = columns[name].dataType
    if not isinstance(kind, (StringType, IntegralType, BooleanType, DateType)):
        raise DataError(
            explain(
                f"The column {name!r} can't name silos.",
                expected="strings, whole numbers, booleans or dates",
                received=kind.simpleString(),
                fix="Cast it, or name another column.",
            )
        )


def check_model(spec: FitSpec) -> None:
    """Check that a model and its callbacks can be trained by ranks that take different numbers of steps.

    Args:
        spec: The specification of the fit.

    Raises:
        ModelError: The model has a custom train step, or its optimizer scales the loss.
        OptionError: A callback reads the logs of each step.
    """
    import keras

    from spark_dl.train.metrics.step_logs import TEST_HOOKS, TRAIN_HOOKS, read_logs
    from spark_dl.train.model.step_trial import has_own_step

    if has_own_step(spec.model):
        raise _refused("a custom train_step or compute_loss", "Compile a Keras model with a loss.")
    if isinstance(spec.model.optimizer, keras.optimizers.LossScaleOptimizer):
        raise _refused("an optimizer that scales the loss (mixed_float16)", "Train in float32 or mixed_bfloat16.")
    for callback in cloudpickle.loads(spec.callbacks):
        if read_logs([callback], (*TRAIN_HOOKS, *TEST_HOOKS)):
            raise OptionError(
                explain(
                    "Federated training can't have callbacks that read the logs of each step.",
                    expected="callbacks that act at the end of epochs, which are rounds",
                    received=type(callback).__name__,
                    fix="Leave it out, or have it read the logs in on_epoch_end.",
                )
            )


def _refused(what: str, fix: str) -> ModelError:
    return ModelError(
        explain(
            "The model can't be trained in federated rounds.",
            expected="Keras's own train step, in which ranks may take different numbers of steps",
            received=what,
            fix=fix,
        )
    )


def _unusable(name: str, expected: str, received: Any) -> OptionError:
    return OptionError(explain(f"{name} can't be used.", expected=expected, received=f"{received!r}", fix="Change it."))
