"""The training loop of one rank: Keras's own `fit`, with the package's callbacks and a distributed optimizer."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import keras
import numpy as np

from spark_dl._compat.keras import is_seed
from spark_dl.collectives import Collectives
from spark_dl.data.dataset import WEIGHT
from spark_dl.log_values import plain_value
from spark_dl.train.augment import augment_features
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
from spark_dl.train.federated import federated_callbacks
from spark_dl.train.feed import Feed
from spark_dl.train.joined_losses import JoinedLosses
from spark_dl.train.metrics.joins import MetricJoin, metric_joins
from spark_dl.train.model.examples import examples_of_model
from spark_dl.train.model.keras_settings import apply_settings
from spark_dl.train.model.optimizers import restore_unsaved
from spark_dl.train.model.parts import seed_states, shift_seeds
from spark_dl.train.model.serialization import from_bytes, register, settings_of, to_bytes
from spark_dl.train.optimizer import GradientReducer, distribute
from spark_dl.train.plan import TrainPlan, TrainResult
from spark_dl.train.private import PoissonFeed, ReportEpsilon, private_steps
from spark_dl.train.reports import TrainReporter
from spark_dl.train.speed import StepClock
from spark_dl.train.step import build_state, compile_gradients, has_own_test_step, prepare_steps, quick_train_function

__all__ = ["train"]

_FINAL_MODEL = "final.keras"


def train(
    plan: TrainPlan,
    collectives: Collectives,
    report: TrainReporter,
    heartbeat: Callable[[str], None] = lambda where: None,
    reply: Callable[[], dict[str, Any]] | None = None,
) -> TrainResult:
    """Train the plan's model on this rank's shard.

    Args:
        plan: The training plan, the same on every rank.
        collectives: The collectives of this rank's World.
        report: The function that sends reports to the driver; called on rank 0.
        heartbeat: The function that takes the training position as text; called on every rank.
        reply: The function that waits for the driver's verdict after each epoch, called on every rank; None if the
            driver isn't asked.

    Returns:
        The training result. Rank 0 has written the final model to the workspace.
    """
    heartbeat("the beginning")
    objects = cloudpickle.loads(plan.custom_objects)
    register(objects)
    content = plan.workspace.read(plan.initial_model)
    # Within this scope, models are saved under the object names that they were loaded with.
    with apply_settings(settings_of(content)), keras.saving.custom_object_scope(objects):
        return _train(plan, content, collectives, report, heartbeat, reply)


def _train(
    plan: TrainPlan,
    content: bytes,
    collectives: Collectives,
    report: TrainReporter,
    heartbeat: Callable[[str], None],
    reply: Callable[[], dict[str, Any]] | None,
) -> TrainResult:
    """Run `train` with the custom objects and Keras's settings in effect."""
    world = collectives.world
    feed = Feed.of(plan, world)
    if plan.privacy:
        feed = PoissonFeed.over(feed, plan.privacy)
    keras.utils.set_random_seed((plan.options.seed * 1_000_003 + world.rank) % 2**32)
    model = _model(plan, content, collectives)
    clock = StepClock()
    before, after = federated_callbacks(plan, model, collectives)
    reducer = _prepare(model, plan, feed, collectives, clock)
    user_callbacks = dict(enumerate(cloudpickle.loads(plan.callbacks)))
    joins = _metric_joins(plan, model) if world.size > 1 else ()
    followers = list(user_callbacks.values())
    agreement = SyncMetrics(collectives, reducer, followers, has_own_test_step(model), joins, plan.state_rules)
    rows = plan.dataset.rows(validation=False)
    measure = MeasureSpeed(collectives, clock, rows * plan.passes, feed.steps, time.monotonic, plan.start)
    own = {position: callback for position, callback in user_callbacks.items() if runs_on(callback, world.rank)}
    remembered = plan.workspace.read(plan.callback_state) if plan.callback_state else b""
    state = CallbackState(own)
    saving = SaveCheckpoint(plan, agreement, state, feed.steps, report)
    keeping = KeepRows(measure, feed, plan.options.epochs, report if world.is_leader else lambda content: None)
    callbacks = _OneTraining(
        [
            SendHeartbeats(heartbeat, plan.start),
            *before,
            agreement,
            *after,
            *([ReportEpsilon(plan.privacy.epsilons)] if plan.privacy else ()),
            *_warm_up(plan, feed),
            *own.values(),
            CompareRanks(collectives, agreement.moving_variables),
            measure,
            *([AskDriver(report, reply)] if reply else ()),
            keeping,
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
    return _result(plan, model, saving, seconds, world.is_leader)


def _result(plan: TrainPlan, model: keras.Model, saving: SaveCheckpoint, seconds: float, leads: bool) -> TrainResult:
    """Return the result of a training that has ended; the leader writes the model."""
    best = _write_model(plan, model, saving) if leads else None
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


def _prepare(
    model: keras.Model, plan: TrainPlan, feed: Feed, collectives: Collectives, clock: StepClock
) -> GradientReducer:
    """Wrap the model's steps for distributed training; return the reducer of its gradients."""
    world = collectives.world
    reducer = GradientReducer(
        collectives,
        clock,
        accumulate=plan.options.gradient_accumulation,
        steps=feed.steps,
        fp16=plan.options.compression == "fp16" and world.size > 1,
    )
    if plan.start is not None:
        reducer.skip(plan.start.step)
    several = world.size > 1 or plan.options.gradient_accumulation > 1
    several = several and plan.privacy is None and plan.federated is None
    if several:
        distribute(model, reducer)
    if plan.privacy:
        build_state(model, feed.example)
        private_steps(model, plan.privacy, reducer)
    if plan.options.jit_compile:
        compile_gradients(model)
    if plan.augment:
        augment_features(model, cloudpickle.loads(plan.augment), world.rank)
    # Metric states are joined over ranks: if one rank builds them before the first step, all must.
    empty = collectives.sum(np.array([float(feed.empty_steps)]), "spark_dl.empty_steps")
    if empty[0] or (plan.start is not None and plan.start.metrics):
        build_state(model, feed.example)
    losses = JoinedLosses(model, collectives, reducer) if several else None
    prepare_steps(model, reducer, clock, feed.empty_steps > 0, losses)
    quick_train_function(model, reducer)
    return reducer


def _history(plan: TrainPlan, model: keras.Model) -> dict[str, list[Any]]:
    """Return each metric's values over all epochs, including those before the starting checkpoint."""
    history = {**(plan.start.history if plan.start else {})}
    for name, values in getattr(model.history, "history", {}).items():
        history[name] = [*history.get(name, []), *map(plain_value, values)]
    return history


def _model(plan: TrainPlan, content: bytes, collectives: Collectives) -> keras.Model:
    """Load the model to start from, with rank 0's state on all ranks."""
    model = from_bytes(content)
    # XLA can't compile the collective; `compile_gradients` compiles the part of the step before it.
    model.jit_compile = False
    # Steps are counted one by one.
    model.steps_per_execution = 1
    if plan.start is not None:
        for variable, state in zip(seed_states(model), plan.start.seeds, strict=True):
            variable.assign(np.array(state, np.int64).astype(str(variable.dtype)))
    _start_alike(model, collectives)
    if plan.start is not None and plan.start.optimizers_file:
        restore_unsaved(model, plan.checkpoints.read(plan.start.optimizers_file))
    return model


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


def _start_alike(model: keras.Model, collectives: Collectives) -> None:
    """Copy rank 0's weights, optimizer state and seeds to all ranks, then shift each rank's seeds by its number."""
    if not model.optimizer.built:  # an unbuilt LossScaleOptimizer would reset its state
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    for index, variable in enumerate(variables):
        value = np.asarray(variable)
        if collectives.world.size > 1:
            # Seeds are uint32, a dtype that Horovod doesn't support.
            sent = value.astype(np.int64) if is_seed(variable) else value
            sent = collectives.broadcast(sent, f"spark_dl.variable.{index}")
            variable.assign(sent.reshape(value.shape).astype(value.dtype))
        if is_seed(variable):
            shift_seeds([variable], collectives.world.rank)
