"""Steps of ranks that are out of rows: taken with all the others, and without a trace."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dl.collectives import SoloCollectives
from spark_dl.train.optimizer import GradientReducer
from spark_dl.train.speed import StepClock
from spark_dl.train.step import build_state, prepare_steps
from spark_dl.world import solo

SPEC = (tf.TensorSpec((None, 3), tf.float32), tf.TensorSpec((None,), tf.int32))
EMPTY = (np.zeros((0, 3), np.float32), np.zeros(0, np.int32))


def batch(rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows)
    return random.normal(size=(rows, 3)).astype("float32"), random.integers(0, 2, rows).astype("int32")


def a_model(may_be_empty: bool = True) -> tuple[keras.Model, GradientReducer]:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.jit_compile = False
    reducer = GradientReducer(SoloCollectives(solo()), clock := StepClock())
    if may_be_empty:
        build_state(model, SPEC)
    prepare_steps(model, reducer, clock, may_be_empty)
    return model, reducer


def state(model: keras.Model) -> dict[str, Any]:
    """What is no gradient's business: metrics and moving statistics."""
    moving = [variable for variable in model.non_trainable_variables if "seed_generator_state" not in variable.path]
    variables = [*moving, *model.metrics_variables]
    return {f"{index} {variable.path}": np.asarray(variable).tolist() for index, variable in enumerate(variables)}


def fed(step: str, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch as that step gets it: one of training says when it was made."""
    tensors = tuple(map(tf.constant, batch))
    return (*tensors, tf.timestamp()) if step == "train_step" else tensors


@pytest.mark.parametrize("step", ["train_step", "test_step"])
def test_an_empty_batch_leaves_metrics_and_statistics_as_they_were(step: str) -> None:
    model, _ = a_model()
    run = tf.function(getattr(model, step), reduce_retracing=True)
    run(fed(step, batch(5)))
    before = state(model)
    assert any("moving_variance" in name for name in before)
    run(fed(step, EMPTY))
    assert state(model) == before
    run(fed(step, batch(4)))
    assert state(model) != before


def test_an_empty_batch_may_come_first() -> None:
    model, _ = a_model()
    before = state(model)
    tf.function(model.train_step)(fed("train_step", EMPTY))
    assert state(model) == before


def test_full_batches_train_as_without_the_wrapping() -> None:
    wrapped, plain = a_model()[0], a_model(may_be_empty=False)[0]
    for model in (wrapped, plain):
        run = tf.function(model.train_step, reduce_retracing=True)
        for rows in (4, 6):
            run(fed("train_step", batch(rows)))
    for mine, expected in zip(wrapped.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-6)
    assert wrapped.get_metrics_result() == plain.get_metrics_result()


@pytest.mark.parametrize("may_be_empty", [True, False])
def test_the_reducer_learns_how_many_rows_a_step_has(may_be_empty: bool) -> None:
    model, reducer = a_model(may_be_empty)
    for rows in (3, 5) + (0,) * may_be_empty:
        model.train_step(fed("train_step", batch(rows)))
        assert float(reducer.rows) == rows


@pytest.mark.parametrize("step", ["train_step", "test_step"])
def test_a_models_own_step_never_sees_an_empty_batch(step: str) -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.seen = keras.metrics.Sum(name="seen")

        def call(self, inputs: Any) -> Any:
            return inputs

        def train_step(self, data: Any) -> dict[str, Any]:
            _, y = data
            tf.debugging.assert_positive(tf.shape(y)[0])
            self.seen.update_state(tf.ones(tf.shape(y)[0]))
            return {"seen": self.seen.result()}

        test_step = train_step

    model = Own()
    model.compile("sgd", "mse")
    build_state(model, SPEC)
    clock = StepClock()
    prepare_steps(model, GradientReducer(SoloCollectives(solo()), clock), clock, may_be_empty=True)
    for rows in (3, 0, 2):
        getattr(model, step)(fed(step, batch(rows)))
    assert float(model.seen.result()) == 5


def test_weights_of_samples_are_part_of_an_empty_batch() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", weighted_metrics=["mae"])
    spec = (SPEC[0], tf.TensorSpec((None,), tf.float32), tf.TensorSpec((None,), tf.float32))
    build_state(model, spec)
    clock = StepClock()
    prepare_steps(model, GradientReducer(SoloCollectives(solo()), clock), clock, may_be_empty=True)
    run = tf.function(model.train_step, reduce_retracing=True)
    run(fed("train_step", (np.ones((2, 3), "float32"), np.ones(2, "float32"), np.ones(2, "float32"))))
    before = state(model)
    run(fed("train_step", (np.zeros((0, 3), "float32"), np.zeros(0, "float32"), np.zeros(0, "float32"))))
    assert state(model) == before
