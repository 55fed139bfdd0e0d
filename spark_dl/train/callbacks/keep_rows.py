"""Callback that turns the row cache on if ranks wait for input."""

from __future__ import annotations

from typing import Any

import keras

from spark_dl.train.callbacks.progress import MeasureSpeed
from spark_dl.train.feed import Feed
from spark_dl.train.reports import TrainReporter, WarningReport
from spark_dl.train.speed import ADVICE_THRESHOLD, LEAST_SECONDS

__all__ = ["KeepRows"]


class KeepRows(keras.callbacks.Callback):
    """Callback that turns the row cache on if ranks wait too long for input.

    All ranks see the same measurement after each epoch; each caches its rows if it has room.

    Args:
        measure: The callback that measures the throughput; it runs before this one.
        feed: The feed of this rank.
        epochs: The number of epochs of the training; the last one needs no cache.
        report: The function that sends reports to the driver; called on rank 0.
    """

    def __init__(self, measure: MeasureSpeed, feed: Feed, epochs: int, report: TrainReporter) -> None:
        super().__init__()
        self._measure = measure
        self._feed = feed
        self._epochs = epochs
        self._report = report
        self._epochs_measured = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Turn the cache on if the input wait was too long; the first epoch doesn't count, as it starts the reading."""
        measured = self._measure.measured
        self._epochs_measured += 1
        if measured is None or self._epochs_measured == 1 or epoch + 1 >= self._epochs:
            return
        wait = measured.speed.input_wait
        if measured.seconds >= LEAST_SECONDS and wait > ADVICE_THRESHOLD and self._feed.keep_rows():
            text = (
                f"Epoch {epoch + 1} waited {wait:.0%} of its time for rows: workers keep those that they read from "
                "now on, on their own disks (cacheData='auto')."
            )
            self._report(WarningReport(text))
