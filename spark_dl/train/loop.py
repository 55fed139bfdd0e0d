"""Training on one rank, with Keras's own trainer."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import keras
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.log_values import plain_value
from spark_dl.train.augment import augment_features
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
from spark_dl.train.metrics.joins import metric_joins
from spark_dl.train.model.examples import examples_of_model
from spark_dl.train.model.keras_settings import apply_settings
from spark_dl.train.model.optimizers import restore_unsaved
from spark_dl.train.model.parts import is_seed, seed_states, shift_seeds
from spark_dl.train.model.serialization import from_bytes, register, settings_of, to_bytes
from spark_dl.train.optimizer import GradientReducer, distribute
from spark_dl.train.plan import TrainPlan, TrainResult
from spark_dl.train.speed import StepClock
from spark_dl.train.step import build_state, compile_gradients, has_own_test_step, prepare_steps, quick_train_function

__all__ = ["train"]

_FINAL_MODEL = "final.keras"


def train(
    plan: TrainPlan,
    collectives: Collectives,
    report: Callable[[dict[str, Any]], None],
    heartbeat: Callable[[str], None] = lambda where: None,
) -> TrainResult:
    """Train the plan's model on this rank's shard.

    Args:
        plan: the same on every rank.
        collectives: of this rank's World.
        report: takes progress, on rank 0.
        heartbeat: takes where training stands, on every rank.

    Returns:
        the same on every rank. Rank 0 has then written the final model to the workspace.
    """
    heartbeat("the beginning")
    objects = cloudpickle.loads(plan.custom_objects)
    register(objects)
    content = plan.workspace.read(plan.initial_model)
    # A scope in which models are saved by the names that they were loaded by.
    with apply_settings(settings_of(content)), keras.saving.custom_object_scope(objects):
        return _train(plan, content, collectives, report, heartbeat)


def _train(
    plan: TrainPlan,
    content: bytes,
    collectives: Collectives,
    report: Callable[[dict[str, Any]], None],
    heartbeat: Callable[[str], None],
) -> TrainResult:
    """`train`, where the user's objects and Keras's settings are in force."""
    world = collectives.world
    feed = Feed.of(plan, world)
    keras.utils.set_random_seed((plan.options.seed * 1_000_003 + world.rank) % 2**32)
    model = _model(plan, content, collectives)
    clock = StepClock()
    reducer = _prepare(model, plan, feed, collectives, clock)
    given = dict(enumerate(cloudpickle.loads(plan.callbacks)))
    tensors = plan.dataset.tensors
    joins = metric_joins(model, lambda: examples_of_model(model, tensors)) if world.size > 1 else ()
    agreement = SyncMetrics(collectives, reducer, list(given.values()), has_own_test_step(model), joins)
    measure = MeasureSpeed(
        collectives, clock, plan.dataset.rows(validation=False), feed.steps, time.monotonic, plan.start
    )
    users = {position: callback for position, callback in given.items() if runs_on(callback, world.rank)}
    remembered = plan.workspace.read(plan.callback_state) if plan.callback_state else b""
    state = CallbackState(users)
    saving = SaveCheckpoint(plan, agreement, state, feed.steps, report)
    keeping = KeepRows(measure, feed, plan.options.epochs, report if world.is_leader else lambda told: None)
    callbacks = _OneTraining(
        [
            SendHeartbeats(heartbeat, plan.start),
            agreement,
            *_warm_up(plan, feed),
            *users.values(),
            CompareRanks(collectives),
            measure,
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
    began = time.monotonic()
    _fit(model, plan, feed, callbacks)
    seconds = time.monotonic() - began
    best = saving.best() if world.is_leader and plan.options.restore_best_weights else None
    if world.is_leader:
        plan.workspace.write(_FINAL_MODEL, best or to_bytes(model))
    return TrainResult(
        history=_history(plan, model),
        rows=plan.dataset.rows(validation=False),
        validation_rows=plan.dataset.rows(validation=True),
        seconds=seconds,
        best_epoch=saving.best_epoch,
        model_file=_FINAL_MODEL,
        non_finite="" if best else first_not_finite(model),
    )


def _warm_up(plan: TrainPlan, feed: Feed) -> list[keras.callbacks.Callback]:
    rate, first = plan.learning_rate, plan.options.initial_epoch
    return [WarmUp(rate, feed.steps, plan.start, first)] if rate else []


def _of_leader(
    plan: TrainPlan, feed: Feed, measure: MeasureSpeed, report: Callable[[dict[str, Any]], None]
) -> list[keras.callbacks.Callback]:
    """The callbacks of rank 0 alone, which reports."""
    progress = ReportProgress(report, measure, plan.options.epochs, time.monotonic, plan.start)
    tracing = [TraceSteps(plan.workspace, feed.steps)] if plan.options.profile else []
    return [WatchFinite(report), progress, *tracing]


def _prepare(
    model: keras.Model, plan: TrainPlan, feed: Feed, collectives: Collectives, clock: StepClock
) -> GradientReducer:
    """Make the model's steps those of a rank; gives what joins its gradients."""
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
    if world.size > 1 or plan.options.gradient_accumulation > 1:
        distribute(model, reducer)
    if plan.options.jit_compile:
        compile_gradients(model)
    if plan.augment:
        augment_features(model, cloudpickle.loads(plan.augment), world.rank)
    # Ranks join the states of their metrics: where one builds them before the first step, all do.
    empty = collectives.sum(np.array([float(feed.empty_steps)]), "spark_dl.empty_steps")
    if empty[0] or (plan.start is not None and plan.start.metrics):
        build_state(model, feed.example)
    prepare_steps(model, reducer, clock, may_be_empty=feed.empty_steps > 0)
    quick_train_function(model, reducer)
    return reducer


