"""Callback that asks the driver after each epoch whether to continue training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spark_dl.log_values import plain_value
from spark_dl.train.reports import EpochEnd, TrainReporter, Verdict
from spark_dl.wire import decode

__all__ = ["AskDriver"]

# A message has at most 1 MiB.
_MOST_NUMBERS = 1_000


class AskDriver(keras.callbacks.Callback):
    """Callback that stops training if the driver requests it. All ranks wait for the same reply.

    Args:
        report: The function that sends reports to the driver; called on rank 0.
        reply: The function that waits for the driver's reply.
    """

    def __init__(self, report: TrainReporter, reply: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._report = report
        self._reply = reply

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the metrics of the epoch, without arrays of many numbers, and wait for the driver's verdict."""
        metrics = {name: plain_value(value) for name, value in (logs or {}).items() if np.size(value) <= _MOST_NUMBERS}
        self._report(EpochEnd(epoch, metrics))
        if decode(self._reply(), (Verdict,)).stop:
            self.model.stop_training = True
