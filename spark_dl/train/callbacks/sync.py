"""The callbacks that make Keras's own trainer a distributed one, in the order in which they run.

MarkPosition    where training stands, for the watchdog: first and last (progress.py)
AgreeOnEpoch    metrics, logs and moving statistics over all ranks, so that all that follow see the same
WarmUp          the learning rate (warm_up.py)
(the user's)
CompareRanks    refuses to go on where they have driven the ranks apart (compare.py)
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
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.log_values import plain_logs
from spark_dl.train.metrics.joins import MetricJoin
from spark_dl.train.metrics.states import MetricStates, assign_states
from spark_dl.train.metrics.step_logs import TEST_HOOKS, TRAIN_HOOKS, join_logs, read_logs, results_of
from spark_dl.train.optimizer import GradientReducer

__all__ = ["SyncEarlyStop", "SyncMetrics", "runs_on"]


class SyncMetrics(keras.callbacks.Callback):
    """Metrics are the metrics of all rows: the ranks' states are joined, their values never averaged.

    Logs that a step of the model's own returns as plain tensors become their mean over the ranks (step_logs.py).
    Moving statistics (all non-trainable weights that are floats, such as BatchNormalization's) become the mean
    over the ranks at the end of each epoch, before validation.

    Args:
        collectives: Of this rank's World.
        reducer: Knows the rows of the last step; without it each rank counts alike.
        followers: The callbacks that follow, of all ranks. Where one of them reads the logs of each step, these are
            joined at each step, which takes a collective.
        keep_test_logs: Whether the logs of validation may be other than the metrics' results.
        joins: How the states of metrics join that aren't Keras's own; others are summed.
    """

    def __init__(
        self,
        collectives: Collectives,
        reducer: GradientReducer | None = None,
        followers: Sequence[keras.callbacks.Callback] = (),
        keep_test_logs: bool = False,
        joins: Sequence[MetricJoin] = (),
    ) -> None:
        super().__init__()
        self.world = collectives.world
        self._collectives = collectives
        self._reducer = reducer
        self._joins_steps = read_logs(followers, TRAIN_HOOKS)
        self._joins_test_steps = read_logs(followers, TEST_HOOKS)
        self._step_logs: dict[str, Any] = {}
        self._joins = joins
        self._states: MetricStates | None = None
        self._begun = False
        self._training_logs: dict[str, Any] = {}
        self._validation_logs: dict[str, Any] = {}
        self._seen: list[int] = []
        if keep_test_logs or self._joins_test_steps:
            # Not a method: where one is defined, Keras waits for each step of validation.
            self.on_test_batch_end = self._test_batch_end

    def on_train_begin(self, logs: Any = None) -> None:
        """Note the moving statistics as they are."""
        self._seen = [_digest(variable) for variable in self._moving()]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the last epoch; Keras has reset its metrics."""
        self._step_logs, self._training_logs, self._validation_logs = {}, {}, {}
        self._metric_states.begin()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the step's logs; join them where a callback that follows reads them."""
        self._step_logs = dict(logs or {})
        if self._joins_steps and logs and self.world.size > 1:
            self._join_step(logs, validation=False)

    def _test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step_logs = dict(logs or {})
        if self._joins_test_steps and logs and self.world.size > 1:
            self._join_step(logs, validation=True)

    def on_test_begin(self, logs: Any = None) -> None:
        """Training of the epoch is over, and Keras is about to reset its metrics."""
        self._training_logs = self._end_training()
        self._step_logs = {}
        self._begun = False

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Keras has reset its metrics before the first."""
        if not self._begun:
            self._metric_states.begin()
            self._begun = True

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Validation is over. Keras would hand on this rank's own logs, so these are kept for the epoch's end."""
        joined = self._joined(validation=True)
        self._validation_logs = {f"val_{name}": value for name, value in joined.items()}
        if logs is not None:
            logs.clear()
            logs.update(joined)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the agreed values in the place of this rank's own."""
        self._training_logs = self._training_logs or self._end_training()
        self.on_train_end(logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """What Keras hands on are this rank's own logs here, too."""
        if logs is not None and self._training_logs:
            logs.clear()
            logs.update({**self._training_logs, **self._validation_logs})

    def within_epoch(self) -> list[list[float]]:
        """For a checkpoint in mid-epoch: agree on moving statistics; the metric states of all ranks' rows.

        The metrics themselves go on on each rank.
        """
        self._agree_on_moving()
        states = self._metric_states.over_ranks(self._collectives, "spark_dl.metrics_within")
        return [state.ravel().tolist() for state in states]

    @property
    def _metric_states(self) -> MetricStates:
        if self._states is None:
            self._states = MetricStates(self.model, self._joins)
        return self._states

    def _end_training(self) -> dict[str, Any]:
        self._agree_on_moving()
        return self._joined(validation=False)

    def _joined(self, validation: bool) -> dict[str, Any]:
        """The logs of the last step, joined; the metrics' states are joined, too."""
        rows = 1.0
        if self._reducer is not None:
            rows = float(self._reducer.test_rows if validation else self._reducer.step_rows)
        before = results_of(self.model) if self._step_logs else {}
        return join_logs(self.model, self._step_logs, before, self._metrics, rows, self._collectives)

    def _join_step(self, logs: dict[str, Any], validation: bool) -> None:
        """Join the logs of a step; each rank's metrics go on as they are."""
        variables = self.model.metrics_variables
        states = [np.array(variable) for variable in variables]
        joined = self._joined(validation)
        for variable, state in zip(variables, states, strict=True):
            variable.assign(state)
        logs.clear()
        logs.update(joined)

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

    def _metrics(self) -> dict[str, Any]:
        assign_states(self.model, self._metric_states.over_ranks(self._collectives, "spark_dl.metrics"))
        return plain_logs(self.model.get_metrics_result())

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


class SyncEarlyStop(keras.callbacks.Callback):
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
