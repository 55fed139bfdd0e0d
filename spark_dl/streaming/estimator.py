"""The estimator of a stream: which options it can't have, and the one of a fitted model."""

from __future__ import annotations

from typing import Any

from spark_dl.errors import OptionError, explain
from spark_dl.ml.classifier import KerasClassifier
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.ml.regressor import KerasRegressor
from spark_dl.ml.tagger import KerasTagger
from spark_dl.options import EstimatorOptions, options_of

__all__ = ["stream_estimator"]

# Options of a single fit, or of ranks only, that a stream doesn't support, with the reasons.
_REFUSED = {
    "validationCol": "each batch is tested before it is trained on",
    "validationData": "each batch is tested before it is trained on",
    "validationFraction": "each batch is tested before it is trained on",
    "checkpointDir": "each batch is committed to stateDir",
    "restoreBestWeights": "a stream has no best epoch",
    "initialEpoch": "a stream counts batches",
    "warmupEpochs": "a stream has no first epochs",
    "callbacks": "batches are no epochs",
    "onEpoch": "batches are no epochs",
    "classWeights": "the replay buffer balances the classes",
    "balance": "the replay buffer balances the classes",
    "stratified": "each batch is tested before it is trained on",
    "gradientAccumulation": "small batches are trained in one process",
    "learningRateScaling": "small batches are trained by one worker and large ones by several",
    "registeredModelName": "Champion registers models",
    "profile": "batches are short",
}


def stream_estimator(given: KerasEstimator | KerasModel) -> tuple[KerasEstimator, EstimatorOptions]:
    """Return a copy of the estimator that logs nothing, and the options as they were.

    Args:
        given: An estimator, or a fitted model whose training continues.

    Raises:
        OptionError: It is neither, or has an option that a stream can't have.
    """
    estimator = _estimator_of(given) if isinstance(given, KerasModel) else given
    if not isinstance(estimator, KerasEstimator):
        raise OptionError(
            explain(
                "The estimator can't be trained on a stream.",
                expected="a KerasEstimator, KerasClassifier, KerasRegressor or KerasTagger, or a fitted KerasModel",
                received=type(given).__name__,
                fix="Transform the stream by the stages before it, and pass the estimator itself.",
            )
        )
    options = estimator._options()
    for option in options_of(type(options)):
        value = getattr(options, option.field)
        if option.name in _REFUSED and value != option.default:
            raise OptionError(
                explain(
                    f"A stream can't have {option.name}: {_REFUSED[option.name]}.",
                    expected=f"an estimator without {option.name}",
                    received=f"{option.name}={value!r}",
                    fix=f"Leave {option.name} out.",
                )
            )
    quiet: Any = estimator.copy()
    return quiet.setTracking(None).setVerbose(0), options


def _estimator_of(fitted: KerasModel) -> KerasEstimator:
    """Return an estimator that continues the training of a fitted model, with its columns."""
    for kind in (KerasClassifier, KerasRegressor, KerasTagger):
        if isinstance(fitted, kind.model_class):
            return fitted._copyValues(kind(warmStart=fitted))
    return fitted._copyValues(KerasEstimator(warmStart=fitted))