def _history(plan: TrainPlan, model: keras.Model) -> dict[str, list[Any]]:
    """Each metric's values of all epochs, those before a checkpoint among them."""
    history = {**(plan.start.history if plan.start else {})}
    for name, values in getattr(model.history, "history", {}).items():
        history[name] = [*history.get(name, []), *map(plain_value, values)]
    return history


def _model(plan: TrainPlan, content: bytes, collectives: Collectives) -> keras.Model:
    """The model that training begins with, alike on all ranks."""
    model = from_bytes(content)
    # The collective can't be part of a compiled XLA program; `compile_gradients` makes one of what comes before.
    model.jit_compile = False
    # The steps of an epoch are counted one by one.
    model.steps_per_execution = 1
    if plan.start is not None:
        for variable, state in zip(seed_states(model), plan.start.seeds, strict=True):
            variable.assign(np.array(state, np.int64).astype(str(variable.dtype)))
    _start_alike(model, collectives)
    if plan.start is not None and plan.start.optimizers_file:
        restore_unsaved(model, plan.checkpoints.read(plan.start.optimizers_file))
    return model


def _fit(model: keras.Model, plan: TrainPlan, feed: Feed, callbacks: _OneTraining) -> None:
    """Keras's own `fit`, from where the plan starts."""
    done, taken = (plan.start.epoch, plan.start.step) if plan.start else (plan.options.initial_epoch, 0)
    if plan.start is not None and plan.start.stopped:
        done, taken = plan.options.epochs, 0
    finalize = model.optimizer.finalize_variable_values

    def finalize_at_end(variables: Any) -> None:
        # Averaged weights take the place of the trained ones where training ends, and not where a part of it does.
        if callbacks.ends or model.stop_training:
            finalize(variables)

    model.optimizer.finalize_variable_values = finalize_at_end
    # An epoch that is begun in its middle is a fit of its own: Keras knows no other way.
    parts = [(done, done + 1, taken)] if taken and done < plan.options.epochs else []
    parts += [(done + len(parts), plan.options.epochs, 0)]
    for first, last, skipped in parts:
        if first < last and not model.stop_training:
            callbacks.ends = last >= plan.options.epochs
            model.fit(
                feed.training(first_epoch=first, skip_steps=skipped),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=feed.steps - skipped,
                shuffle=False,  # the dataset has done it
                validation_data=feed.validation,
                callbacks=callbacks,
                verbose=0,
            )
    if done >= plan.options.epochs:  # all but the end has been done before
        callbacks.on_train_begin()
        finalize(model.trainable_weights)
        callbacks.on_train_end()


class _OneTraining(keras.callbacks.CallbackList):
    """Several fits that are one training: it begins once and ends once.

    Args:
        begun: called after all callbacks have been told of the beginning.

    Attributes:
        ends: whether the fit under way is the last.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback], begun: Callable[[], None], **others: Any) -> None:
        super().__init__(callbacks, **others)
        self.ends = True
        self._after_begin: Callable[[], None] | None = begun

    def on_train_begin(self, logs: Any = None) -> None:
        """The first fit's beginning."""
        if self._after_begin is not None:
            super().on_train_begin(logs)
            self._after_begin()
            self._after_begin = None

    def on_train_end(self, logs: Any = None) -> None:
        """The last fit's end; also that of a fit after which nobody goes on."""
        if self.ends or self._model.stop_training:
            super().on_train_end(logs)


def _start_alike(model: keras.Model, collectives: Collectives) -> None:
    """All ranks begin with rank 0's weights, optimizer state and seeds, from which each draws other random numbers."""
    if not model.optimizer.built:  # LossScaleOptimizer would begin anew
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    for index, variable in enumerate(variables):
        value = np.asarray(variable)
        if collectives.world.size > 1:
            # Horovod knows no unsigned integers of 32 bits, which seeds are.
            sent = value.astype(np.int64) if is_seed(variable) else value
            sent = collectives.broadcast(sent, f"spark_dl.variable.{index}")
            variable.assign(sent.reshape(value.shape).astype(value.dtype))
        if is_seed(variable):
            shift_seeds([variable], collectives.world.rank)
