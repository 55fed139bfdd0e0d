"""What a fitted model gives for the validation rows, looked at by the ranks that have trained it.

Each rank adds up its own rows: counts and sums of all of them, and a sample to be drawn. No row leaves its rank but
those of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.score.heads import Classification, Head, Regression
from spark_dl.train.plan import TrainPlan, TrainResult

__all__ = ["Assessment", "Classes", "Numbers", "assess", "can_assess"]

# Of probabilities, on the scale of the log-odds, where those near 0 and 1 are told apart.
LOG_ODDS = np.linspace(-20.0, 20.0, 2001)
# So many classes have a curve each; more have one together.
_MOST_CURVES = 20
# A matrix of 8 MB.
MOST_CLASSES = 1000
# Rows that are drawn, of all ranks together.
SAMPLE = 5000


@dataclass(frozen=True)
class Classes:
    """How a classifier does.

    Attributes:
        rows: how many were looked at.
        confusion: rows of each class (first axis) that were predicted as each class; float64 (classes, classes).
        curves: the class that each curve is of; -1 for all together.
        counts: rows of each curve's other classes and of its own, by the log-odds of their probability:
            float64 (curves, 2, bins); the bins are those between LOG_ODDS, with what is beyond in the outermost.
    """

    rows: int
    confusion: np.ndarray
    curves: tuple[int, ...]
    counts: np.ndarray


@dataclass(frozen=True)
class Numbers:
    """How a regressor does.

    Attributes:
        rows: how many were looked at.
        error: the mean of predicted - actual.
        mae: the mean of its absolute value.
        rmse: the root of the mean of its square.
        r2: the part of the labels' variance that is explained; NaN where they don't vary.
        sample: actual and predicted of some rows, drawn evenly from each rank's; float64 (drawn, 2).
    """

    rows: int
    error: float
    mae: float
    rmse: float
    r2: float
    sample: np.ndarray


Assessment = Classes | Numbers


def can_assess(head: Head) -> bool:
    """Whether there is anything to look at for such an output."""
    return (isinstance(head, Classification) and head.classes <= MOST_CLASSES) or isinstance(head, Regression)


def assess(
    head: Head,
    plan: TrainPlan,
    result: TrainResult,
    collectives: Collectives,
    report: Callable[[dict[str, Any]], None],
    heartbeat: Callable[[str], None],
) -> Assessment | None:
    """Look at the final model's predictions for this rank's validation rows, and put the ranks' together.

    It is no part of the training: where it fails, that is told, and nothing is lost.

    Args:
        head: what the outputs mean; `can_assess` says that it can be.
        plan: the same on every rank.
        result: of the training; rank 0 has written the model.
        collectives: of this rank's World.
        report: takes what has happened, on rank 0.
        heartbeat: takes where it stands, on every rank.

    Returns:
        on every rank the same; None where a rank failed or there are no rows.
    """
    world = collectives.world
    heartbeat("the end of training")
    collectives.sum(np.zeros(1), "spark_dl.assess.written")  # the model is: rank 0 comes here after
    tally = _Tally.of(head, world.rank, world.size)
    failed, why = 0.0, "The others' logs say why."
    try:
        for batch, (labels, outputs) in enumerate(_predictions(plan, result, world), start=1):
            heartbeat(f"the fitted model's look at validation batch {batch}")
            tally.add(labels, head.columns(outputs))
    except Exception as error:
        failed, why = 1.0, f"{type(error).__name__}: {error}"
    both = collectives.sum(np.concatenate([[failed], tally.sums()]), "spark_dl.assess.sums")
    if both[0]:
        text = f"The validation rows could not be looked at on {both[0]:.0f} of {world.size} ranks. {why}"
        report({"kind": "warning", "text": text})
        return None
    return tally.whole(both[1:])


def _predictions(plan: TrainPlan, result: TrainResult, world: Any) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Labels (rows,) and the model's outputs, batch by batch."""
    import tensorflow as tf

    from spark_dl.train.feed import Feed
    from spark_dl.train.model.keras_settings import apply_settings
    from spark_dl.train.model.serialization import from_bytes, settings_of

    content = plan.workspace.read(result.model_file)
    model = from_bytes(content, cloudpickle.loads(plan.custom_objects))
    settings = settings_of(content)
    call = tf.function(lambda features: model(features, training=False), reduce_retracing=True, autograph=False)
    batches: Iterable[Any] = Feed.of(plan, world).validation
    for features, labels, *_ in batches:
        rows = int(tf.nest.flatten(features)[0].shape[0])
        if rows:
            with apply_settings(settings):
                outputs = [np.asarray(output) for output in tf.nest.flatten(call(features))]
            yield np.asarray(tf.nest.flatten(labels)[0]).reshape(rows), outputs


