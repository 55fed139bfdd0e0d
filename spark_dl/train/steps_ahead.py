"""Several steps in one call of a graph: a step of a small model is mostly Python between steps.

Keras calls the train function and all callbacks for each step. The function takes the next steps in one call, and
answers the calls for the others with the logs of the last one. Callbacks are still called for each step, so that this
is for trainings in which none of them acts within an epoch. The steps are the same ones, in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl.collectives import Collectives
from spark_dl.train.metrics.step_logs import has_hook

__all__ = ["LEAST_STEPS", "StepsAhead", "acts_within_epochs"]

# Epochs with fewer steps are trained step by step, without the graph of a loop.
LEAST_STEPS = 64
# Seconds that one call may take: heartbeats and progress are sent between calls.
_CALL_SECONDS = 0.02
_MOST_STEPS = 32
# Steps of a training that are taken one by one and timed; the first ones trace and warm up.
_TIMED, _WARMING = 8, 4
_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")

# Takes that many steps with batches of the iterator, int32 (); returns the logs.
Steps = Callable[[Any, Any], Any]


def acts_within_epochs(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Return whether one of the callbacks has a hook that is called for each training step."""
    return any(has_hook(callback, hook) for callback in callbacks for hook in _HOOKS)


class StepsAhead(keras.callbacks.Callback):
    """Train function that takes steps ahead of Keras's calls, and the callback that tells it where an epoch begins.

    All ranks take the same steps in one call, so that their heartbeats are alike: they agree on a number after the
    first steps of a training.

    Args:
        collectives: The collectives of this rank's World.
        several: Whether the function may take several steps in a call.
    """

    def __init__(self, collectives: Collectives, several: bool) -> None:
        super().__init__()
        self.several = several
        self._collectives = collectives
        self._numbers = {1: tf.constant(1)}
        self.begin(1, None, 0)

    def begin(self, steps: int, every: int | None, skipped: int) -> None:
        """Begin a training.

        Args:
            steps: The number of steps in an epoch.
            every: The number of steps after which something is done within the epoch, such as a checkpoint; or None.
            skipped: The number of steps of the first epoch that have been taken before.
        """
        self._steps, self._every, self._skipped = steps, every, skipped
        self._position = self._ahead = self._taken = self._together = 0
        self._seconds: list[float] = []
        self._logs: Any = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch."""
        self._position, self._skipped, self._ahead = self._skipped, 0, 0

    def take(self, steps: Steps, iterator: Any) -> Any:
        """Return the logs of the next step, which has been taken already or is taken now with those behind it."""
        if self._ahead:
            self._ahead -= 1
            return self._logs
        count = self._count()
        began = time.monotonic()
        self._logs = steps(iterator, self._numbers.setdefault(count, tf.constant(count)))
        if self._taken < _TIMED:
            self._seconds.append(time.monotonic() - began)
        self._taken += count
        self._position += count
        self._ahead = count - 1
        return self._logs

    def _count(self) -> int:
        if not self.several or self._taken < _TIMED:
            return 1
        if not self._together:
            mine = np.array([np.median(self._seconds[_WARMING:])])
            mean = float(self._collectives.sum(mine, "spark_dl.steps_ahead")[0]) / self._collectives.world.size
            self._together = int(np.clip(_CALL_SECONDS / max(mean, 1e-9), 1, _MOST_STEPS))
        rest = self._steps - self._position
        if self._every:
            rest = min(rest, self._every - self._position % self._every)
        return max(1, min(self._together, rest))
