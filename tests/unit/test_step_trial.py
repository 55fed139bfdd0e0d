"""Gradients of custom train steps and losses that are no means over rows are found by taking steps on a copy."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import ops

from spark_dl.train.model.batch_dependence import MEAN, OTHER, SUM
from spark_dl.train.model.examples import Example
from spark_dl.train.model.step_trial import RANDOM, UNTRIED, step_kind

INPUTS = {"features": ((2,), "float32")}
NUMBER = [Example("value", (), "float32", (1,))]


class OwnStep(keras.Model):
    """A train_step that averages the squares of the errors."""

    def error(self, y: Any, p: Any) -> Any:
        return ops.mean(ops.square(y - ops.squeeze(p, -1)))

    def change(self, gradients: Any) -> Any:
        return gradients

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.error(y, self(x, training=True))
        gradients = self.change(tape.gradient(loss, self.trainable_variables))
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class OwnLoss(OwnStep):
    train_step = keras.Model.train_step

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.error(y, y_pred)


def summed(self: Any, y: Any, p: Any) -> Any:
    return ops.sum(ops.square(y - ops.squeeze(p, -1)))


def rooted(self: Any, y: Any, p: Any) -> Any:
    return ops.sqrt(ops.mean(ops.square(y - ops.squeeze(p, -1))))


def of_positive(self: Any, y: Any, p: Any) -> Any:
    kept = ops.cast(y > 0, p.dtype)
    return ops.sum(kept * ops.square(y - ops.squeeze(p, -1))) / (ops.sum(kept) + 1e-6)


def without_99(self: Any, y: Any, p: Any) -> Any:
    kept = ops.cast(y != 99, p.dtype)
    return ops.sum(kept * ops.square(y - ops.squeeze(p, -1))) / (ops.sum(kept) + 1e-6)


def by_norm(self: Any, gradients: Any) -> Any:
    return tf.clip_by_global_norm(gradients, 500.0)[0]


def by_value(self: Any, gradients: Any) -> Any:
    return [tf.clip_by_value(gradient, -50.0, 50.0) for gradient in gradients]


def normalized(self: Any, gradients: Any) -> Any:
    return [gradient / (tf.norm(gradient) + 1e-6) for gradient in gradients]


def halved(self: Any, gradients: Any) -> Any:
    return [gradient / 2 for gradient in gradients]


def built(kind: Any, *layers: keras.layers.Layer, **overrides: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((2,))
    outputs = inputs
    for layer in (*layers, keras.layers.Dense(1)):
        outputs = layer(outputs)
    model = type(kind.__name__, (kind,), overrides)(inputs, outputs)
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("kind", [OwnStep, OwnLoss])
@pytest.mark.parametrize(
    ("error", "expected"),
    [(None, MEAN), (summed, SUM), (rooted, OTHER), (of_positive, OTHER), (without_99, OTHER)],
)
def test_losses_are_tried_by_their_gradients(kind: Any, error: Any, expected: str) -> None:
    model = built(kind, **({"error": error} if error else {}))
    assert step_kind(model, INPUTS, NUMBER) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [(by_norm, OTHER), (by_value, OTHER), (normalized, OTHER), (halved, MEAN)],
)
def test_clipping_is_found_however_high_its_threshold(change: Any, expected: str) -> None:
    assert step_kind(built(OwnStep, change=change), INPUTS, NUMBER) == expected


class Noise(keras.layers.Layer):
    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = seed
        self.generator = None if seed is None else keras.random.SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(ops.shape(x), seed=self.generator)


@pytest.mark.parametrize(
    ("layers", "error", "expected"),
    [
        ([keras.layers.Dropout(0.5), keras.layers.BatchNormalization()], None, MEAN),
        ([keras.layers.Dropout(0.5), keras.layers.GaussianNoise(1.0)], summed, SUM),
        ([Noise(1)], None, RANDOM),
        ([Noise(None)], None, RANDOM),
        ([Noise(1)], summed, SUM),
    ],
)
def test_random_layers_are_turned_off_or_said(layers: Any, error: Any, expected: str) -> None:
    model = built(OwnStep, *layers, **({"error": error} if error else {}))
    assert step_kind(model, INPUTS, NUMBER) == expected


def test_a_step_that_fails_is_said() -> None:
    def fails(self: Any, y: Any, p: Any) -> Any:
        raise RuntimeError("other rows")

    assert step_kind(built(OwnStep, error=fails), INPUTS, NUMBER) == UNTRIED


def test_weights_reach_the_step() -> None:
    def train_step(self: Any, data: Any) -> Any:
        x, y, weight = data
        with tf.GradientTape() as tape:
            errors = weight * ops.square(y - ops.squeeze(self(x, training=True), -1))
            loss = ops.sum(errors) / ops.sum(weight)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}

    assert step_kind(built(OwnStep, train_step=train_step), INPUTS, NUMBER, weighted=True) == OTHER
