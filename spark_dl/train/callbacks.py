"""The callbacks that make Keras's own trainer a distributed one, in the order in which they run.

MarkPosition    where training stands, for the watchdog: first and last
AgreeOnEpoch    metrics and moving statistics over all ranks, so that all that follow see the same
(the user's)
SaveCheckpoint  written by rank 0
ReportProgress  rank 0
StopTogether    last: what any callback decided on any rank
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.errors import OptionError, StoreError, explain, hint
from spark_dl.train.callback_state import callback_state
from spark_dl.train.checkpoint import Checkpoint, Checkpoints
from spark_dl.train.model_bytes import seed_states, to_bytes
from spark_dl.train.optimizer import GradientReducer
from spark_dl.train.plan import TrainPlan

__all__ = ["AgreeOnEpoch", "MarkPosition", "ReportProgress", "SaveCheckpoint", "StopTogether", "is_better", "runs_on"]

_REPORT_SECONDS = 0.25


class AgreeOnEpoch(keras.callbacks.Callback):
    """Metrics are the metrics of all rows: the ranks' states are summed, their values never averaged.

    Moving statistics (all non-trainable weights that are floats, such as BatchNormalization's) become the mean
    over the ranks at the end of each epoch, before validation.
    """

    def __init__(self, collectives: Collectives) -> None:
        super().__init__()
        self.world = collectives.world
        self._collectives = collectives
        self._training_logs: dict[str, float] = {}
        self._validation_logs: dict[str, float] = {}
        self._seen: list[int] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Note the moving statistics as they are."""
        self._seen = [_digest(variable) for variable in self._moving()]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the last epoch."""
        self._training_logs, self._validation_logs = {}, {}

    def on_test_begin(self, logs: Any = None) -> None:
        """Training of the epoch is over, and Keras is about to reset its metrics."""
        self._training_logs = self._end_training()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Validation is over. Keras would hand on this rank's own logs, so these are kept for the epoch's end."""
        self._validation_logs = {f"val_{name}": value for name, value in self._metrics().items()}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the agreed values in the place of this rank's own."""
        if logs is not None:
            logs.update(self._training_logs or self._end_training())
            logs.update(self._validation_logs)

    def within_epoch(self) -> list[list[float]]:
        """For a checkpoint in mid-epoch: agree on moving statistics; the metric states' sums over the ranks.

        The metrics themselves go on on each rank.
        """
        self._agree_on_moving()
        states = [np.asarray(variable) for variable in self.model.metrics_variables]
        if not states:
            return []
        flat = np.concatenate([state.astype(np.float64).ravel() for state in states])
        total = self._collectives.sum(flat, "spark_dl.metrics_within")
        return [part.tolist() for part in np.split(total, np.cumsum([state.size for state in states])[:-1])]

    def _end_training(self) -> dict[str, float]:
        self._agree_on_moving()
        return self._metrics()

    def _agree_on_moving(self) -> None:
        moving = self._moving()
        digests = [_digest(variable) for variable in moving]
        moved = np.array([float(a != b) for a, b in zip(digests, self._seen, strict=True)])
        # Frozen layers may be most of a model: what moved on no rank isn't sent.
        moved = self._collectives.sum(moved, "spark_dl.moved") if len(moved) else moved
        changed = [variable for variable, ranks in zip(moving, moved, strict=True) if ranks]
        size = self._collectives.world.size
        self._replace(changed, "spark_dl.moving", lambda total: total / size)
        self._seen = [_digest(variable) for variable in moving]

    def _moving(self) -> list[Any]:
        return [v for v in self.model.non_trainable_variables if "float" in str(v.dtype)]

    def _metrics(self) -> dict[str, float]:
        self._replace(self.model.metrics_variables, "spark_dl.metrics", lambda total: total)
        return {name: float(value) for name, value in self.model.get_metrics_result().items()}

    def _replace(self, variables: list[Any], name: str, finish: Callable[[np.ndarray], np.ndarray]) -> None:
        if not variables:
            return
        values = [np.asarray(variable) for variable in variables]
        total = finish(self._collectives.sum(np.concatenate([v.astype(np.float64).ravel() for v in values]), name))
        for variable, value in zip(variables, values, strict=True):
            part, total = total[: value.size], total[value.size :]
            variable.assign(part.reshape(value.shape).astype(value.dtype))


def _digest(variable: Any) -> int:
    return zlib.crc32(np.asarray(variable).tobytes())


class _Counting(keras.callbacks.Callback):
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


class SaveCheckpoint(_Counting):
    """A checkpoint after each epoch, and every `checkpoint_steps` steps within; which epoch was the best.

    A checkpoint that can't be written is told, and training goes on: the one before it serves.

    Args:
        plan: the directory, the attempt, where training starts, the options.
        agreement: makes moving statistics and metric states the same on all ranks before they are saved.
        users: the user's callbacks on this rank, by position: what they remember is saved too.
        steps: steps in an epoch.
        report: takes what has happened, on rank 0.

    Attributes:
        best_epoch: from 0; -1 before there is one.
    """

    def __init__(
        self,
        plan: TrainPlan,
        agreement: AgreeOnEpoch,
        users: Mapping[int, keras.callbacks.Callback],
        steps: int,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__(plan.start)
        self._plan = plan
        self._agreement = agreement
        self._users = users
        self._steps = steps
        self._report = report
        self._checkpoints = Checkpoints(plan.checkpoints, plan.keep_checkpoints)
        self._world = agreement.world
        self._last = plan.start or Checkpoint(0, 0, self._world.size, plan.attempt)

    @property
    def best_epoch(self) -> int:
        """The best epoch so far."""
        return self._last.best_epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """In an epoch that goes on, metrics go on too: rank 0 holds what all ranks had."""
        super().on_epoch_begin(epoch, logs)
        if self.step and self._world.is_first:
            for variable, state in zip(self.model.metrics_variables, self._last.metrics, strict=True):
                variable.assign(np.reshape(state, variable.shape).astype(str(variable.dtype)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write one within the epoch, where it is time."""
        super().on_train_batch_end(batch, logs)
        every = self._plan.checkpoint_steps
        if every and self.step % every == 0 and self.step < self._steps:
            metrics = self._agreement.within_epoch()
            self._save(replace(self._last, epoch=self.epoch, step=self.step, metrics=metrics))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        monitor = self._plan.monitor
        if self._plan.restore_best_weights and monitor not in values:
            raise OptionError(
                explain(
                    f"The best epoch can't be told by monitor={monitor!r}.",
                    expected="a metric that the model reports",
                    received=", ".join(values),
                    fix=hint(monitor, values),
                )
            )
        history = {name: [*self._last.history.get(name, []), value] for name, value in values.items()}
        now = replace(self._last, epoch=epoch + 1, step=0, history=history, metrics=[], attempt=self._plan.attempt)
        value = values.get(monitor, math.nan)
        if is_better(value, self._last.best_value, self._mode()):
            now = replace(now, best_epoch=epoch, best_value=value, best_file=now.model_file)
        self._save(now)

    def _mode(self) -> str:
        """Whether the least or the greatest is best; the metric says so, as to Keras's EarlyStopping."""
        name = self._plan.monitor.removeprefix("val_")
        if self._plan.monitor_mode != "auto":
            return self._plan.monitor_mode
        metrics = [metric for held in self.model.metrics for metric in getattr(held, "metrics", [held])]
        directions = {metric.name: getattr(metric, "_direction", None) for metric in metrics}
        direction = "down" if name == "loss" else directions.get(name)
        if direction is None and self._plan.restore_best_weights:
            raise OptionError(
                explain(
                    f"It can't be told whether monitor={self._plan.monitor!r} is best when least or greatest.",
                    expected="monitorMode='min' or monitorMode='max'",
                    received="monitorMode='auto', and a metric that doesn't say so",
                )
            )
        return "max" if direction == "up" else "min"

    def best(self) -> bytes | None:
        """The model of the best epoch; None where there is none, or where it has been lost, which is told."""
        if not self._last.best_file:
            return None
        try:
            return self._plan.checkpoints.read(self._last.best_file)
        except StoreError as error:
            self._warn(f"The best epoch's weights are lost, the last ones are returned. {error}")
            return None

    def _save(self, checkpoint: Checkpoint) -> None:
        seeds = [np.asarray(variable).tolist() for variable in seed_states(self.model)]
        now = replace(checkpoint, attempt=self._plan.attempt, workers=self._world.size, seeds=seeds)
        if self._world.is_first:
            try:
                self._checkpoints.save(now, to_bytes(self.model), callback_state(self._users))
                self._report({"kind": "checkpoint", "epoch": now.epoch, "step": now.step})
            except OSError as error:  # also of the temporary directory that Keras writes to
                self._warn(f"No checkpoint at {now.place}, the one before it serves. {error}")
                best = ("best_epoch", "best_value", "best_file")
                now = replace(now, **{name: getattr(self._last, name) for name in best})
        self._last = now

    def _warn(self, text: str) -> None:
        self._report({"kind": "warning", "text": text})


def is_better(value: float, than: float, mode: str) -> bool:
    """Whether a value of the monitored metric is better than the best so far, NaN where there is none."""
    if math.isnan(value):
        return False
    return math.isnan(than) or (value < than if mode == "min" else value > than)


class ReportProgress(_Counting):
    """Tells the driver how far training is, a few times a second and after each epoch."""

    def __init__(
        self,
        report: Callable[[dict[str, Any]], None],
        rows: int,
        clock: Callable[[], float],
        start: Checkpoint | None = None,
    ) -> None:
        super().__init__(start)
        self._report = report
        self._rows = rows
        self._clock = clock
        self._began = self._told = self._trained = clock()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the epoch's clock."""
        super().on_epoch_begin(epoch, logs)
        self._began = self._trained = self._clock()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell the step, if it is time."""
        super().on_train_batch_end(batch, logs)
        now = self._trained = self._clock()
        if now - self._told >= _REPORT_SECONDS:
            self._told = now
            loss = float((logs or {}).get("loss", math.nan))
            self._report({"kind": "step", "epoch": self.epoch, "step": self.step, "loss": loss})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell the epoch's metrics; its rate is that of training, without validation and checkpoint."""
        seconds = self._trained - self._began
        values = {name: float(value) for name, value in (logs or {}).items()}
        part = 1.0  # of the epoch that was trained now
        if self._start is not None and self._start.epoch == epoch and self.step:
            part = (self.step - self._start.step) / self.step
        self._report(
            {
                "kind": "epoch",
                "epoch": epoch,
                "logs": values,
                "seconds": seconds,
                "rows_per_second": part * self._rows / seconds if seconds > 0 else 0.0,
            }
        )


class MarkPosition(_Counting):
    """Tells the rank's process, at each step, where training stands: what a watchdog is shown.

    It runs before and after all other callbacks, so that a rank that stands in one of them has marked less than the
    others, who wait for it in the step.
    """

    def __init__(self, mark: Callable[[str], None], start: Checkpoint | None) -> None:
        super().__init__(start)
        self._mark = mark

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


class StopTogether(keras.callbacks.Callback):
    """A rank that wants to stop takes all with it, at the same step.

    Within an epoch its wish travels with the next step's gradients, and all stop after that step; at an epoch's
    end it is summed at once.
    """

    def __init__(self, collectives: Collectives, reducer: GradientReducer) -> None:
        super().__init__()
        self._collectives = collectives
        self._reducer = reducer

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hand this rank's wish in; do what was agreed."""
        if self._collectives.world.size == 1:
            return
        if self.model.stop_training:
            self._reducer.wants_stop.assign(1.0)
        self.model.stop_training = bool(self._reducer.stop_votes.numpy() > 0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Agree at once."""
        wish = max(float(self.model.stop_training), float(self._reducer.wants_stop.numpy()))
        votes = self._collectives.sum(np.array([wish]), "spark_dl.stop")
        self.model.stop_training = bool(votes[0] > 0)


_WRITES_FILES = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.RemoteMonitor,
)


def runs_on(callback: keras.callbacks.Callback, rank: int) -> bool:
    """Whether a user's callback runs on this rank: those that write files or logs run on rank 0 alone."""
    return rank == 0 or not isinstance(callback, _WRITES_FILES)
