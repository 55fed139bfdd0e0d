"""Callbacks that report the position and the throughput of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spark_dl.collectives import Collectives, gather_records
from spark_dl.log_values import plain_value
from spark_dl.train.checkpoint import Checkpoint
from spark_dl.train.reports import EpochReport, Speed, StepReport, TrainReporter, WarningReport
from spark_dl.train.speed import RANK_CLOCKS, EpochSpeed, StepClock, measure_epoch
from spark_dl.train.usage import UsageMeter

__all__ = ["Counting", "MeasureSpeed", "ReportProgress", "SendHeartbeats"]

_REPORT_SECONDS = 0.25
_HOST_BYTES = 64


class Counting(keras.callbacks.Callback):
    """Base callback that counts the epoch and its steps, also if training resumes within an epoch.

    Args:
        start: The checkpoint that training resumes from, or None.
    """

    def __init__(self, start: Checkpoint | None) -> None:
        super().__init__()
        self.epoch = self.step = 0
        self._start = start

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start counting the epoch's steps."""
        self.epoch = epoch
        self.step = self._start.step if self._start is not None and self._start.epoch == epoch else 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count a step."""
        self.step += 1


class MeasureSpeed(Counting):
    """Callback that measures the throughput of all ranks in each epoch's steps, without validation and checkpoints.

    Args:
        collectives: The collectives of this rank's World.
        clock: The clock of this rank's steps.
        rows: The number of rows in an epoch, over all ranks.
        steps: The number of steps in an epoch.
        now: The function that returns the time in seconds.
        start: The checkpoint that training resumes from, or None.

    Attributes:
        measured: The measurement of the last epoch, the same on every rank; None before the first.
    """

    def __init__(
        self,
        collectives: Collectives,
        clock: StepClock,
        rows: int,
        steps: int,
        now: Callable[[], float],
        start: Checkpoint | None = None,
    ) -> None:
        super().__init__(start)
        self.measured: EpochSpeed | None = None
        self._collectives = collectives
        self._clock = clock
        self._rows = rows
        self._steps = steps
        self._now = now
        self._began = self._ended = 0.0
        self._usage = UsageMeter()
        self._hosts: list[str] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Gather the ranks' host names."""
        host = self._collectives.world.host.encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b" ")
        names = gather_records(self._collectives, np.array([*host], np.float64), "spark_dl.hosts")
        self._hosts = [bytes(name.astype(np.uint8)).decode(errors="replace").strip() for name in names]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restart the clocks."""
        super().on_epoch_begin(epoch, logs)
        self._clock.take()
        self._usage.take()
        self._clock.restart()
        self._began = self._ended = self._now()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Record the time, since the step may be the last."""
        super().on_train_batch_end(batch, logs)
        self._ended = self._now()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Gather the ranks' measurements and compute the throughput."""
        clocks = np.zeros(1, RANK_CLOCKS)
        clocks["seconds"] = self._ended - self._began
        for name, value in (*self._clock.take()._asdict().items(), *self._usage.take()._asdict().items()):
            clocks[name] = value
        ranks = gather_records(self._collectives, clocks, "spark_dl.clocks")[:, 0]
        before = self._start.step if self._start is not None and self._start.epoch == epoch else 0
        taken = self.step - before
        self.measured = measure_epoch(self._rows * taken / self._steps, taken, ranks, self._hosts)


class ReportProgress(Counting):
    """Callback that reports progress to the driver up to four times a second and after each epoch.

    Throughput advice is reported once; of several epochs the first, in which TensorFlow compiles, gives none.
    """

    def __init__(
        self,
        report: TrainReporter,
        measure: MeasureSpeed,
        epochs: int,
        clock: Callable[[], float],
        start: Checkpoint | None = None,
    ) -> None:
        super().__init__(start)
        self._report = report
        self._measure = measure
        self._epochs = epochs
        self._clock = clock
        self._reported_at = clock()
        self._epochs_measured = 0
        self._advised = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Report the step if the last report is long enough ago."""
        super().on_train_batch_end(batch, logs)
        now = self._clock()
        if now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            self._report(StepReport(self.epoch, self.step, float((logs or {}).get("loss", math.nan))))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the epoch's metrics and throughput."""
        values = {name: plain_value(value) for name, value in (logs or {}).items()}
        measured = self._measure.measured or EpochSpeed(0.0, Speed())
        self._report(EpochReport(epoch, values, _learning_rate(self.model), measured.speed))
        self._epochs_measured += 1
        if measured.advice and not self._advised and (self._epochs_measured > 1 or self._epochs == 1):
            self._advised = True
            self._report(WarningReport(" ".join(measured.advice)))


def _learning_rate(model: keras.Model) -> float | None:
    """Return the optimizer's current learning rate; None if it has no single value."""
    try:
        return float(model.optimizer.learning_rate)
    except (AttributeError, TypeError, ValueError):
        return None


class SendHeartbeats(Counting):
    """Callback that sends a heartbeat with the training position at each step, for the driver's rank monitor.

    It runs before and after all other callbacks, so that a rank that is stuck in one of them has sent fewer heartbeats
    than the others, which wait for it in the step.
    """

    def __init__(self, heartbeat: Callable[[str], None], start: Checkpoint | None) -> None:
        super().__init__(start)
        self._heartbeat = heartbeat

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Send a heartbeat when a step begins."""
        self._heartbeat(f"epoch {self.epoch + 1}, step {self.step + 1}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Send a heartbeat when a step ends."""
        super().on_train_batch_end(batch, logs)
        self._heartbeat(f"epoch {self.epoch + 1}, the end of step {self.step}")

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Send a heartbeat when a validation step begins."""
        self._heartbeat(f"epoch {self.epoch + 1}, validation step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Send a heartbeat at the epoch's end, before checkpoint and reports."""
        self._heartbeat(f"the end of epoch {epoch + 1}")
