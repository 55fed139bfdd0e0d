"""Gradients of custom train steps and losses that are no means over rows are found by taking steps on a copy."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import ops

from spark_dl.train.model.batch_dependence import MEAN, OTHER, SUM, UNTRIED
from spark_dl.train.model.examples import Example
from spark_dl.train.model.step_trial import RANDOM, step_kind

INPUTS = {"features": ((2,), "float32")}
NUMBER = [Example("value", (), "float32", (1,))]


class OwnStep(keras.Model):
    """A train_step that averages the squares of the errors."""

    def error(self, y: Any, p: Any) -> Any:
        return ops.mean(ops.square(y - ops.squeeze(p, -1)))

    def change(self, gradients: Any) -> Any:
        return gradients

    def train_step(self, data: Any) -> Any:
        x, y = data if isinstance(data, tuple) else (data, None)
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


def weighted_by(weights: Any) -> Any:
    """Return an error that weights rows by their features and divides by the sum of the weights."""

    def error(self: Any, x: Any, y: Any, p: Any) -> Any:
        each = ops.cast(weights(x), p.dtype)
        return ops.sum(each * ops.square(y - ops.squeeze(p, -1))) / (ops.sum(each) + 1e-6)

    return error


class OfFeatures(OwnStep):
    """A train_step whose errors may depend on features."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.error(x, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


class LossOfFeatures(OfFeatures):
    train_step = keras.Model.train_step

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.error(x, y, y_pred)


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


@pytest.mark.parametrize("kind", [OfFeatures, LossOfFeatures])
@pytest.mark.parametrize(
    "weights",
    [
        lambda x: x[:, 0] > 0,
        lambda x: x[:, 1] != -1,
        lambda x: x[:, 0] != 0,
        lambda x: ops.any(x == 77.0, axis=-1),
        lambda x: x[:, 1] < 1234,
        lambda x: ops.exp(-ops.square(x[:, 0] - 5)),
        lambda x: ops.where(ops.all(x == 0, axis=-1), 0.0, 2.0),
    ],
)
def test_masks_computed_from_features_are_found(kind: Any, weights: Any) -> None:
    assert step_kind(built(kind, error=weighted_by(weights)), INPUTS, NUMBER) == OTHER


def test_masks_computed_from_ids_are_found() -> None:
    inputs = keras.Input((5,), dtype="int32", name="features")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 3)(inputs))
    model = type("OfIds", (OfFeatures,), {"error": weighted_by(lambda x: x[:, 0] != 17)})(
        inputs, keras.layers.Dense(1)(pooled)
    )
    model.compile("sgd", "mse")
    assert step_kind(model, {"features": ((5,), "int32")}, NUMBER) == OTHER


def test_weights_by_features_within_a_mean_over_rows_are_exact() -> None:
    def error(self: Any, x: Any, y: Any, p: Any) -> Any:
        return ops.mean(ops.cast(x[:, 0] > 3, p.dtype) * ops.square(y - ops.squeeze(p, -1)))

    assert step_kind(built(OfFeatures, error=error), INPUTS, NUMBER) == MEAN


@pytest.mark.parametrize("labels", [[], [Example("value", (), "int64", (1,))], NUMBER])
def test_a_trial_takes_few_steps(labels: Any, caplog: Any) -> None:
    def error(self: Any, y: Any, p: Any) -> Any:
        return ops.mean(ops.square(p - (0.0 if y is None else ops.cast(y, p.dtype)[:, None])))

    with caplog.at_level("INFO", logger="spark_dl"):
        assert step_kind(built(OwnStep, error=error), INPUTS, labels) == MEAN
    (said,) = caplog.messages
    assert int(said.split("compared in ")[1].split()[0]) <= 16


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
