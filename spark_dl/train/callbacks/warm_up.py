"""Callback that warms up the learning rate."""

from __future__ import annotations

from typing import Any

import keras

from spark_dl.train.checkpoint import Checkpoint
from spark_dl.train.learning_rate import LearningRate

__all__ = ["WarmUp"]


class WarmUp(keras.callbacks.Callback):
    """Callback that sets the learning rate of each step during the warm-up, and leaves it alone afterwards.

    Args:
        rate: The learning rate schedule.
        steps: The number of steps in an epoch.
        start: The checkpoint that training resumes from, or None.
        initial_epoch: The epoch to start with without a checkpoint.
    """

    def __init__(self, rate: LearningRate, steps: int, start: Checkpoint | None, initial_epoch: int = 0) -> None:
        super().__init__()
        self._rate = rate
        self._steps = steps
        self._step = start.epoch * steps + start.step if start else initial_epoch * steps
        self._warming = self._still()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the learning rate of the step that begins."""
        if self._warming:
            self.model.optimizer.learning_rate = self._rate.at(self._step, self._steps)
            self._step += 1
            self._warming = self._still()

    def _still(self) -> bool:
        return self._step < self._rate.warmup_epochs * self._steps
