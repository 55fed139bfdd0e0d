"""Callbacks that synchronize ranks, which makes Keras's own `fit` a distributed one.

All callbacks, in the order in which they run:

SendHeartbeats  training position for the rank monitor: first and last (progress.py)
StepsAhead      tells the train function where an epoch begins (../steps_ahead.py)
SyncMetrics     joins metrics, logs and moving statistics over ranks, so that all later callbacks see the same
WarmUp          learning rate warm-up (warm_up.py)
(the user's)
CompareRanks    fails if these callbacks made the ranks differ (compare_ranks.py)
MeasureSpeed    throughput of all ranks (progress.py)
AskDriver       stops all ranks if onEpoch returns True, before the epoch's checkpoint (ask_driver.py)
KeepRows        row cache, if ranks wait for input (keep_rows.py)
SaveCheckpoint  checkpoints, written by rank 0 (checkpointing.py)
WatchFinite     rank 0 (finite.py)
ReportProgress  rank 0 (progress.py)
TraceSteps      rank 0 (profile.py)
SyncEarlyStop   stops all ranks if a callback on any rank asks for it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import NEW_FILE_CALLBACKS, copied_value
from spark_dl.collectives import Collectives
from spark_dl.log_values import plain_logs
from spark_dl.train.metrics.joins import MetricJoin
from spark_dl.train.metrics.states import MetricStates, assign_states
from spark_dl.train.metrics.step_logs import TEST_HOOKS, TRAIN_HOOKS, join_logs, read_logs, results_of
from spark_dl.train.moving import MovingStates
from spark_dl.train.optimizer import GradientReducer

__all__ = ["SyncEarlyStop", "SyncMetrics", "runs_on"]


class SyncMetrics(keras.callbacks.Callback):
    """Callback that makes metrics those of all ranks' rows: their states are joined, their values never averaged.

    Logs that a custom step returns as plain tensors become their mean over the ranks (step_logs.py). Moving statistics
    (all non-trainable float weights, such as BatchNormalization's) become their mean over the ranks at the end of each
    epoch, before validation; states of the user's layers are joined by their rule (layer_states.py), if they have one.

    Args:
        collectives: The collectives of this rank's World.
        reducer: The reducer that knows the rows of the last step; without it all ranks have the same weight.
        followers: The callbacks that run after this one, of all ranks. If one of them reads the logs of each step,
            these are joined at each step, which takes a collective.
        keep_test_logs: Whether validation logs may be something other than metric results.
        joins: The join rules of metrics that aren't Keras's own; the states of all others are summed.
        state_rules: The join rules of layers' states, by their index in `non_trainable_variables`; all others become
            their mean.
    """

    def __init__(
        self,
        collectives: Collectives,
        reducer: GradientReducer | None = None,
        followers: Sequence[keras.callbacks.Callback] = (),
        keep_test_logs: bool = False,
        joins: Sequence[MetricJoin] = (),
        state_rules: Sequence[tuple[int, str]] = (),
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
        self._moving = MovingStates(collectives, dict(state_rules))
        self._changes_begun = False
        if state_rules:
            self.on_train_batch_begin = self._train_batch_begin
        if keep_test_logs or self._joins_test_steps:
            # Not a method: if the class defined one, Keras would wait for each validation step.
            self.on_test_batch_end = self._test_batch_end

    def on_train_begin(self, logs: Any = None) -> None:
        """Record the initial moving statistics."""
        self._moving.begin(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Discard the last epoch's logs; Keras has reset its metrics."""
        self._step_logs, self._training_logs, self._validation_logs = {}, {}, {}
        self._metric_states.begin()
        self._changes_begun = False

    def _train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self._changes_begun:
            self._moving.begin_changes()
            self._changes_begun = True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Store the step's logs; join them if a later callback reads them."""
        self._step_logs = dict(logs or {})
        if self._joins_steps and logs and self.world.size > 1:
            self._join_step(logs, validation=False)

    def _test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step_logs = dict(logs or {})
        if self._joins_test_steps and logs and self.world.size > 1:
            self._join_step(logs, validation=True)

    def on_test_begin(self, logs: Any = None) -> None:
        """Join the training logs before Keras resets its metrics for validation."""
        self._training_logs = self._end_training()
        self._step_logs = {}
        self._begun = False
        self._set_validating(True)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Record the initial metric states before the first validation batch, after Keras has reset them."""
        if not self._begun:
            self._metric_states.begin()
            self._begun = True

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Join the validation logs and store them for the epoch's end, where Keras passes on this rank's own."""
        self._set_validating(False)
        joined = self._joined(validation=True)
        self._validation_logs = {f"val_{name}": value for name, value in joined.items()}
        if logs is not None:
            logs.clear()
            logs.update(joined)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Replace this rank's logs by the joined ones."""
        if self._training_logs:
            self._moving.join(self.model)  # validation may have changed states of layers, too
        self._training_logs = self._training_logs or self._end_training()
        self.on_train_end(logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Replace this rank's logs by the joined ones, here too."""
        if logs is not None and self._training_logs:
            logs.clear()
            logs.update({**self._training_logs, **self._validation_logs})

    def moving_variables(self) -> list[Any]:
        """Return the non-trainable variables that are joined at each epoch's end."""
        return self._moving.variables(self.model)

    def within_epoch(self) -> list[list[float]]:
        """Average the moving statistics and return the joined metric states, for a checkpoint within an epoch.

        The metrics of each rank are unchanged.
        """
        self._moving.join(self.model)
        states = self._metric_states.over_ranks(self._collectives, "spark_dl.metrics_within")
        return [state.ravel().tolist() for state in states]

    def _set_validating(self, validating: bool) -> None:
        if self._reducer is not None:
            self._reducer.validating.assign(validating)

    @property
    def _metric_states(self) -> MetricStates:
        if self._states is None:
            self._states = MetricStates(self.model, self._joins)
        return self._states

    def _end_training(self) -> dict[str, Any]:
        self._moving.join(self.model)
        return self._joined(validation=False)

    def _joined(self, validation: bool) -> dict[str, Any]:
        """Join the metric states over the ranks and return the joined logs of the last step."""
        rows = 1.0
        if self._reducer is not None:
            rows = float(self._reducer.test_rows if validation else self._reducer.step_rows)
        before = results_of(self.model) if self._step_logs else {}
        return join_logs(self.model, self._step_logs, before, self._metrics, rows, self._collectives)

    def _join_step(self, logs: dict[str, Any], validation: bool) -> None:
        """Join the logs of a step; each rank's metric states are unchanged."""
        variables = self.model.metrics_variables
        states = [copied_value(variable) for variable in variables]
        joined = self._joined(validation)
        for variable, state in zip(variables, states, strict=True):
            variable.assign(state)
        logs.clear()
        logs.update(joined)

    def _metrics(self) -> dict[str, Any]:
        assign_states(self.model, self._metric_states.over_ranks(self._collectives, "spark_dl.metrics"))
        return plain_logs(self.model.get_metrics_result())


class SyncEarlyStop(keras.callbacks.Callback):
    """Callback that stops all ranks at the same step if any rank wants to stop.

    Within an epoch the stop vote is sent with the next step's gradients, and all ranks stop after that step; at an
    epoch's end the votes are summed at once.
    """

    def __init__(self, collectives: Collectives, reducer: GradientReducer) -> None:
        super().__init__()
        self._collectives = collectives
        self._reducer = reducer

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Submit this rank's stop vote and apply the result."""
        if self._collectives.world.size == 1:
            return
        if self.model.stop_training:
            self._reducer.wants_stop.assign(1.0)
        if float(self._reducer.voted) > 0:
            self.model.stop_training = True
        elif self.model.stop_training:
            self.model.stop_training = False  # until all ranks have the vote

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Sum the ranks' stop votes and apply the result."""
        wish = max(float(self.model.stop_training), float(self._reducer.wants_stop.numpy()))
        votes = self._collectives.sum(np.array([wish]), "spark_dl.stop")
        self.model.stop_training = bool(votes[0] > 0)


_WRITES_FILES = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.RemoteMonitor,
    *NEW_FILE_CALLBACKS,
)


def runs_on(callback: keras.callbacks.Callback, rank: int) -> bool:
    """Return whether a user's callback runs on this rank: those that write files or logs run on rank 0 only."""
    return rank == 0 or not isinstance(callback, _WRITES_FILES)
