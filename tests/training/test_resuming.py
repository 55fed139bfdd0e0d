"""A training that was interrupted ends as one that wasn't: with every optimizer of Keras, in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
from rows import on_ranks

from spark_dl.train.checkpoint import latest
from spark_dl.train.loop import train
from spark_dl.train.model.optimizers import optimizer_variables, restore_unsaved, unsaved_state
from spark_dl.train.model.parts import seed_states
from spark_dl.train.model.serialization import from_bytes, to_bytes
from spark_dl.train.plan import TrainPlan
from spark_dl.train.prepared import _start_alike

from .test_train import CLASSES, HELD_OUT, WIDTH, Crash, a_plan, run, same_history

O = keras.optimizers  # noqa: E741


def network(optimizer: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    hidden = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((WIDTH,)), *hidden, keras.layers.Dense(CLASSES, activation="softmax")])
    # Without a graph, which would take most of the time of a few steps.
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    return model


def interrupted(plan: TrainPlan, callbacks: list[Any], failing: keras.callbacks.Callback) -> TrainPlan:
    """The plan that goes on where this one fails."""
    with pytest.raises(ZeroDivisionError):
        run(replace(plan, callbacks=cloudpickle.dumps([*callbacks, failing])))
    start, content = latest(plan.checkpoints) or pytest.fail("no checkpoint")
    plan.workspace.write("start.keras", content)
    again = replace(plan, initial_model="start.keras", start=start, attempt=2, callbacks=cloudpickle.dumps(callbacks))
    if start.callbacks_file:
        plan.workspace.write("start.callbacks", plan.checkpoints.read(start.callbacks_file))
        return replace(again, callback_state="start.callbacks")
    return again


EMA = {"use_ema": True, "ema_momentum": 0.8}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "Nadam, scaled and averaged": lambda: O.LossScaleOptimizer(O.Nadam(0.05, **EMA), dynamic_growth_steps=3),
    "Adam, accumulating, by a schedule": lambda: O.Adam(O.schedules.CosineDecay(0.1, 8), gradient_accumulation_steps=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path, name: str) -> None:
    options = {"batch_size": 10, "epochs": 2, "checkpoint_steps": 2}
    model = network(OPTIMIZERS[name]())
    whole, expected = run(a_plan(tmp_path / "whole", model, **options))
    plan = interrupted(a_plan(tmp_path / "broken", model, **options), [], Crash(0, 3))
    assert plan.start is not None
    assert (plan.start.epoch, plan.start.step) == (0, 2)
    result, again = run(plan)
    same_history(result.history, whole.history)
    same_variables(again, expected)


def same_variables(one: keras.Model, other: keras.Model) -> None:
    variables = [[*model.variables, *optimizer_variables(model)] for model in (one, other)]
    for ours, theirs in zip(*variables, strict=True):
        if "seed_generator_state" not in ours.path:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=ours.path)


NAMES = sorted(
    name
    for name, kind in vars(O).items()
    if isinstance(kind, type)
    and issubclass(kind, O.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_all_of_every_optimizer(name: str, scaled: bool) -> None:
    """Steps without data: what a checkpoint is made of goes on as the model that it was made of does."""
    options = {**EMA, "weight_decay": 0.01} if name != "Muon" else EMA
    optimizer = getattr(O, name)(0.05, ema_overwrite_frequency=4, **options)
    model = network(O.LossScaleOptimizer(optimizer, dynamic_growth_steps=3) if scaled else optimizer)
    random = np.random.default_rng(1)
    gradients = [[random.normal(size=v.shape).astype("float32") for v in model.trainable_variables] for _ in range(6)]
    for step, values in enumerate(gradients):
        if step == 3:
            copy = from_bytes(to_bytes(model))
            restore_unsaved(copy, unsaved_state(model))
        for going_on in [model, copy] if step >= 3 else [model]:
            going_on.optimizer.apply([keras.ops.convert_to_tensor(v) for v in values], going_on.trainable_variables)
    same_variables(copy, model)


SWAPS: list[tuple[tuple[int, int], Callable[[], list[Any]]]] = [
    ((0, 3), list),
    ((1, 3), lambda: [keras.callbacks.SwapEMAWeights()]),
    ((1, 1), lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]),
    ((0, 3), lambda: [keras.callbacks.EarlyStopping("loss", patience=5, restore_best_weights=True)]),
]


@pytest.mark.parametrize(("at", "callbacks"), SWAPS)
def test_averaged_weights_go_on_wherever_it_is_interrupted(
    tmp_path: Path, at: tuple[int, int], callbacks: Callable[[], list[Any]]
) -> None:
    options = {"batch_size": 10, "epochs": 2, "checkpoint_steps": 2, "validation": HELD_OUT}
    model = network(O.SGD(0.1, momentum=0.9, **EMA))
    whole, expected = run(a_plan(tmp_path / "whole", model, callbacks=callbacks(), **options))
    plan = interrupted(a_plan(tmp_path / "broken", model, **options), callbacks(), Crash(*at))
    result, again = run(plan)
    same_history(result.history, whole.history)
    for ours, theirs in zip(again.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


class FailsAtTheEnd(keras.callbacks.Callback):
    """Fails after the last checkpoint."""

    def on_train_end(self, logs: Any = None) -> None:
        raise ZeroDivisionError


STOPS: list[Callable[[], list[Any]]] = [
    list,
    lambda: [keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=1, restore_best_weights=True)],
]


@pytest.mark.parametrize("callbacks", STOPS)
def test_what_is_left_to_do_at_the_end_is_done(tmp_path: Path, callbacks: Callable[[], list[Any]]) -> None:
    model = network(O.SGD(0.1, **EMA))
    options = {"batch_size": 10, "epochs": 4}
    whole, expected = run(a_plan(tmp_path / "whole", model, callbacks=callbacks(), **options))
    plan = interrupted(a_plan(tmp_path / "broken", model, **options), callbacks(), FailsAtTheEnd())
    result, again = run(plan)
    assert result.history == whole.history
    for ours, theirs in zip(again.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Two(keras.Model):
    """A model with an optimizer for each of its layers."""

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.layers_of_two = [keras.layers.Dense(4), keras.layers.Dense(CLASSES)]
        self.other = O.Nadam(0.05)

    def build(self, shape: Any) -> None:
        self.layers_of_two[0].build(shape)
        self.layers_of_two[1].build((None, 4))
        self.built = True

    def call(self, features: Any) -> Any:
        return self.layers_of_two[1](self.layers_of_two[0](features))

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        features, truth = data
        first, second = (layer.trainable_variables for layer in self.layers_of_two)
        with tf.GradientTape(persistent=True) as tape:
            losses = keras.losses.sparse_categorical_crossentropy(truth, self(features), from_logits=True)
            loss = tf.reduce_mean(losses)
        self.optimizer.apply(tape.gradient(loss, [*first, *second]), [*first, *second])
        self.other.apply(tape.gradient(loss, second), second)
        return {"own": loss}

    def get_config(self) -> dict[str, Any]:
        return {}


def test_an_optimizer_of_the_models_own_goes_on_too(tmp_path: Path) -> None:
    model = Two()
    model.build((None, WIDTH))
    model.compile(O.Adam(0.05), run_eagerly=True)
    options = {"batch_size": 10, "epochs": 2, "checkpoint_steps": 2, "custom_objects": cloudpickle.dumps({"Two": Two})}

    def weights(plan: TrainPlan) -> list[np.ndarray]:
        result = on_ranks(1, lambda rank: train(plan, rank, lambda content: None).result)[0]
        return from_bytes(plan.workspace.read(result.model_file), {"Two": Two}).get_weights()

    expected = weights(a_plan(tmp_path / "whole", model, **options))
    plan = interrupted(a_plan(tmp_path / "broken", model, **options), [], Crash(1, 3))
    for ours, theirs in zip(weights(plan), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_seeds_of_all_ranks_follow_from_the_first_ones(tmp_path: Path) -> None:
    """A checkpoint holds those of rank 0: a rank whose seeds were its own would draw others after a restart."""
    models = [network("sgd"), network("sgd")]
    states = [seed_states(model) for model in models]
    for rank, (state,) in enumerate(states):
        state.assign(np.array([2**32 - 1 - 7 * rank, 5], np.uint32))
    on_ranks(2, lambda rank: _start_alike(models[rank.world.rank], rank))
    drawn = [np.asarray(state).tolist() for (state,) in states]
    assert drawn == [[2**32 - 1, 5], [0, 5]]
