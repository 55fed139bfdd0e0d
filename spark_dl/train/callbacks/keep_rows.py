"""The callback that has rows kept near the ranks, where reading them holds the ranks up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from spark_dl.train.callbacks.progress import MeasureSpeed
from spark_dl.train.feed import Feed
from spark_dl.train.speed import ADVICE_THRESHOLD, LEAST_SECONDS

__all__ = ["KeepRows"]


class KeepRows(keras.callbacks.Callback):
    """Looks after each epoch how long rows were waited for. The ranks see the same; each keeps its rows if it has room.

    Args:
        measure: how fast the ranks together are; it runs before.
        feed: of this rank.
        epochs: of the training: the last needs none.
        report: takes what has happened, on rank 0.
    """

    def __init__(
        self, measure: MeasureSpeed, feed: Feed, epochs: int, report: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__()
        self._measure = measure
        self._feed = feed
        self._epochs = epochs
        self._report = report
        self._measured = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Have rows kept from now on, if they were waited for too long; the first epoch starts the reading."""
        speed = self._measure.speed
        self._measured += 1
        if speed is None or self._measured == 1 or epoch + 1 >= self._epochs or speed.seconds < LEAST_SECONDS:
            return
        if speed.input_wait > ADVICE_THRESHOLD and self._feed.keep_rows():
            text = (
                f"Epoch {epoch + 1} waited {speed.input_wait:.0%} of its time for rows: workers keep those that they "
                "read from now on, on their own disks (cacheData='auto')."
            )
            self._report({"kind": "warning", "text": text})
