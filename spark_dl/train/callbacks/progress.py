"""Callbacks that tell where training stands and how fast it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.log_values import plain_value
from spark_dl.train.checkpoint import Checkpoint
from spark_dl.train.speed import Speed, StepClock, speed
from spark_dl.train.usage import Usage

__all__ = ["Counting", "MeasureSpeed", "ReportProgress", "SendHeartbeats"]

_REPORT_SECONDS = 0.25
_HOST_BYTES = 64


class Counting(keras.callbacks.Callback):
    """Knows the epoch and how many of its steps have been taken, also where an epoch is begun in its middle.

    Args:
        start: the checkpoint that training goes on from, if any.
    """

    def __init__(self, start: Checkpoint | None) -> None:
        super().__init__()
        self.epoch = self.step = 0
        self._start = start

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin to count."""
        self.epoch = epoch
        self.step = self._start.step if self._start is not None and self._start.epoch == epoch else 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count."""
        self.step += 1


class MeasureSpeed(Counting):
    """How fast the ranks together are, measured in each epoch: its steps, without validation and checkpoint.

    Args:
        collectives: of this rank's World.
        clock: of this rank's steps.
        rows: rows in an epoch, over all ranks.
        steps: steps in an epoch.
        now: tells the time, in seconds.
        start: the checkpoint that training goes on from, if any.

    Attributes:
        speed: of the last epoch; the same on every rank.
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
        self.speed: Speed | None = None
        self._collectives = collectives
        self._clock = clock
        self._rows = rows
        self._steps = steps
        self._now = now
        self._began = self._ended = 0.0
        self._usage = Usage()
        self._hosts: list[str] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Learn the hosts' names."""
        names = self._of_ranks([*self._collectives.world.host.encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b" ")])
        self._hosts = [bytes(name.astype(np.uint8)).decode(errors="replace").strip() for name in names]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the epoch's clocks."""
        super().on_epoch_begin(epoch, logs)
        self._clock.take()
        self._usage.take()
        self._clock.restart()
        self._began = self._ended = self._now()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time: the step may have been the last."""
        super().on_train_batch_end(batch, logs)
        self._ended = self._now()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the ranks' times together."""
        ranks = self._of_ranks([self._ended - self._began, *self._clock.take(), *self._usage.take()])
        before = self._start.step if self._start is not None and self._start.epoch == epoch else 0
        taken = self.step - before
        self.speed = speed(self._rows * taken / self._steps, taken, ranks, self._hosts)

    def _of_ranks(self, mine: Sequence[float]) -> np.ndarray:
        """The numbers of each rank, on every rank: shape (ranks, numbers)."""
        world = self._collectives.world
        table = np.zeros((world.size, len(mine)))
        table[world.rank] = mine
        return self._collectives.sum(table.ravel(), "spark_dl.of_ranks").reshape(table.shape)


class ReportProgress(Counting):
    """Tells the driver how far training is, a few times a second and after each epoch.

    What is advised for more speed is told once, and not of the first of several epochs, in which TensorFlow compiles.
    """

    def __init__(
        self,
        report: Callable[[dict[str, Any]], None],
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
        self._told = clock()
        self._measured = 0
        self._advised = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell the step, if it is time."""
        super().on_train_batch_end(batch, logs)
        now = self._clock()
        if now - self._told >= _REPORT_SECONDS:
            self._told = now
            loss = float((logs or {}).get("loss", math.nan))
            self._report({"kind": "step", "epoch": self.epoch, "step": self.step, "loss": loss})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell the epoch's metrics and its speed."""
        values = {name: plain_value(value) for name, value in (logs or {}).items()}
        measured: dict[str, Any] = asdict(self._measure.speed) if self._measure.speed else {"ranks": ()}
        measured["ranks"] = list(measured["ranks"])
        advice = measured.pop("advice", ())
        rate = _learning_rate(self.model)
        self._report({"kind": "epoch", "epoch": epoch, "logs": values, "learning_rate": rate, **measured})
        self._measured += 1
        if advice and not self._advised and (self._measured > 1 or self._epochs == 1):
            self._advised = True
            self._report({"kind": "warning", "text": " ".join(advice)})


def _learning_rate(model: keras.Model) -> float | None:
    """The optimizer's, as it stands; None where it has none that can be told."""
    try:
        return float(model.optimizer.learning_rate)
    except (AttributeError, TypeError, ValueError):
        return None


class SendHeartbeats(Counting):
    """Tells the rank's process, at each step, where training stands: what a watchdog is shown.

    It runs before and after all other callbacks, so that a rank that stands in one of them has marked less than the
    others, who wait for it in the step.
    """

    def __init__(self, heartbeat: Callable[[str], None], start: Checkpoint | None) -> None:
        super().__init__(start)
        self._mark = heartbeat

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """A step begins."""
        self._mark(f"epoch {self.epoch + 1}, step {self.step + 1}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """A step has ended."""
        super().on_train_batch_end(batch, logs)
        self._mark(f"epoch {self.epoch + 1}, the end of step {self.step}")

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """A step of validation begins."""
        self._mark(f"epoch {self.epoch + 1}, validation step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The epoch's end, before checkpoint and reports."""
        self._mark(f"the end of epoch {epoch + 1}")