class _Tally:
    """What one rank has seen, as numbers that add up over ranks."""

    @staticmethod
    def of(head: Head, rank: int, ranks: int) -> _Tally:
        return _ClassTally(head) if isinstance(head, Classification) else _NumberTally(rank, ranks)

    def add(self, labels: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """Some rows: their labels (rows,), and the head's fields."""
        raise NotImplementedError

    def sums(self) -> np.ndarray:
        """All numbers, float64, flat."""
        raise NotImplementedError

    def whole(self, sums: np.ndarray) -> Assessment | None:
        """What the sums over the ranks say."""
        raise NotImplementedError


class _ClassTally(_Tally):
    def __init__(self, head: Classification) -> None:
        self._classes = head.classes
        self._curves = (1,) if head.classes == 2 else tuple(range(head.classes))
        self._curves = self._curves if head.classes <= _MOST_CURVES else (-1,)
        self._confusion = np.zeros((head.classes, head.classes))
        self._counts = np.zeros((len(self._curves), 2, len(LOG_ODDS) - 1))

    def add(self, labels: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        known = ~np.isnan(columns["prediction"])  # a row for which the model gives NaN is of no class
        columns = {name: values[known] for name, values in columns.items()}
        actual = labels[known].astype(np.int64)
        np.add.at(self._confusion, (actual, columns["prediction"].astype(np.int64)), 1)
        chances = columns["probability"]
        with np.errstate(divide="ignore"):
            odds = np.log(chances) - np.log1p(-np.minimum(chances, 1.0))
        width = LOG_ODDS[1] - LOG_ODDS[0]
        inside = np.clip(odds, LOG_ODDS[0], LOG_ODDS[-1])
        bins = np.minimum((inside - LOG_ODDS[0]) / width, len(LOG_ODDS) - 2).astype(np.int64)
        own = actual[:, None] == np.arange(self._classes)
        for index, one in enumerate(self._curves):
            which = slice(None) if one < 0 else one
            np.add.at(self._counts[index], (own[:, which].astype(np.int64).ravel(), bins[:, which].ravel()), 1)

    def sums(self) -> np.ndarray:
        return np.concatenate([self._confusion.ravel(), self._counts.ravel()])

    def whole(self, sums: np.ndarray) -> Classes | None:
        confusion = sums[: self._confusion.size].reshape(self._confusion.shape)
        counts = sums[self._confusion.size :].reshape(self._counts.shape)
        rows = int(confusion.sum())
        return Classes(rows, confusion, self._curves, counts) if rows else None


class _NumberTally(_Tally):
    """Sums, each rank's mean and spread of the labels, and a sample of its rows, all with the same chance."""

    def __init__(self, rank: int, ranks: int) -> None:
        self._rank = rank
        self._sums = np.zeros(3)
        self._labels = np.zeros((ranks, 3))  # rows, their mean, and the sum of squares around it
        self._sample = np.zeros((ranks, max(1, SAMPLE // ranks), 3))
        self._draw = np.random.default_rng(rank)
        self._keys = np.full(self._sample.shape[1], np.inf)

    def add(self, labels: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        actual, found = labels.astype(np.float64), columns["prediction"]
        apart = found - actual
        self._sums += np.sum([apart, np.abs(apart), apart**2], axis=1)
        batch = np.array([len(actual), actual.mean(), ((actual - actual.mean()) ** 2).sum()])
        self._labels[self._rank] = _joined(np.stack([self._labels[self._rank], batch]))
        # The rows with the least random numbers so far.
        keys = np.concatenate([self._keys, self._draw.random(len(actual))])
        rows = np.concatenate([self._sample[self._rank], np.stack([np.ones(len(actual)), actual, found], axis=1)])
        least = np.argsort(keys, kind="stable")[: len(self._keys)]
        self._keys, self._sample[self._rank] = keys[least], rows[least]

    def sums(self) -> np.ndarray:
        return np.concatenate([self._sums, self._labels.ravel(), self._sample.ravel()])

    def whole(self, sums: np.ndarray) -> Numbers | None:
        (error, absolute, squared), rest = sums[:3], sums[3:]
        rows, _, spread = _joined(rest[: self._labels.size].reshape(self._labels.shape))
        if not rows:
            return None
        drawn = rest[self._labels.size :].reshape(-1, 3)
        return Numbers(
            rows=int(rows),
            error=float(error / rows),
            mae=float(absolute / rows),
            rmse=float(np.sqrt(squared / rows)),
            r2=float(1 - squared / spread) if spread > 0 else float("nan"),
            sample=drawn[drawn[:, 0] > 0, 1:],
        )


def _joined(parts: np.ndarray) -> np.ndarray:
    """Rows, mean and sum of squares of several parts together: shape (parts, 3) to (3,)."""
    rows, means, squares = parts.T
    total = rows.sum()
    mean = (rows * means).sum() / max(total, 1)
    return np.array([total, mean, (squares + rows * (means - mean) ** 2).sum()])
