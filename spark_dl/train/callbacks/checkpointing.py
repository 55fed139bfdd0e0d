"""Callback that writes checkpoints and keeps track of the best epoch."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np

from spark_dl.errors import OptionError, StoreError
from spark_dl.log_values import plain_value
from spark_dl.train.callbacks.finite import first_not_finite, losses_not_finite
from spark_dl.train.callbacks.progress import Counting
from spark_dl.train.callbacks.state import CallbackState
from spark_dl.train.callbacks.sync import SyncMetrics
from spark_dl.train.checkpoint import Checkpoint, Checkpoints
from spark_dl.train.metrics.best import mode_of, no_best_epoch, no_direction, unknown_monitor
from spark_dl.train.metrics.states import assign_states
from spark_dl.train.model.optimizers import unsaved_state
from spark_dl.train.model.parts import seed_states
from spark_dl.train.model.serialization import to_bytes
from spark_dl.train.plan import TrainPlan
from spark_dl.train.reports import TrainReporter, WarningReport

__all__ = ["SaveCheckpoint", "is_better"]

_log = logging.getLogger(__name__)


class SaveCheckpoint(Counting):
    """Callback that writes a checkpoint after each epoch and every `checkpoint_steps` steps, and tracks the best epoch.

    If a checkpoint can't be written, it reports a warning and training continues; the previous checkpoint stays valid.

    Args:
        plan: The training plan, with the checkpoint directory, the attempt, the start and the options.
        agreement: The callback that synchronizes moving statistics and metric states over ranks before they are saved.
        state: The state of the user's callbacks on this rank, which is saved, too.
        steps: The number of steps in an epoch.
        report: The function that sends reports to the driver; called on rank 0.

    Attributes:
        best_epoch: The best epoch so far, from 0; -1 if there is none.
    """

    def __init__(
        self,
        plan: TrainPlan,
        agreement: SyncMetrics,
        state: CallbackState,
        steps: int,
        report: TrainReporter,
    ) -> None:
        super().__init__(plan.start)
        self._plan = plan
        self._agreement = agreement
        self._state = state
        self._steps = steps
        self._report = report
        self._checkpoints = Checkpoints(plan.checkpoints, plan.options.keep_checkpoints)
        self._world = agreement.world
        self._last = plan.start or Checkpoint(0, 0, self._world.size, plan.attempt)

    @property
    def best_epoch(self) -> int:
        """Best epoch so far, from 0; -1 if there is none."""
        return self._last.best_epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restore the metrics of a resumed epoch on rank 0, which holds the joined state of all ranks."""
        super().on_epoch_begin(epoch, logs)
        if self.step and self._world.is_leader:
            assign_states(self.model, self._last.metrics)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write a checkpoint within the epoch every `checkpoint_steps` steps."""
        super().on_train_batch_end(batch, logs)
        every = self._plan.options.checkpoint_steps
        if every and self.step % every == 0 and self.step < self._steps:
            metrics = self._agreement.within_epoch()
            self._save(replace(self._last, epoch=self.epoch, step=self.step, metrics=metrics))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's checkpoint and update the best epoch.

        Raises:
            OptionError: restoreBestWeights is on, and the monitored metric is missing, has several values or an unknown
                direction.
        """
        values = {name: plain_value(value) for name, value in (logs or {}).items()}
        monitor = self._plan.monitor
        if self._plan.options.restore_best_weights and monitor not in values:
            raise OptionError(unknown_monitor(monitor, values))
        value = values.get(monitor, math.nan)
        if isinstance(value, list):
            if self._plan.options.restore_best_weights:
                raise OptionError(no_best_epoch(monitor, np.size(value)))
            value = math.nan
        history = {name: [*self._last.history.get(name, []), value] for name, value in values.items()}
        now = replace(self._last, epoch=epoch + 1, step=0, history=history, metrics=[], attempt=self._plan.attempt)
        now = replace(now, stopped=bool(getattr(self.model, "stop_training", False)))
        better = math.isfinite(value) and is_better(value, self._last.best_value, self._mode())
        if better and not losses_not_finite(values) and not first_not_finite(self.model):
            now = replace(now, best_epoch=epoch, best_value=value, best_file=now.model_file)
        self._save(now)

    def _mode(self) -> str:
        """Return "min" or "max": the option, or the metric's own direction."""
        if self._plan.options.monitor_mode != "auto":
            return self._plan.options.monitor_mode
        mode = mode_of(self.model, self._plan.monitor)
        if not mode and self._plan.options.restore_best_weights:
            raise OptionError(no_direction(self._plan.monitor))
        return mode or "min"

    def best(self) -> bytes | None:
        """Return the best epoch's model as `.keras` bytes.

        Returns:
            None, with a warning, if there is no best epoch or its file is lost.
        """
        if not self._last.best_file:
            if self._last.history:
                text = f"No epoch has finite weights, finite losses and a finite {self._plan.monitor}"
                self._warn(f"{text}, so that none is the best one. The last weights are returned.")
            return None
        try:
            return self._plan.checkpoints.read(self._last.best_file)
        except StoreError as error:
            self._warn(f"The best epoch's weights are lost, the last ones are returned. {error}")
            return None

    def _save(self, checkpoint: Checkpoint) -> None:
        seeds = [np.asarray(variable).tolist() for variable in seed_states(self.model)]
        now = replace(checkpoint, attempt=self._plan.attempt, workers=self._world.size, seeds=seeds)
        if self._world.is_leader:
            try:
                self._checkpoints.save(now, to_bytes(self.model), self._state.content(), unsaved_state(self.model))
                _log.info("Checkpoint written at %s.", now.position)
            except OSError as error:  # also raised for the temporary directory that Keras writes to
                self._warn(f"No checkpoint at {now.position}, the previous one is used. {error}")
                best = ("best_epoch", "best_value", "best_file")
                now = replace(now, **{name: getattr(self._last, name) for name in best})
        self._last = now

    def _warn(self, text: str) -> None:
        self._report(WarningReport(text))


def is_better(value: float, than: float, mode: str) -> bool:
    """Return whether a value of the monitored metric beats the best so far, which is NaN if there is none."""
    if math.isnan(value):
        return False
    return math.isnan(than) or (value < than if mode == "min" else value > than)
