"""Preparation of a model for the training by a rank: loaded alike on all ranks, with its steps wrapped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import keras
import numpy as np

from spark_dl._compat.keras import is_seed
from spark_dl.collectives import Collectives
from spark_dl.train.augment import augment_features
from spark_dl.train.federated import federated_callbacks
from spark_dl.train.feed import Feed
from spark_dl.train.joined_losses import JoinedLosses
from spark_dl.train.model.optimizers import restore_unsaved
from spark_dl.train.model.parts import seed_states, shift_seeds
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.optimizer import GradientReducer, distribute
from spark_dl.train.plan import TrainPlan
from spark_dl.train.private import private_steps
from spark_dl.train.speed import StepClock
from spark_dl.train.step import (
    build_state,
    compile_gradients,
    has_own_train_logs,
    prepare_steps,
    quick_train_function,
)
from spark_dl.train.steps_ahead import LEAST_STEPS, StepsAhead, acts_within_epochs

__all__ = ["PreparedModel", "prepare"]


@dataclass(frozen=True)
class PreparedModel:
    """A model whose steps are prepared for the training by a rank.

    Attributes:
        model: The model.
        reducer: The reducer of its gradients.
        clock: The clock of its steps.
        ahead: The number of steps that a call of its train function takes.
        before: The callbacks of the preparation that run before those that join metrics.
        after: Those that run after them.
        traced: The graphs of its train step.
    """

    model: keras.Model
    reducer: GradientReducer
    clock: StepClock
    ahead: StepsAhead
    before: list[keras.callbacks.Callback]
    after: list[keras.callbacks.Callback]
    traced: list[Any] = field(default_factory=list)


def prepare(
    plan: TrainPlan, content: bytes, feed: Feed, collectives: Collectives, kept: PreparedModel | None = None
) -> PreparedModel:
    """Prepare a model for the training by this rank, with the same state on all ranks.

    Ranks call the same collectives in the same order, whether they have a kept model or not: eager ones are matched by
    their order, and a rank that was started again has none.

    Args:
        plan: The training plan.
        content: The `.keras` bytes of the model to start from.
        feed: The rank's feed.
        collectives: The collectives of this rank's World.
        kept: The model of an earlier training, with the values to start from; None to load one and wrap its steps.
    """
    # Metric states are joined over ranks: if one rank builds them before the first step, all must.
    empty = collectives.sum(np.array([float(feed.empty_steps)]), "spark_dl.empty_steps")
    model = kept.model if kept else _loaded(plan, content)
    _start_alike(model, collectives)
    if kept:
        return kept
    if plan.start is not None and plan.start.optimizers_file:
        restore_unsaved(model, plan.checkpoints.read(plan.start.optimizers_file))
    clock = StepClock()
    before, after = federated_callbacks(plan, model, collectives)
    builds = bool(empty[0]) or (plan.start is not None and bool(plan.start.metrics))
    ahead = StepsAhead(collectives, _takes_several(plan, model, feed))
    prepared = PreparedModel(model, _reducer(plan, feed, collectives, clock), clock, ahead, before, after)
    _wrap_steps(prepared, plan, feed, collectives, builds)
    return prepared


def _reducer(plan: TrainPlan, feed: Feed, collectives: Collectives, clock: StepClock) -> GradientReducer:
    reducer = GradientReducer(
        collectives,
        clock,
        accumulate=plan.options.gradient_accumulation,
        steps=feed.steps,
        fp16=plan.options.compression == "fp16" and collectives.world.size > 1,
    )
    if plan.start is not None:
        reducer.skip(plan.start.step)
    return reducer


def _wrap_steps(prepared: PreparedModel, plan: TrainPlan, feed: Feed, collectives: Collectives, builds: bool) -> None:
    """Wrap the model's steps for distributed training.

    Args:
        prepared: The model, whose steps are still Keras's own.
        plan: The training plan.
        feed: The rank's feed.
        collectives: The collectives of this rank's World.
        builds: Whether the state of metrics is built before the first step.
    """
    model, reducer, world = prepared.model, prepared.reducer, collectives.world
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
    if builds:
        build_state(model, feed.example)
    losses = JoinedLosses(model, collectives, reducer) if several else None
    prepare_steps(model, reducer, prepared.clock, feed.empty_steps > 0, losses)
    quick_train_function(model, reducer, prepared.ahead, prepared.traced)


def _takes_several(plan: TrainPlan, model: keras.Model, feed: Feed) -> bool:
    """Return whether nothing happens between the steps of an epoch, on any rank, so that several may be taken at once.

    With an own train step or `compute_metrics`, the logs may be those of the last step alone.
    """
    between = plan.options.profile or plan.learning_rate or plan.privacy or plan.federated
    if between or feed.steps < LEAST_STEPS or model.run_eagerly or has_own_train_logs(model):
        return False
    return not acts_within_epochs(cloudpickle.loads(plan.callbacks))


def _loaded(plan: TrainPlan, content: bytes) -> keras.Model:
    """Load the model to start from."""
    model = from_bytes(content)
    # XLA can't compile the collective; `compile_gradients` compiles the part of the step before it.
    model.jit_compile = False
    # Steps are counted one by one.
    model.steps_per_execution = 1
    if plan.start is not None:
        for variable, state in zip(seed_states(model), plan.start.seeds, strict=True):
            variable.assign(np.array(state, np.int64).astype(str(variable.dtype)))
    return model


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
