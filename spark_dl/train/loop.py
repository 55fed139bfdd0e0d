"""Training on one rank, with Keras's own trainer."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import keras
import numpy as np
import tensorflow as tf

from spark_dl.collectives import Collectives
from spark_dl.data.batches import POOL_BYTES, tensorflow_batches
from spark_dl.data.readers import reader
from spark_dl.data.shards import Shard, canonical_count, canonical_shards, shards
from spark_dl.train.callback_state import restore_callbacks
from spark_dl.train.callbacks import (
    AgreeOnEpoch,
    MarkPosition,
    ReportProgress,
    SaveCheckpoint,
    StopTogether,
    runs_on,
)
from spark_dl.train.model_bytes import from_bytes, seed_states, to_bytes
from spark_dl.train.optimizer import GradientReducer, distribute
from spark_dl.train.plan import TrainPlan, TrainResult
from spark_dl.train.step import build_state, prepare_steps
from spark_dl.world import World

__all__ = ["train"]

_FINAL_MODEL = "final.keras"


def train(
    plan: TrainPlan,
    collectives: Collectives,
    report: Callable[[dict[str, Any]], None],
    mark: Callable[[str], None] = lambda where: None,
) -> TrainResult:
    """Train the plan's model on this rank's shard.

    Args:
        plan: the same on every rank.
        collectives: of this rank's World.
        report: takes progress, on rank 0.
        mark: takes where training stands, on every rank.

    Returns:
        the same on every rank. Rank 0 has then written the final model to the workspace.
    """
    mark("the beginning")
    world = collectives.world
    training, validation = _shards(plan, world)
    steps = training[0].steps
    keras.utils.set_random_seed((plan.seed * 1_000_003 + world.rank) % 2**32)
    model = from_bytes(plan.workspace.read(plan.initial_model), cloudpickle.loads(plan.custom_objects))
    # The collective can't be part of a compiled XLA program.
    model.jit_compile = False
    # The steps of an epoch are counted one by one.
    model.steps_per_execution = 1
    if plan.start is not None:
        for variable, state in zip(seed_states(model), plan.start.seeds, strict=True):
            variable.assign(np.array(state, np.int64).astype(str(variable.dtype)))
    _start_alike(model, collectives)
    reducer = GradientReducer(collectives)
    if world.size > 1:
        distribute(model, reducer)

    read = reader(plan.reader)
    seed = plan.seed if plan.shuffle else None
    batches = functools.partial(tensorflow_batches, plan.dataset, read=read)
    held_out = batches(shards=validation, seed=None, one_pass=True) if validation else None
    pool_bytes = POOL_BYTES
    if plan.global_batch_size is not None:  # the ranks' pools together are of the same size, however many there are
        pool_bytes //= canonical_count(len(plan.dataset.part(validation=False)), plan.global_batch_size)
    rows = functools.partial(
        batches, shards=training, seed=seed, pool_bytes=pool_bytes, class_weights=plan.class_weights
    )
    empty = min(shard.empty_steps for shard in training) + sum(shard.empty_steps for shard in validation)
    example = rows().element_spec
    if empty or (plan.start is not None and plan.start.metrics):
        build_state(model, example)
    prepare_steps(model, reducer, may_be_empty=empty > 0)

    agreement = AgreeOnEpoch(collectives)
    progress = ReportProgress(report, plan.dataset.rows(validation=False), time.monotonic, plan.start)
    given = dict(enumerate(cloudpickle.loads(plan.callbacks)))
    users = {position: callback for position, callback in given.items() if runs_on(callback, world.rank)}
    saving = SaveCheckpoint(plan, agreement, users, steps, report)
    remembered = plan.workspace.read(plan.callback_state) if plan.callback_state else b""
    callbacks = _OneTraining(
        [
            MarkPosition(mark, plan.start),
            agreement,
            *users.values(),
            saving,
            *([progress] if world.is_first else []),
            StopTogether(collectives, reducer),
            MarkPosition(mark, plan.start),
        ],
        begun=functools.partial(restore_callbacks, users, remembered),
        add_history=True,
        model=model,
        epochs=plan.epochs,
        steps=steps,
    )
    began = time.monotonic()
    done, taken = (plan.start.epoch, plan.start.step) if plan.start else (0, 0)
    # An epoch that is begun in its middle is a fit of its own: Keras knows no other way.
    parts = [(done, done + 1, taken)] if taken and done < plan.epochs else []
    parts += [(done + len(parts), plan.epochs, 0)]
    for first, last, skipped in parts:
        if first < last and not model.stop_training:
            callbacks.ends = last >= plan.epochs
            model.fit(
                rows(first_epoch=first, skip_steps=skipped),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=steps - skipped,
                shuffle=False,  # the dataset has done it
                validation_data=held_out,
                callbacks=callbacks,
                verbose=0,
            )
    seconds = time.monotonic() - began
    if world.is_first:
        best = saving.best() if plan.restore_best_weights else None
        plan.workspace.write(_FINAL_MODEL, best or to_bytes(model))
    history = {**(plan.start.history if plan.start else {})}
    for name, values in getattr(model.history, "history", {}).items():
        history[name] = [*history.get(name, []), *map(float, values)]
    return TrainResult(
        history=history,
        rows=plan.dataset.rows(validation=False),
        validation_rows=plan.dataset.rows(validation=True),
        seconds=seconds,
        best_epoch=saving.best_epoch,
        model_file=_FINAL_MODEL,
    )


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


def _shards(plan: TrainPlan, world: World) -> tuple[list[Shard], list[Shard]]:
    """The rank's shards for training, and for validation, if there is any."""
    seed = plan.seed if plan.shuffle else None
    training, validation = (plan.dataset.part(validation=held_out) for held_out in (False, True))
    if plan.global_batch_size is not None:
        chosen = canonical_shards(training, world.size, plan.global_batch_size, seed)[world.rank]
    else:
        chosen = [shards(training, world.size, plan.batch_size, seed)[world.rank]]
    # Metrics don't depend on which rank sees which row.
    batch_size = plan.batch_size if plan.global_batch_size is None else -(-plan.global_batch_size // world.size)
    return chosen, [shards(validation, world.size, batch_size, None)[world.rank]] if validation else []


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
