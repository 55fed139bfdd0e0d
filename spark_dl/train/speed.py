"""Throughput of a rank: clocks in the graph of the train step, read once per epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from spark_dl.train.reports import RankSpeed, Speed

__all__ = ["ADVICE_THRESHOLD", "LEAST_SECONDS", "RANK_CLOCKS", "EpochSpeed", "StepClock", "StepTimes", "measure_epoch"]

# Advice is given above this share of the time, and for epochs of at least this many seconds.
ADVICE_THRESHOLD, LEAST_SECONDS = 0.2, 1.0

# A rank's measurement of an epoch: its seconds, the fields of StepTimes, and those of Usage.
RANK_CLOCKS = np.dtype(
    [
        (name, np.float64)
        for name in (
            *("seconds", "input_seconds", "collective_seconds", "bytes_reduced"),
            *("busy_cores", "memory_bytes", "gpu_memory_bytes"),
        )
    ]
)


class StepTimes(NamedTuple):
    """Totals over the steps of one rank.

    Attributes:
        input_seconds: The seconds waited for input.
        collective_seconds: The seconds in collectives.
        bytes_reduced: The bytes passed to collectives.
    """

    input_seconds: float
    collective_seconds: float
    bytes_reduced: float


class StepClock:
    """Accumulated times of one rank's steps.

    A rank waits for its input if the batch wasn't ready when the previous step ended. The very first batch counts as
    ready: it is requested only when the step is compiled.
    """

    def __init__(self) -> None:
        self._waiting, self._reducing, self._bytes = (tf.Variable(0.0, dtype=tf.float64) for _ in range(3))
        self._idle_since = tf.Variable(math.inf, dtype=tf.float64)

    def restart(self) -> None:
        """Start measuring now, so that the time since the previous step doesn't count."""
        if math.isfinite(self._idle_since.numpy()):
            self._idle_since.assign(tf.timestamp())

    @property
    def variables(self) -> list[Any]:
        """The variables that hold the times."""
        return [value for value in vars(self).values() if isinstance(value, tf.Variable)]

    def reset(self) -> None:
        """Forget all steps, as if there had been none."""
        self.take()
        self._idle_since.assign(math.inf)

    def begin(self, made: Any) -> None:
        """Record the beginning of a step; called in a graph.

        Args:
            made: The time at which the step's batch was made, float64 (), from `tf.timestamp`.
        """
        self._waiting.assign_add(tf.maximum(made - self._idle_since, 0.0))

    def end(self, after: Sequence[Any]) -> None:
        """Record the end of a step, after these tensors are computed; called in a graph."""
        self._idle_since.assign(_now(after))

    def reducing(self, tensors: Sequence[Any]) -> Any:
        """Record the bytes of tensors that are about to be reduced over ranks; return the time. Called in a graph."""
        self._bytes.assign_add(tf.cast(tf.add_n([tf.size(t, tf.int64) * t.dtype.size for t in tensors]), tf.float64))
        return _now(tensors)

    def reduced(self, since: Any, tensors: Sequence[Any]) -> None:
        """Record the time of a reduction that started at `since` and resulted in these tensors; called in a graph."""
        self._reducing.assign_add(_now(tensors) - since)

    def take(self) -> StepTimes:
        """Return the totals, and reset them."""
        totals = (self._waiting, self._reducing, self._bytes)
        taken = StepTimes(*(float(total.numpy()) for total in totals))
        for total in totals:
            total.assign(0.0)
        return taken


def _now(after: Sequence[Any]) -> Any:
    with tf.control_dependencies(list(after)):
        return tf.timestamp()


@dataclass(frozen=True)
class EpochSpeed:
    """Measurement of an epoch, the same on every rank.

    Attributes:
        seconds: The seconds from the first step to the last, on the slowest rank.
        speed: The throughput.
        advice: Suggestions for more throughput, in sentences; mostly empty.
    """

    seconds: float
    speed: Speed
    advice: tuple[str, ...] = ()


def measure_epoch(rows: float, steps: int, ranks: np.ndarray, hosts: Sequence[str]) -> EpochSpeed:
    """Compute an epoch's throughput from the clocks of all ranks.

    Args:
        rows: The number of rows trained on, over all ranks.
        steps: The number of steps of each rank.
        ranks: The measurement of each rank, of dtype RANK_CLOCKS.
        hosts: The host of each rank.
    """
    seconds = ranks["seconds"]
    longest = float(seconds.max())
    if longest <= 0 or not steps:
        return EpochSpeed(longest, Speed())
    waits = ranks["input_seconds"] / np.maximum(seconds, 1e-9)
    reducing = ranks["collective_seconds"] / np.maximum(seconds, 1e-9)
    speed = Speed(
        rows_per_second=rows / longest,
        step_ms=1000 * longest / steps,
        input_wait=float(min(waits.max(), 1.0)),
        collective_wait=float(np.mean(np.minimum(reducing, 1.0))),
        bytes_reduced=float(ranks["bytes_reduced"].max()),
        ranks=tuple(_rank_speed(rows / len(ranks), rank) for rank in ranks),
    )
    return EpochSpeed(longest, speed, tuple(_advice(_working(ranks), waits, longest, hosts)))


def _working(ranks: Any) -> Any:
    """Return the seconds in which ranks didn't wait, for one rank or for an array of them."""
    return ranks["seconds"] - ranks["input_seconds"] - ranks["collective_seconds"]


def _rank_speed(rows: float, rank: Any) -> RankSpeed:
    working = max(float(_working(rank)), 0.0)
    return RankSpeed(
        rows_per_second=rows / max(working, 1e-9),
        working=min(working / max(float(rank["seconds"]), 1e-9), 1.0),
        cpu_percent=100 * float(rank["busy_cores"]),
        memory_mb=float(rank["memory_bytes"]) / 1e6,
        gpu_memory_mb=float(rank["gpu_memory_bytes"]) / 1e6,
    )


def _advice(working: np.ndarray, waits: np.ndarray, seconds: float, hosts: Sequence[str]) -> Iterator[str]:
    if seconds < LEAST_SECONDS:
        return
    hungry = int(waits.argmax())
    if waits[hungry] > ADVICE_THRESHOLD:
        yield (
            f"Rank {hungry} on host {hosts[hungry]} waits {waits[hungry]:.0%} of its time for rows: set "
            "cacheData='memory' (or 'disk') if they fit, or give workers more cores (cpusPerWorker)."
        )
    slow, quick = int(working.argmax()), int(working.argmin())
    if working[slow] - working[quick] > ADVICE_THRESHOLD * max(working[quick], ADVICE_THRESHOLD * seconds):
        yield (
            f"Rank {slow} on host {hosts[slow]} computes {working[slow]:.1f} s in an epoch where rank {quick} on host "
            f"{hosts[quick]} needs {working[quick]:.1f} s, and all wait for it: see what else runs on {hosts[slow]}, "
            "or give it more cores."
        )
