"""Throughput of a rank: clocks in the graph of the train step, read once per epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["ADVICE_THRESHOLD", "LEAST_SECONDS", "RankSpeed", "Speed", "StepClock", "speed"]

# Advice is given above this share of the time, and for epochs of at least this many seconds.
ADVICE_THRESHOLD, LEAST_SECONDS = 0.2, 1.0


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

    def take(self) -> tuple[float, float, float]:
        """Return and reset the seconds waited for input, the seconds in collectives, and the bytes passed to them."""
        taken = tuple(float(total.numpy()) for total in (self._waiting, self._reducing, self._bytes))
        for total in (self._waiting, self._reducing, self._bytes):
            total.assign(0.0)
        return taken  # type: ignore[return-value]


def _now(after: Sequence[Any]) -> Any:
    with tf.control_dependencies(list(after)):
        return tf.timestamp()


@dataclass(frozen=True)
class RankSpeed:
    """Throughput and resource usage of one rank in an epoch.

    Attributes:
        rows_per_second: The rows per second of computing time, without waiting.
        working: The share of the time in which the rank didn't wait, 0 to 1.
        cpu_percent: The CPU usage in percent of one core: 200 if two cores were busy all the time.
        memory_mb: The resident memory of the process, in 10^6 bytes.
        gpu_memory_mb: The memory that TensorFlow uses on the rank's GPU, in 10^6 bytes; 0 without a GPU.
    """

    rows_per_second: float
    working: float
    cpu_percent: float
    memory_mb: float
    gpu_memory_mb: float


@dataclass(frozen=True)
class Speed:
    """Throughput of an epoch's training, without validation and checkpoints.

    Attributes:
        seconds: The seconds from the first step to the last, on the slowest rank.
        rows_per_second: The rows per second of all ranks together.
        step_ms: The milliseconds per step.
        input_wait: The share of the time spent waiting for rows, 0 to 1; the maximum over ranks.
        collective_wait: The share of the time spent reducing gradients, waiting for other ranks included, 0 to 1; the
            mean over ranks.
        bytes_reduced: The bytes of gradients that each rank passed to collectives.
        ranks: The throughput of each rank.
        advice: Suggestions for more throughput, in sentences; mostly empty.
    """

    seconds: float
    rows_per_second: float
    step_ms: float
    input_wait: float
    collective_wait: float
    bytes_reduced: float
    ranks: tuple[RankSpeed, ...] = ()
    advice: tuple[str, ...] = ()


def speed(rows: float, steps: int, ranks: np.ndarray, hosts: Sequence[str]) -> Speed:
    """Compute an epoch's throughput from the clocks of all ranks.

    Args:
        rows: The number of rows trained on, over all ranks.
        steps: The number of steps of each rank.
        ranks: Measurements of shape (ranks, 7): seconds, seconds waited for input, seconds in collectives, bytes passed
            to collectives, busy cores, bytes of memory, bytes of GPU memory.
        hosts: The host of each rank.
    """
    seconds, waiting, reducing, sizes, cores, memory, gpu_memory = ranks.T
    longest = float(seconds.max())
    if longest <= 0 or not steps:
        return Speed(longest, 0.0, 0.0, 0.0, 0.0, 0.0)
    waits = waiting / np.maximum(seconds, 1e-9)
    return Speed(
        seconds=longest,
        rows_per_second=rows / longest,
        step_ms=1000 * longest / steps,
        input_wait=float(min(waits.max(), 1.0)),
        collective_wait=float(np.mean(np.minimum(reducing / np.maximum(seconds, 1e-9), 1.0))),
        bytes_reduced=float(sizes.max()),
        ranks=tuple(
            RankSpeed(
                rows_per_second=rows / len(ranks) / max(working, 1e-9),
                working=min(working / max(whole, 1e-9), 1.0),
                cpu_percent=100 * busy,
                memory_mb=held / 1e6,
                gpu_memory_mb=gpu_held / 1e6,
            )
            for whole, working, busy, held, gpu_held in np.stack(
                [seconds, np.maximum(seconds - waiting - reducing, 0.0), cores, memory, gpu_memory], axis=1
            ).tolist()
        ),
        advice=tuple(_advice(seconds - waiting - reducing, waits, longest, hosts)),
    )


def _advice(working: np.ndarray, waits: np.ndarray, seconds: float, hosts: Sequence[str]) -> list[str]:
    if seconds < LEAST_SECONDS:
        return []
    said = []
    hungry = int(waits.argmax())
    if waits[hungry] > ADVICE_THRESHOLD:
        said.append(
            f"Rank {hungry} on host {hosts[hungry]} waits {waits[hungry]:.0%} of its time for rows: set "
            "cacheData='memory' (or 'disk') if they fit, or give workers more cores (cpusPerWorker)."
        )
    slow, quick = int(working.argmax()), int(working.argmin())
    if working[slow] - working[quick] > ADVICE_THRESHOLD * max(working[quick], ADVICE_THRESHOLD * seconds):
        said.append(
            f"Rank {slow} on host {hosts[slow]} computes {working[slow]:.1f} s in an epoch where rank {quick} on host "
            f"{hosts[quick]} needs {working[quick]:.1f} s, and all wait for it: see what else runs on {hosts[slow]}, "
            "or give it more cores."
        )
    return said
