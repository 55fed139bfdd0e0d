"""The callbacks that make Keras's own trainer a distributed one, in the order in which they run.

MarkPosition    where training stands, for the watchdog: first and last (progress.py)
AgreeOnEpoch    metrics and moving statistics over all ranks, so that all that follow see the same
WarmUp          the learning rate (warm_up.py)
(the user's)
MeasureSpeed    how fast the ranks together are (progress.py)
KeepRows        near the ranks, where reading holds them up (keep_rows.py)
SaveCheckpoint  written by rank 0 (saving.py)
WatchFinite     rank 0 (finite.py)
ReportProgress  rank 0 (progress.py)
TraceSteps      rank 0 (profile.py)
StopTogether    what any callback decided on any rank
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.train.optimizer import GradientReducer

__all__ = ["AgreeOnEpoch", "StopTogether", "runs_on"]


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
        if float(self._reducer.voted) > 0:
            self.model.stop_training = True
        elif self.model.stop_training:
            self.model.stop_training = False  # until the others know

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
