"""Assessment of the fitted model on the validation rows, for plots and metrics, by the ranks that trained it.

Each rank accumulates counts and sums over its rows, and for regression a sample to plot. Only sampled rows leave a
rank.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.score.heads import Classification, Head, Regression
from spark_dl.train.plan import RankTraining, TrainPlan
from spark_dl.train.reports import TrainReporter, WarningReport

__all__ = ["Assessment", "Classes", "Numbers", "assess", "can_assess"]

# Bin edges for probabilities on the log-odds scale, which resolves those near 0 and 1.
LOG_ODDS = np.linspace(-20.0, 20.0, 2001)
# Up to this number of classes, each has its own curve; more classes share one.
_MOST_CURVES = 20
# A confusion matrix of 8 MB.
MOST_CLASSES = 1000
# The size of the sample, over all ranks.
SAMPLE = 5000
# Labels of some rows: their number, their mean, and the sum of squared deviations from it.
_SPREAD = np.dtype([("rows", np.float64), ("mean", np.float64), ("squares", np.float64)])
# A row of the sample; `drawn` is 0 where there are fewer rows.
_SAMPLED_ROW = np.dtype([("drawn", np.float64), ("actual", np.float64), ("predicted", np.float64)])


@dataclass(frozen=True)
class Classes:
    """Assessment of a classifier.

    Attributes:
        rows: The number of validation rows with a prediction that isn't NaN.
        confusion: The confusion matrix: rows by actual class (first axis) and predicted class; float64,
            (classes, classes).
        curves: The positive class of each curve; -1 for one curve over all classes.
        counts: The histogram of each curve, of negative (0) and positive (1) rows by the log-odds of their probability:
            float64, (curves, 2, bins). LOG_ODDS has the bins' edges; values outside are in the outermost bins.
    """

    rows: int
    confusion: np.ndarray
    curves: tuple[int, ...]
    counts: np.ndarray


@dataclass(frozen=True)
class Numbers:
    """Assessment of a regressor.

    Attributes:
        rows: The number of validation rows.
        error: The mean error, predicted - actual.
        mae: The mean absolute error.
        rmse: The root mean squared error.
        r2: The coefficient of determination; NaN if the labels don't vary.
        sample: Actual and predicted values of random rows, at most SAMPLE / ranks from each rank; float64, (rows, 2).
    """

    rows: int
    error: float
    mae: float
    rmse: float
    r2: float
    sample: np.ndarray


Assessment = Classes | Numbers


def can_assess(head: Head) -> bool:
    """Return whether `assess` supports the head: regression, or classification of at most MOST_CLASSES classes."""
    return (isinstance(head, Classification) and head.classes <= MOST_CLASSES) or isinstance(head, Regression)


def assess(
    head: Head,
    plan: TrainPlan,
    training: RankTraining,
    collectives: Collectives,
    report: TrainReporter,
    heartbeat: Callable[[str], None],
) -> Assessment | None:
    """Assess the final model on the validation rows of all ranks.

    A failure doesn't affect the training's result: it is reported as a warning.

    Args:
        head: The model's head, for which `can_assess` is true.
        plan: The training plan, the same on every rank.
        training: The training of this rank, whose final model rank 0 has written.
        collectives: The collectives of this rank's World.
        report: Sends a report to the driver; a no-op on all ranks but 0.
        heartbeat: Records this rank's progress.

    Returns:
        The assessment, the same on every rank; None if a rank failed or there are no rows.
    """
    world = collectives.world
    heartbeat("the end of training")
    # Rank 0 sends it after it has written the model.
    sent = _digest(training.model) if training.is_final else 0
    final = int(collectives.broadcast(np.array([sent]), "spark_dl.assess.final")[0])
    tally = _Tally.of(head, world.rank, world.size)
    failed, why = 0.0, "The others' logs say why."
    try:
        for batch, (labels, outputs) in enumerate(_predictions(plan, training, final), start=1):
            heartbeat(f"the fitted model's look at validation batch {batch}")
            tally.add(labels, head.columns(outputs))
    except Exception as error:
        failed, why = 1.0, f"{type(error).__name__}: {error}"
    failures, totals = np.split(
        collectives.sum(np.append(failed, tally.totals.view(np.float64)), "spark_dl.assess.sums"), [1]
    )
    if failures.any():
        text = f"The validation rows could not be evaluated on {failures.sum():.0f} of {world.size} ranks. {why}"
        report(WarningReport(text))
        return None
    return tally.whole(totals.view(tally.totals.dtype))


def _predictions(plan: TrainPlan, training: RankTraining, final: int) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield labels of shape (rows,) and the final model's outputs for each batch of this rank's validation rows.

    A rank loads the final model only if its own isn't the same: it takes the time and the memory of another model.

    Args:
        plan: The training plan.
        training: The training of this rank.
        final: The digest of the final model, or a number that no model has.
    """
    import tensorflow as tf

    from spark_dl.train.model.keras_settings import apply_settings
    from spark_dl.train.model.serialization import from_bytes

    model = training.model
    if _digest(model) != final:
        content = plan.workspace.read(training.result.model_file)
        model = from_bytes(content, cloudpickle.loads(plan.custom_objects), compiled=False)

    def call(features: Any) -> Any:
        return model(features, training=False)

    compute = call if training.model.run_eagerly else tf.function(call, reduce_retracing=True, autograph=False)
    batches: Iterable[Any] = () if training.validation is None else training.validation
    for features, labels, *_ in batches:
        rows = int(tf.nest.flatten(features)[0].shape[0])
        if rows:
            with apply_settings(training.settings):
                outputs = [np.asarray(output) for output in tf.nest.flatten(compute(features))]
            numbers = np.asarray(tf.nest.flatten(labels)[0]).reshape(rows, -1)
            one_hot = numbers.shape[1] > 1  # for the loss; only a classifier's are
            yield numbers.argmax(axis=1) if one_hot else numbers[:, 0], outputs


