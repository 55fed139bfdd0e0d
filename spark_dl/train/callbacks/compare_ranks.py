"""Callback that checks at each epoch's end that all ranks have the same weights, optimizer state and learning rates."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from spark_dl.collectives import Collectives, gather_records
from spark_dl.errors import ModelError, explain
from spark_dl.train.model.optimizers import optimizer_variables, optimizers_of

__all__ = ["CompareRanks"]

# CPUs of different kinds round differently. All ranks apply the same gradients, so differences stay below these bounds.
_DRIFT = 1e-4
_DRIFT_OF_NUMBERS = 1e-6
_NAMED = 4

# What each rank tells of a value whose bits differ: the largest distance of its numbers from the mean over ranks, its
# largest number, its first number, and its digest.
_DIFFERENCE = np.dtype([(name, np.float64) for name in ("distance", "largest", "first", "digest")])


class _Compared(NamedTuple):
    """A value that must be the same on all ranks, with its name."""

    name: str
    value: np.ndarray


class CompareRanks(keras.callbacks.Callback):
    """Callback that fails if the ranks' models differ, for example because a callback uses values of one rank only.

    It compares weights, the state of all optimizers, their learning rates, and the moving statistics, which SyncMetrics
    has joined before. It costs one small collective, and further ones if bits differ.

    Args:
        collectives: The collectives of this rank's World.
        moving: The function that returns the variables with moving statistics; called at each epoch's end.
    """

    def __init__(self, collectives: Collectives, moving: Callable[[], list[Any]]) -> None:
        super().__init__()
        self._collectives = collectives
        self._moving = moving

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare the ranks, after the user's callbacks.

        Raises:
            ModelError: The ranks differ by more than rounding.
        """
        size = self._collectives.world.size
        if size == 1:
            return
        compared = _compared(self.model, self._moving())
        digests = np.array([_digest(one.value) for one in compared], np.int64)
        differing = [compared[index] for index in self._differing(digests)]
        drifted = self._drifted(differing) if differing else []
        if drifted:
            more = f"; and {len(drifted) - _NAMED} more" if len(drifted) > _NAMED else ""
            raise ModelError(
                explain(
                    f"The ranks train different models at the end of epoch {epoch + 1}: "
                    f"{'; '.join(drifted[:_NAMED])}{more}.",
                    expected="the same weights, optimizer state and learning rate on all ranks",
                    received=f"{len(drifted)} of {len(compared)} that differ between {size} ranks",
                    fix="Have callbacks and the model's own steps set weights and rates from what is the same on all "
                    "ranks, such as the epoch and the logs, and not from random numbers, times or data of one rank.",
                )
            )

    def _differing(self, digests: np.ndarray) -> list[int]:
        """Return the indices of the digests that differ between ranks; the same result on every rank."""
        # Equal numbers have variance 0. Digests are split into 16 bits so that sums of squares are exact.
        halves = np.stack([digests & 0xFFFF, digests >> 16]).astype(np.float64)
        sums, squares = self._collectives.sum(np.stack([halves, halves**2]).ravel(), "spark_dl.digests").reshape(
            2, 2, -1
        )
        size = self._collectives.world.size
        return [
            index
            for index in range(len(digests))
            if any(size * int(squares[half, index]) != int(sums[half, index]) ** 2 for half in (0, 1))
        ]

    def _drifted(self, differing: list[_Compared]) -> list[str]:
        """Describe the values that differ by more than rounding."""
        flat = [one.value.astype(np.float64).ravel() for one in differing]
        means = self._collectives.sum(np.concatenate(flat), "spark_dl.drift") / self._collectives.world.size
        parts = np.split(means, np.cumsum([len(value) for value in flat])[:-1])
        own = np.zeros(len(differing), _DIFFERENCE)
        own["distance"] = [np.abs(value - mean).max() for value, mean in zip(flat, parts, strict=True)]
        own["largest"] = [np.abs(value).max() for value in flat]
        own["first"] = [value[0] for value in flat]
        own["digest"] = [_digest(one.value) for one in differing]
        of_ranks = gather_records(self._collectives, own, "spark_dl.drifts")
        found = []
        for index, one in enumerate(differing):
            ranks = of_ranks[:, index]
            allowed = _DRIFT if one.value.size > 1 else _DRIFT_OF_NUMBERS
            # NaN on some ranks counts as a difference.
            if not ranks["distance"].max() <= allowed * ranks["largest"].max():
                found.append(_description(one, ranks))
        return found


def _description(compared: _Compared, ranks: np.ndarray) -> str:
    """Describe how a value differs between ranks, by each rank's _DIFFERENCE."""
    name, digests = compared.name, ranks["digest"]
    if compared.value.size == 1:
        shown = ", ".join(f"{value:.7g} on rank {rank}" for rank, value in enumerate(ranks["first"][:_NAMED]))
        return f"{name}: {shown}{', ...' if len(ranks) > _NAMED else ''}"
    kinds, counts = np.unique(digests, return_counts=True)
    others = np.flatnonzero(digests != (kinds[counts.argmax()] if counts.max() > 1 else digests[0]))
    named = ", ".join(map(str, others[:_NAMED])) + (", ..." if len(others) > _NAMED else "")
    return f"{name} on rank{'s' if len(others) > 1 else ''} {named}, by up to {ranks['distance'].max():.3g}"


def _compared(model: keras.Model, moving: list[Any]) -> list[_Compared]:
    """Return the values that must be the same on all ranks."""
    rates = [_Compared(f"learning rate of {optimizer.name}", _rate(optimizer)) for optimizer in optimizers_of(model)]
    variables = [*model.trainable_variables, *moving, *optimizer_variables(model)]
    values = [_Compared(getattr(variable, "path", variable.name), np.asarray(variable)) for variable in variables]
    return [*rates, *(one for one in values if one.value.size)]


def _rate(optimizer: Any) -> np.ndarray:
    """Return the current learning rate; NaN if it has no single value."""
    try:
        return np.array(float(optimizer.learning_rate))
    except (AttributeError, TypeError, ValueError):
        return np.array(np.nan)


def _digest(value: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(value).tobytes())
