"""The callbacks that make Keras's own trainer a distributed one, in the order in which they run.

AgreeOnEpoch    first: metrics and moving statistics over all ranks, so that all that follow see the same
(the user's)
SaveCheckpoint  rank 0
ReportProgress  rank 0
StopTogether    last: what any callback decided on any rank
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.errors import OptionError, explain, hint
from spark_dl.train.checkpoint import Checkpoints
from spark_dl.train.model_bytes import to_bytes
from spark_dl.train.optimizer import GradientReducer

__all__ = ["AgreeOnEpoch", "ReportProgress", "SaveCheckpoint", "StopTogether", "is_better", "runs_on"]

_REPORT_SECONDS = 0.25


class AgreeOnEpoch(keras.callbacks.Callback):
    """Metrics are the metrics of all rows: the ranks' states are summed, their values never averaged.

    Moving statistics (all non-trainable weights that are floats, such as BatchNormalization's) become the mean
    over the ranks at the end of each epoch, before validation.
    """

    def __init__(self, collectives: Collectives) -> None:
        super().__init__()
        self._collectives = collectives
        self._training_logs: dict[str, float] = {}
        self._validation_logs: dict[str, float] = {}

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

    def _end_training(self) -> dict[str, float]:
        moving = [v for v in self.model.non_trainable_variables if "float" in str(v.dtype)]
        size = self._collectives.world.size
        self._replace(moving, "spark_dl.moving", lambda total: total / size)
        return self._metrics()

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


class SaveCheckpoint(keras.callbacks.Callback):
    """Each epoch's model, and which was the best.

    Args:
        checkpoints: where they are written.
        monitor: the metric that tells the best.
        mode: "min" or "max".
        required: whether an epoch without that metric is an error.

    Attributes:
        best_epoch: from 0; -1 before there is one.
    """

    def __init__(self, checkpoints: Checkpoints, monitor: str, mode: str, required: bool = False) -> None:
        super().__init__()
        self.best_epoch = -1
        self._required = required
        self._checkpoints = checkpoints
        self._monitor = monitor
        self._mode = mode
        self._best_value = math.nan

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the checkpoint."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        if self._required and self._monitor not in values:
            raise OptionError(
                explain(
                    f"The best epoch can't be told by monitor={self._monitor!r}.",
                    expected="a metric that the model reports",
                    received=", ".join(values),
                    fix=hint(self._monitor, values),
                )
            )
        value = values.get(self._monitor, math.nan)
        best = is_better(value, self._best_value, self._mode)
        if best:
            self.best_epoch, self._best_value = epoch, value
        self._checkpoints.save(epoch, to_bytes(self.model), values, best)


def is_better(value: float, than: float, mode: str) -> bool:
    """Whether a value of the monitored metric is better than the best so far, NaN where there is none."""
    if math.isnan(value):
        return False
    return math.isnan(than) or (value < than if mode == "min" else value > than)


class ReportProgress(keras.callbacks.Callback):
    """Tells the driver how far training is, a few times a second and after each epoch."""

    def __init__(self, report: Callable[[dict[str, Any]], None], rows: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self._report = report
        self._rows = rows
        self._clock = clock
        self._epoch = 0
        self._began = self._told = clock()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the epoch's clock."""
        self._epoch = epoch
        self._began = self._clock()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell the step, if it is time."""
        now = self._clock()
        if now - self._told >= _REPORT_SECONDS:
            self._told = now
            loss = float((logs or {}).get("loss", math.nan))
            self._report({"kind": "step", "epoch": self._epoch, "step": batch + 1, "loss": loss})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell the epoch's metrics."""
        seconds = self._clock() - self._began
        values = {name: float(value) for name, value in (logs or {}).items()}
        self._report(
            {
                "kind": "epoch",
                "epoch": epoch,
                "logs": values,
                "seconds": seconds,
                "rows_per_second": self._rows / seconds,
            }
        )


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