def _digest(model: Any) -> int:
    """Return a digest of all that a model computes with, without its random seeds: positive."""
    from spark_dl._compat.keras import is_seed

    digest = 0
    for variable in model.variables:
        if not is_seed(variable):
            digest = zlib.crc32(np.ascontiguousarray(variable).tobytes(), digest)
    return digest + 1


class _Tally:
    """Accumulator of one rank's rows.

    Attributes:
        totals: The numbers that are summed over the ranks: one record of float64 fields.
    """

    def __init__(self, fields: Sequence[tuple[Any, ...]]) -> None:
        self.totals = np.zeros(1, np.dtype(list(fields)))

    @staticmethod
    def of(head: Head, rank: int, ranks: int) -> _Tally:
        return _ClassTally(head) if isinstance(head, Classification) else _NumberTally(rank, ranks)

    def add(self, labels: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """Add rows, as labels of shape (rows,) and the values of the head's fields."""
        raise NotImplementedError

    def whole(self, totals: np.ndarray) -> Assessment | None:
        """Compute the assessment from the totals of all ranks; None if there are no rows."""
        raise NotImplementedError


class _ClassTally(_Tally):
    def __init__(self, head: Classification) -> None:
        self._classes = head.classes
        self._curves = (1,) if head.classes == 2 else tuple(range(head.classes))
        self._curves = self._curves if head.classes <= _MOST_CURVES else (-1,)
        counts = (len(self._curves), 2, len(LOG_ODDS) - 1)
        super().__init__(
            [("confusion", np.float64, (head.classes, head.classes)), ("counts", np.float64, counts)],
        )

    def add(self, labels: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        known = ~np.isnan(columns["prediction"])  # a NaN output has no predicted class
        columns = {name: values[known] for name, values in columns.items()}
        actual = labels[known].astype(np.int64)
        np.add.at(self.totals["confusion"][0], (actual, columns["prediction"].astype(np.int64)), 1)
        chances = columns["probability"]
        with np.errstate(divide="ignore"):
            odds = np.log(chances) - np.log1p(-np.minimum(chances, 1.0))
        width = LOG_ODDS[1] - LOG_ODDS[0]
        inside = np.clip(odds, LOG_ODDS[0], LOG_ODDS[-1])
        bins = np.minimum((inside - LOG_ODDS[0]) / width, len(LOG_ODDS) - 2).astype(np.int64)
        own = actual[:, None] == np.arange(self._classes)
        for index, one in enumerate(self._curves):
            which = slice(None) if one < 0 else one
            np.add.at(
                self.totals["counts"][0, index], (own[:, which].astype(np.int64).ravel(), bins[:, which].ravel()), 1
            )

    def whole(self, totals: np.ndarray) -> Classes | None:
        confusion = totals["confusion"][0]
        rows = int(confusion.sum())
        return Classes(rows, confusion, self._curves, totals["counts"][0]) if rows else None


class _NumberTally(_Tally):
    """Accumulator for regression: sums of errors, each rank's label mean and spread, a uniform sample of its rows."""

    def __init__(self, rank: int, ranks: int) -> None:
        size = max(1, SAMPLE // ranks)
        super().__init__(
            [
                *((name, np.float64) for name in ("error", "absolute_error", "squared_error")),
                ("labels", _SPREAD, (ranks,)),
                ("sample", _SAMPLED_ROW, (ranks, size)),
            ]
        )
        # Views of this rank's part of the totals.
        self._labels = self.totals["labels"][0, rank : rank + 1]
        self._sample = self.totals["sample"][0, rank]
        self._draw = np.random.default_rng(rank)
        self._keys = np.full(size, np.inf)

    def add(self, labels: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        actual, found = labels.astype(np.float64), columns["prediction"]
        errors = found - actual
        self.totals["error"] += errors.sum()
        self.totals["absolute_error"] += np.abs(errors).sum()
        self.totals["squared_error"] += (errors**2).sum()
        batch = np.array([(len(actual), actual.mean(), ((actual - actual.mean()) ** 2).sum())], _SPREAD)
        self._labels[:] = _joined(np.concatenate([self._labels, batch]))
        # The rows with the smallest random keys so far are a uniform sample.
        keys = np.concatenate([self._keys, self._draw.random(len(actual))])
        rows = np.zeros(len(actual), _SAMPLED_ROW)
        rows["drawn"], rows["actual"], rows["predicted"] = 1, actual, found
        rows = np.concatenate([self._sample, rows])
        least = np.argsort(keys, kind="stable")[: len(self._keys)]
        self._keys, self._sample[:] = keys[least], rows[least]

    def whole(self, totals: np.ndarray) -> Numbers | None:
        labels = _joined(totals["labels"][0])
        rows, spread = int(labels["rows"]), float(labels["squares"])
        if not rows:
            return None
        squared = float(totals["squared_error"][0])
        drawn = totals["sample"][totals["sample"]["drawn"] > 0]
        return Numbers(
            rows=rows,
            error=float(totals["error"][0]) / rows,
            mae=float(totals["absolute_error"][0]) / rows,
            rmse=math.sqrt(squared / rows),
            r2=1 - squared / spread if spread > 0 else math.nan,
            sample=np.stack([drawn["actual"], drawn["predicted"]], axis=1),
        )


def _joined(parts: np.ndarray) -> np.ndarray:
    """Combine the _SPREAD of several parts of the rows."""
    rows, means = parts["rows"], parts["mean"]
    total = rows.sum()
    mean = (rows * means).sum() / max(total, 1)
    return np.array((total, mean, (parts["squares"] + rows * (means - mean) ** 2).sum()), _SPREAD)
