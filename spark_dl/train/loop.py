"""Training on one rank, with Keras's own trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import keras
import numpy as np
import tensorflow as tf

from spark_dl.collectives import Collectives
from spark_dl.data.batches import tensorflow_batches
from spark_dl.data.readers import reader
from spark_dl.data.shards import Shard, shards
from spark_dl.train.callbacks import AgreeOnEpoch, ReportProgress, SaveCheckpoint, StopTogether, runs_on
from spark_dl.train.checkpoint import Checkpoints
from spark_dl.train.model_bytes import from_bytes, to_bytes
from spark_dl.train.optimizer import GradientReducer, distribute
from spark_dl.train.plan import INITIAL_MODEL, TrainPlan, TrainResult
from spark_dl.train.step import prepare_steps

__all__ = ["train"]

_FINAL_MODEL = "final.keras"


def train(plan: TrainPlan, collectives: Collectives, report: Callable[[dict[str, Any]], None]) -> TrainResult:
    """Train the plan's model on this rank's shard.

    Args:
        plan: the same on every rank.
        collectives: of this rank's World.
        report: takes progress, on rank 0.

    Returns:
        the same on every rank. Rank 0 has then written the final model to the workspace.
    """
    world = collectives.world
    training, validation = _shards(plan, collectives)
    keras.utils.set_random_seed((plan.seed * 1_000_003 + world.rank) % 2**32)
    model = from_bytes(plan.workspace.read(INITIAL_MODEL), cloudpickle.loads(plan.custom_objects))
    # The collective can't be part of a compiled XLA program.
    model.jit_compile = False
    # The steps of an epoch are counted one by one.
    model.steps_per_execution = 1
    _start_alike(model, collectives)
    reducer = GradientReducer(collectives)
    if world.size > 1:
        distribute(model, reducer)

    read = reader(plan.reader)
    seed = plan.seed if plan.shuffle else None
    data = tensorflow_batches(plan.dataset, training, read, rank=world.rank, seed=seed)
    held_out = None
    if validation is not None:
        held_out = tensorflow_batches(plan.dataset, validation, read, rank=world.rank, seed=None, one_pass=True)
    empty = training.empty_steps + (validation.empty_steps if validation else 0)
    prepare_steps(model, reducer, data.element_spec, may_be_empty=empty > 0)

    checkpoints = Checkpoints(plan.checkpoints)
    saving = SaveCheckpoint(checkpoints, plan.monitor, plan.monitor_mode, required=plan.restore_best_weights)
    ours = [saving, ReportProgress(report, plan.dataset.rows(validation=False), time.monotonic)]
    users = [callback for callback in cloudpickle.loads(plan.callbacks) if runs_on(callback, world.rank)]
    callbacks = [
        AgreeOnEpoch(collectives),
        *users,
        *(ours if world.is_first else []),
        StopTogether(collectives, reducer),
    ]
    began = time.monotonic()
    history = model.fit(
        data,
        epochs=plan.epochs,
        steps_per_epoch=training.steps,
        shuffle=False,  # the dataset has done it
        validation_data=held_out,
        callbacks=callbacks,
        verbose=0,
    )
    seconds = time.monotonic() - began
    if world.is_first:
        best = checkpoints.best() if plan.restore_best_weights else None
        plan.workspace.write(_FINAL_MODEL, best or to_bytes(model))
    best_epoch = int(collectives.broadcast(np.array([saving.best_epoch]), "spark_dl.best_epoch")[0])
    return TrainResult(
        history={name: [float(v) for v in values] for name, values in history.history.items()},
        rows=plan.dataset.rows(validation=False),
        validation_rows=plan.dataset.rows(validation=True),
        seconds=seconds,
        best_epoch=best_epoch,
        model_file=_FINAL_MODEL,
    )


def _shards(plan: TrainPlan, collectives: Collectives) -> tuple[Shard, Shard | None]:
    world = collectives.world
    seed = plan.seed if plan.shuffle else None
    training = shards(plan.dataset.part(validation=False), world.size, plan.batch_size, seed)[world.rank]
    blocks = plan.dataset.part(validation=True)
    return training, shards(blocks, world.size, plan.batch_size, None)[world.rank] if blocks else None


def _start_alike(model: keras.Model, collectives: Collectives) -> None:
    """All ranks begin with rank 0's weights and optimizer state, but draw other random numbers."""
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    for index, variable in enumerate(variables):
        value = np.asarray(variable)
        if "seed_generator_state" in variable.path:
            shifted = value.astype(np.uint64) + np.array([collectives.world.rank, 0], np.uint64)
            variable.assign(tf.cast(shifted % 2**32, variable.dtype))
        elif collectives.world.size > 1:
            variable.assign(collectives.broadcast(value, f"spark_dl.variable.{index}").reshape(value.shape))
