"""The training loop of one rank: Keras's own `fit`, with the package's callbacks and a distributed optimizer."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import keras

from spark_dl.collectives import Collectives
from spark_dl.data.dataset import WEIGHT
from spark_dl.log_values import plain_value
from spark_dl.train.callbacks.ask_driver import AskDriver
from spark_dl.train.callbacks.checkpointing import SaveCheckpoint
from spark_dl.train.callbacks.compare_ranks import CompareRanks
from spark_dl.train.callbacks.finite import WatchFinite, first_not_finite
from spark_dl.train.callbacks.keep_rows import KeepRows
from spark_dl.train.callbacks.profile import TraceSteps
from spark_dl.train.callbacks.progress import MeasureSpeed, ReportProgress, SendHeartbeats
from spark_dl.train.callbacks.state import CallbackState
from spark_dl.train.callbacks.sync import SyncEarlyStop, SyncMetrics, runs_on
from spark_dl.train.callbacks.warm_up import WarmUp
from spark_dl.train.feed import Feed
from spark_dl.train.kept import Keeping
from spark_dl.train.metrics.joins import MetricJoin, metric_joins
from spark_dl.train.model.examples import examples_of_model
from spark_dl.train.model.keras_settings import apply_settings
from spark_dl.train.model.serialization import register, settings_of, to_bytes
from spark_dl.train.plan import RankTraining, TrainPlan, TrainResult
from spark_dl.train.prepared import PreparedModel, prepare
from spark_dl.train.private import PoissonFeed, ReportEpsilon
from spark_dl.train.reports import TrainReporter
from spark_dl.train.step import has_own_test_logs

__all__ = ["train"]

_FINAL_MODEL = "final.keras"


def train(
    plan: TrainPlan,
    collectives: Collectives,
    report: TrainReporter,
    heartbeat: Callable[[str], None] = lambda where: None,
    reply: Callable[[], dict[str, Any]] | None = None,
    kept: dict[str, Any] | None = None,
) -> RankTraining:
    """Train the plan's model on this rank's shard.

    Args:
        plan: The training plan, the same on every rank.
        collectives: The collectives of this rank's World.
        report: The function that sends reports to the driver; called on rank 0.
        heartbeat: The function that takes the training position as text; called on every rank.
        reply: The function that waits for the driver's verdict after each epoch, called on every rank; None if the
            driver isn't asked.
        kept: What this process keeps between trainings; None for nothing.

    Returns:
        The training and its result. Rank 0 has written the final model to the workspace.
    """
    heartbeat("the beginning")
    objects = cloudpickle.loads(plan.custom_objects)
    register(objects)
    content = plan.workspace.read(plan.initial_model)
    # Within this scope, models are saved under the object names that they were loaded with.
    settings = settings_of(content)
    with apply_settings(settings), keras.saving.custom_object_scope(objects):
        feed = Feed.of(plan, collectives.world)
        if plan.privacy:
            feed = PoissonFeed.over(feed, plan.privacy)
        keeping = Keeping(kept, plan, content, feed, collectives.world)
        keras.utils.set_random_seed((plan.options.seed * 1_000_003 + collectives.world.rank) % 2**32)
        prepared = prepare(plan, content, feed, collectives, keeping.take())
        result, is_final = _train(plan, prepared, feed, collectives, report, heartbeat, reply)
        keeping.keep(prepared)
        return RankTraining(result, prepared.model, is_final, settings, feed.validation)


def _train(
    plan: TrainPlan,
    prepared: PreparedModel,
    feed: Feed,
    collectives: Collectives,
    report: TrainReporter,
    heartbeat: Callable[[str], None],
    reply: Callable[[], dict[str, Any]] | None,
) -> tuple[TrainResult, bool]:
    """Train a prepared model, with the custom objects and Keras's settings in effect.

    Returns:
        The result, and whether its model is the prepared one, and not the best epoch's, as rank 0 knows.
    """
    world, model, reducer, clock = collectives.world, prepared.model, prepared.reducer, prepared.clock
    user_callbacks = dict(enumerate(cloudpickle.loads(plan.callbacks)))
    joins = _metric_joins(plan, model) if world.size > 1 else ()
    followers = list(user_callbacks.values())
    agreement = SyncMetrics(collectives, reducer, followers, has_own_test_logs(model), joins, plan.state_rules)
    rows = plan.dataset.rows(validation=False)
    measure = MeasureSpeed(collectives, clock, rows * plan.passes, feed.steps, time.monotonic, plan.start)
    own = {position: callback for position, callback in user_callbacks.items() if runs_on(callback, world.rank)}
    remembered = plan.workspace.read(plan.callback_state) if plan.callback_state else b""
    state = CallbackState(own)
    prepared.ahead.begin(feed.steps, plan.options.checkpoint_steps, plan.start.step if plan.start else 0)
    saving = SaveCheckpoint(plan, agreement, state, feed.steps, report)
    rows_kept = KeepRows(measure, feed, plan.options.epochs, report if world.is_leader else lambda content: None)
    callbacks = _OneTraining(
        [
            SendHeartbeats(heartbeat, plan.start),
            prepared.ahead,
            *prepared.before,
            agreement,
            *prepared.after,
            *([ReportEpsilon(plan.privacy.epsilons)] if plan.privacy else ()),
            *_warm_up(plan, feed),
            *own.values(),
            CompareRanks(collectives, agreement.moving_variables),
            measure,
            *([AskDriver(report, reply)] if reply else ()),
            rows_kept,
            saving,
            *(_of_leader(plan, feed, measure, report) if world.is_leader else ()),
            SyncEarlyStop(collectives, reducer),
            SendHeartbeats(heartbeat, plan.start),
        ],
        begun=functools.partial(state.begin, remembered),
        add_history=True,
        model=model,
        verbose=0,
        epochs=plan.options.epochs,
        steps=feed.steps,
    )
    seconds = _fit(model, plan, feed, callbacks)
    best = _write_model(plan, model, saving) if world.is_leader else None
    return _result(plan, model, saving, seconds, best), best is None


def _result(
    plan: TrainPlan, model: keras.Model, saving: SaveCheckpoint, seconds: float, best: bytes | None
) -> TrainResult:
    """Return the result of a training whose final model is the best epoch's, or else the last one."""
    return TrainResult(
        history=_history(plan, model),
        rows=plan.dataset.rows(validation=False),
        validation_rows=plan.dataset.rows(validation=True),
        seconds=seconds,
        best_epoch=saving.best_epoch,
        model_file=_FINAL_MODEL,
        non_finite="" if best else first_not_finite(model),
    )


