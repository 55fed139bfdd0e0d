"""`DPSGD`: an Estimator that trains another estimator's model with differential privacy."""

from __future__ import annotations

import functools
import math
import secrets
from typing import TYPE_CHECKING, Any

from pyspark.ml.base import Estimator
from pyspark.sql import DataFrame

from spark_dl.errors import OptionError, explain
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.options import EstimatorOptions, options_of
from spark_dl.privacy.accounting import epsilon, noise_for
from spark_dl.privacy.checks import check_private
from spark_dl.redaction import redacted_errors
from spark_dl.spark.row_source import RowSource
from spark_dl.train.plan import PrivateSteps

if TYPE_CHECKING:
    from pyspark.ml._typing import ParamMap

__all__ = ["DPSGD"]

# Options under which the accounting, or the sampling of rows, would not hold: why.
_REFUSED = {
    "gradientAccumulation": "each step gets its own noise: set a larger batchSize",
    "compression": "the sums of gradients must be exact",
    "jitCompile": "gradients are computed row by row",
    "classWeights": "they tell how many rows the classes have",
    "balance": "rows would count more than once",
    "restoreBestWeights": "the choice would tell of the validation rows",
    "checkpointDir": "a fit that resumes would draw other noise",
    "initialEpoch": "the steps before would not be counted",
    "callbacks": "what they do isn't accounted for",
    "onEpoch": "what it does isn't accounted for",
}
_SEEDS = 2**62


