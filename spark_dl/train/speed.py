"""Where a rank's time goes: clocks in the step's own graph, read once an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["ADVICE_THRESHOLD", "LEAST_SECONDS", "RankSpeed", "Speed", "StepClock", "speed"]

# What is said to the user: from which part of the time on, and in epochs of at least so many seconds.
ADVICE_THRESHOLD, LEAST_SECONDS = 0.2, 1.0


class StepClock:
    """Times of one rank's steps, added up until they are taken.

    A rank waits for its input where the batch was not yet made when the step before had ended. The very first batch
    counts as there: it is asked for only when the step is compiled.
    """

    def __init__(self) -> None:
        self._waiting, self._reducing, self._bytes = (tf.Variable(0.0, dtype=tf.float64) for _ in range(3))
        self._idle_since = tf.Variable(math.inf, dtype=tf.float64)

    def restart(self) -> None:
        """The next step may begin now; what was before doesn't count."""
        if math.isfinite(self._idle_since.numpy()):
            self._idle_since.assign(tf.timestamp())

    def begin(self, made: Any) -> None:
        """A step begins. In a graph.

        Args:
            made: float64 (), when its batch was made, as `tf.timestamp` tells it.
        """
        self._waiting.assign_add(tf.maximum(made - self._idle_since, 0.0))

    def end(self, after: Sequence[Any]) -> None:
        """A step has ended, after these tensors. In a graph."""
        self._idle_since.assign(_now(after))

    def reducing(self, tensors: Sequence[Any]) -> Any:
        """The ranks' tensors are about to be joined; gives the time. In a graph."""
        self._bytes.assign_add(tf.cast(tf.add_n([tf.size(t, tf.int64) * t.dtype.size for t in tensors]), tf.float64))
        return _now(tensors)

    def reduced(self, since: Any, tensors: Sequence[Any]) -> None:
        """They have been joined to these, begun at that time. In a graph."""
        self._reducing.assign_add(_now(tensors) - since)

    def take(self) -> tuple[float, float, float]:
        """Seconds waited for input, seconds in collectives, and bytes handed to them, since the last time."""
        taken = tuple(float(total.numpy()) for total in (self._waiting, self._reducing, self._bytes))
        for total in (self._waiting, self._reducing, self._bytes):
            total.assign(0.0)
        return taken  # type: ignore[return-value]


def _now(after: Sequence[Any]) -> Any:
    with tf.control_dependencies(list(after)):
        return tf.timestamp()


@dataclass(frozen=True)
class RankSpeed:
    """One rank's epoch.

    Attributes:
        rows_per_second: in the time in which it waited for nobody.
        working: part of the time in which it waited for nobody, 0 to 1.
        cpu_percent: of one core: 200 where two were busy all the time.
        memory_mb: resident memory of its process, in 10^6 bytes.
        gpu_memory_mb: memory that TensorFlow has on its GPU, in 10^6 bytes; 0 where there is none.
    """

    rows_per_second: float
    working: float
    cpu_percent: float
    memory_mb: float
    gpu_memory_mb: float


@dataclass(frozen=True)
class Speed:
    """How fast an epoch's training was, validation and checkpoint apart.

    Attributes:
        seconds: from the first step to the last.
        rows_per_second: of all ranks together.
        step_ms: milliseconds of a step.
        input_wait: part of the time that the rank which waits most waits for rows, 0 to 1.
        collective_wait: part of the time that ranks spend joining gradients, waiting for each other included; the
            mean over ranks, 0 to 1.
        bytes_reduced: bytes of gradients that each rank handed over.
        ranks: of each rank.
        advice: what may be changed, in sentences; mostly none.
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
    """What the ranks' clocks say.

    Args:
        rows: that were trained on, by all ranks.
        steps: that each rank took.
        ranks: shape (ranks, 7): seconds, seconds waited for input, seconds in collectives, bytes handed to them;
            cores that were busy, bytes of memory, and bytes of GPU memory.
        hosts: of each rank.
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