def _metric_joins(plan: TrainPlan, model: keras.Model) -> list[MetricJoin]:
    tensors = plan.dataset.tensors
    weighted = any(tensor.role == WEIGHT for tensor in tensors) or bool(plan.class_weights)
    return metric_joins(model, lambda: examples_of_model(model, tensors), weighted)


def _write_model(plan: TrainPlan, model: keras.Model, saving: SaveCheckpoint) -> bytes | None:
    """Write the final model to the workspace; return the best epoch's where that is it."""
    best = saving.best() if plan.options.restore_best_weights else None
    plan.workspace.write(_FINAL_MODEL, best or to_bytes(model))
    return best


def _warm_up(plan: TrainPlan, feed: Feed) -> list[keras.callbacks.Callback]:
    rate, first = plan.learning_rate, plan.options.initial_epoch
    return [WarmUp(rate, feed.steps, plan.start, first)] if rate else []


def _of_leader(
    plan: TrainPlan, feed: Feed, measure: MeasureSpeed, report: TrainReporter
) -> list[keras.callbacks.Callback]:
    """Return the callbacks that run on rank 0 only, because it is the rank that reports."""
    progress = ReportProgress(report, measure, plan.options.epochs, time.monotonic, plan.start)
    tracing = [TraceSteps(plan.workspace, feed.steps)] if plan.options.profile else []
    return [WatchFinite(report), progress, *tracing]


def _history(plan: TrainPlan, model: keras.Model) -> dict[str, list[Any]]:
    """Return each metric's values over all epochs, including those before the starting checkpoint."""
    history = {**(plan.start.history if plan.start else {})}
    for name, values in getattr(model.history, "history", {}).items():
        history[name] = [*history.get(name, []), *map(plain_value, values)]
    return history


def _fit(model: keras.Model, plan: TrainPlan, feed: Feed, callbacks: _OneTraining) -> float:
    """Run Keras's `fit` from the plan's starting position; return how many seconds it took."""
    began = time.monotonic()
    done, taken = (plan.start.epoch, plan.start.step) if plan.start else (plan.options.initial_epoch, 0)
    if plan.start is not None and plan.start.stopped:
        done, taken = plan.options.epochs, 0
    finalize = model.optimizer.finalize_variable_values

    def finalize_at_end(variables: Any) -> None:
        # Averaged weights replace the trained ones at the end of training only, not after each call of `fit`.
        if callbacks.ends or model.stop_training:
            finalize(variables)

    model.optimizer.finalize_variable_values = finalize_at_end
    # Keras can't start within an epoch, so a partly trained epoch gets its own call of `fit`.
    parts = [(done, done + 1, taken)] if taken and done < plan.options.epochs else []
    parts += [(done + len(parts), plan.options.epochs, 0)]
    for first, last, skipped in parts:
        if first < last and not model.stop_training:
            callbacks.ends = last >= plan.options.epochs
            model.fit(
                feed.training(first_epoch=first, epochs=last, skip_steps=skipped),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=feed.steps - skipped,
                shuffle=False,  # the dataset is already shuffled
                validation_data=feed.validation,
                callbacks=callbacks,
                verbose=0,
            )
    model.optimizer.finalize_variable_values = finalize
    if done >= plan.options.epochs:  # only the end of training is left
        callbacks.on_train_begin()
        finalize(model.trainable_weights)
        callbacks.on_train_end()
    return time.monotonic() - began


class _OneTraining(keras.callbacks.CallbackList):
    """Callback list that makes several calls of `fit` one training, which begins once and ends once.

    Args:
        callbacks: The callbacks, in the order in which they run.
        begun: The function to call after `on_train_begin` of all callbacks.
        **others: Arguments of `keras.callbacks.CallbackList`.

    Attributes:
        ends: Whether the current call of `fit` is the last.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback], begun: Callable[[], None], **others: Any) -> None:
        super().__init__(callbacks, **others)
        self.ends = True
        self._after_begin: Callable[[], None] | None = begun

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin training, in the first call of `fit` only."""
        if self._after_begin is not None:
            super().on_train_begin(logs)
            self._after_begin()
            self._after_begin = None

    def on_train_end(self, logs: Any = None) -> None:
        """End training, in the last call of `fit` or when training was stopped early."""
        if self.ends or self.model.stop_training:
            super().on_train_end(logs)