class DPSGD(Estimator[KerasModel]):
    """Estimator that trains the model of an estimator with differential privacy (DP-SGD).

    Each step samples each row with the same probability, clips the gradient of each row, and adds noise to their sum,
    once for all workers. The fitted model's weights are then (epsilon, delta)-differentially private: whether a row was
    among the training rows changes the probability of any weights by a factor of at most exp(epsilon), except with
    probability delta. The epsilon after each epoch is a metric: in the progress display, in `summary.history`, and in
    MLflow.

    The guarantee covers the weights. Metrics of the training and validation rows are exact: don't show them to anyone
    who may not see the rows. The number of rows is treated as public. What was computed from the rows before the fit,
    such as an adapted Normalization, a vocabulary or the weights of a warmStart, isn't covered: epsilons of successive
    fits on the same rows add up.

    Sources: Abadi et al.: Deep Learning with Differential Privacy, CCS 2016; Mironov, Talwar and Zhang, 2019.

    Args:
        estimator: The estimator, with a model whose loss is a mean over rows, without batch normalization. The expected
            number of rows in a step is batchSize times numWorkers, or globalBatchSize.
        l2NormClip: The norm to which the gradient of each row is clipped. Its numbers are rounded towards zero to
            multiples of l2NormClip / 2**25, so that a clip far above all norms doesn't turn clipping off: it loses the
            small numbers.
        noiseMultiplier: The standard deviation of the noise divided by l2NormClip; None to compute it from
            targetEpsilon.
        targetEpsilon: The epsilon after the last epoch; None to follow from noiseMultiplier.
        delta: The delta, less than 1 / rows; None for 1 / (10 * rows).
        noiseSeed: The seed of the noise and of the sampling, for tests: whoever knows it can remove the noise. None to
            draw a secret one.

    Raises:
        OptionError: A value can't be used, or the estimator has an option under which the accounting would not hold.
    """

    def __init__(
        self,
        estimator: KerasEstimator,
        *,
        l2NormClip: float,
        noiseMultiplier: float | None = None,
        targetEpsilon: float | None = None,
        delta: float | None = None,
        noiseSeed: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(estimator, KerasEstimator):
            raise _unusable("estimator", "a KerasEstimator, KerasClassifier, KerasRegressor or KerasTagger", estimator)
        numbers = {"l2NormClip": l2NormClip, "noiseMultiplier": noiseMultiplier, "targetEpsilon": targetEpsilon}
        for name, value in numbers.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if (value is None and name == "l2NormClip") or (
                value is not None and not (number and 0 < value < math.inf)
            ):
                raise _unusable(name, "a number > 0, not infinite", value)
        if (noiseMultiplier is None) == (targetEpsilon is None):
            received = f"noiseMultiplier={noiseMultiplier}, targetEpsilon={targetEpsilon}"
            raise _unusable("The noise", "one of noiseMultiplier and targetEpsilon", received)
        if delta is not None and not (isinstance(delta, float) and 0 < delta < 1):
            raise _unusable("delta", "a number between 0 and 1", delta)
        integer = isinstance(noiseSeed, int) and not isinstance(noiseSeed, bool)
        if noiseSeed is not None and not (integer and 0 <= noiseSeed < _SEEDS):
            raise _unusable("noiseSeed", "an integer >= 0 and < 2**62, or None", noiseSeed)
        _check_options(estimator._options())
        self._estimator, self._clip, self._noise, self._target = estimator, l2NormClip, noiseMultiplier, targetEpsilon
        self._delta, self._seed = delta, noiseSeed

    def copy(self, extra: ParamMap | None = None) -> DPSGD:
        """Return a copy whose estimator has these params, too."""
        that = super().copy(extra)
        that._estimator = self._estimator.copy(extra)
        _check_options(that._estimator._options())
        return that

    @redacted_errors()
    def _fit(self, dataset: DataFrame) -> KerasModel:
        estimator = self._estimator.copy()
        spec, rows = estimator._checked(dataset)
        check_private(spec)
        estimator._private_steps = self._steps
        convert = functools.partial(estimator._convert, rows, spec)
        return estimator._train(dataset.sparkSession, spec, convert, functools.partial(RowSource.of, dataset))

    def _steps(self, rows: int, options: EstimatorOptions) -> PrivateSteps:
        """Return the settings of the steps for a number of training rows.

        Raises:
            OptionError: The target can't be reached, or delta is so large that it gives no guarantee.
        """
        if self._delta is not None and self._delta * rows >= 1:
            raise OptionError(
                explain(
                    f"delta={self._delta:g} gives no guarantee: a fit that publishes a random row would satisfy it.",
                    expected=f"less than 1 / rows, which is {1 / rows:.2g}",
                    received=f"delta={self._delta:g} with {rows:,} training rows",
                    fix="Leave delta out for 1 / (10 * rows), or train on more rows.",
                )
            )
        batch = options.global_batch_size or options.batch_size * options.num_workers
        batch = min(batch, rows)
        chance, delta = batch / rows, self._delta or 1 / (10 * rows)
        steps = -(-rows // batch)
        noise = self._noise or noise_for(self._target or 0.0, chance, steps * options.epochs, delta)
        return PrivateSteps(
            clip=float(self._clip),
            noise=noise,
            batch=float(batch),
            chance=chance,
            steps=steps,
            seed=secrets.randbelow(_SEEDS) if self._seed is None else self._seed,
            epsilons=tuple(epsilon(noise, chance, steps * done, delta) for done in range(1, options.epochs + 1)),
        )


def _check_options(options: EstimatorOptions) -> None:
    for option in options_of(type(options)):
        value = getattr(options, option.field)
        if option.name in _REFUSED and value != option.default:
            raise OptionError(
                explain(
                    f"Private training can't have {option.name}: {_REFUSED[option.name]}.",
                    expected=f"an estimator without {option.name}",
                    received=f"{option.name}={value!r}",
                    fix=f"Leave {option.name} out.",
                )
            )
    if options.dtype_policy not in (None, "float32"):
        raise _unusable("dtypePolicy", "None or 'float32'", options.dtype_policy)


def _unusable(name: str, expected: str, received: Any) -> OptionError:
    return OptionError(explain(f"{name} can't be used.", expected=expected, received=f"{received!r}", fix="Change it."))
