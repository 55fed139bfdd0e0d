"""Losses that are no means over rows are found by trying them, whoever wrote them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from spark_dl.train.model.batch_dependence import (
    MEAN,
    OTHER,
    SUM,
    UNTRIED,
    loss_kind,
    masked_outputs,
    may_add_losses,
    model_loss_kinds,
)
from spark_dl.train.model.examples import Example

NUMBER = Example("value", (), "float32", (1,))
VECTOR = Example("vector", (4,), "float32", (4,))
CLASS = Example("kind", (), "int32", (4,))
SEQUENCE = Example("tags", (5,), "int32", (5, 4))
FEATURES = {"features": ((5, 2), "float32")}


def summed(y: Any, p: Any) -> Any:
    return ops.sum(ops.square(y - p))


def averaged(y: Any, p: Any) -> Any:
    return ops.mean(ops.square(y - p))


def of_each_row(y: Any, p: Any) -> Any:
    return ops.sum(ops.abs(y - p), axis=-1)


def rooted(y: Any, p: Any) -> Any:
    return ops.sqrt(ops.mean(ops.square(y - p)))


def without_padding(y: Any, p: Any) -> Any:
    known = ops.cast(ops.not_equal(y, -1.0), p.dtype)
    return ops.sum(known * ops.square(y - p)) / ops.maximum(ops.sum(known), 1.0)


def without_nan(y: Any, p: Any) -> Any:
    known = ops.cast(ops.logical_not(ops.isnan(y)), p.dtype)
    return ops.sum(known * ops.square(ops.nan_to_num(y) - p)) / ops.maximum(ops.sum(known), 1.0)


def known(y: Any, p: Any, known: Any) -> Any:
    return ops.sum(ops.cast(known, p.dtype) * ops.square(y - p)) / (ops.sum(ops.cast(known, p.dtype)) + 1e-6)


def below_90(y: Any, p: Any) -> Any:
    return known(y, p, y < 90)


NO_LABEL = -7.5


def without_global(y: Any, p: Any) -> Any:
    return known(y, p, y != NO_LABEL)


def without(pad: float) -> Any:
    def loss(y: Any, p: Any) -> Any:
        return known(y, p, y != pad)

    return loss


def without_argument(y: Any, p: Any, pad: float = 31.0) -> Any:
    return known(y, p, y != pad)


class Without(keras.losses.Loss):
    def __init__(self, pad: float) -> None:
        super().__init__()
        self.pad = pad

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return known(y_true, y_pred, self.usable(y_true))

    def usable(self, y_true: Any) -> Any:
        return ops.not_equal(y_true, self.pad)


def of_pixels(y: Any, p: Any) -> Any:
    kept = ops.not_equal(y, 255)
    each = keras.losses.sparse_categorical_crossentropy(ops.where(kept, y, 0), p)
    return ops.sum(each * ops.cast(kept, p.dtype)) / (ops.sum(ops.cast(kept, p.dtype)) + 1e-6)


def scaled_by_constants(y: Any, p: Any) -> Any:
    return ops.mean(ops.where(y > 17.0, 3.0, 0.5) * ops.abs(y - p))


def contrastive(y: Any, p: Any) -> Any:
    others = ops.matmul(p, ops.transpose(p))
    return ops.mean(ops.logsumexp(others, axis=-1) - ops.sum(y * p, axis=-1))


def of_full_batches(y: Any, p: Any) -> Any:
    return ops.mean(ops.square(y - p)) * (1.0 if p.shape[0] >= 20 else 0.0)


def drawn(y: Any, p: Any) -> Any:
    return ops.mean(ops.square(y - p - keras.random.normal(ops.shape(p))))


class OwnSum(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.sum(ops.square(y_true - y_pred))


class OwnMean(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(y_true - y_pred), axis=-1)


class SumsWeights(keras.losses.Loss):
    """A mean over rows, but for weights, which it normalizes."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        losses = ops.mean(ops.square(y_true - y_pred), axis=-1)
        return ops.mean(losses) if sample_weight is None else ops.sum(losses * sample_weight) / ops.sum(sample_weight)


@pytest.mark.parametrize(
    ("loss", "example", "kind"),
    [
        ("mse", NUMBER, MEAN),
        ("mse", VECTOR, MEAN),
        ("categorical_crossentropy", VECTOR, MEAN),
        ("sparse_categorical_crossentropy", CLASS, MEAN),
        ("sparse_categorical_crossentropy", SEQUENCE, MEAN),
        (keras.losses.CosineSimilarity(), VECTOR, MEAN),
        (keras.losses.Huber(reduction="sum"), VECTOR, SUM),
        (keras.losses.Huber(reduction=None), VECTOR, SUM),
        (keras.losses.Dice(), VECTOR, OTHER),
        (summed, VECTOR, SUM),
        (averaged, VECTOR, MEAN),
        (of_each_row, VECTOR, MEAN),
        (rooted, VECTOR, OTHER),
        (without_padding, VECTOR, OTHER),
        (without_nan, VECTOR, OTHER),
        (contrastive, VECTOR, OTHER),
        (below_90, VECTOR, OTHER),
        (without_global, VECTOR, OTHER),
        (without(13.25), VECTOR, OTHER),
        (without_argument, NUMBER, OTHER),
        (functools.partial(without_argument, pad=57.0), NUMBER, OTHER),
        (Without(777.0), VECTOR, OTHER),
        (of_pixels, SEQUENCE, OTHER),
        (scaled_by_constants, VECTOR, MEAN),
        (OwnSum(), VECTOR, SUM),
        (OwnMean(), VECTOR, MEAN),
        (of_full_batches, VECTOR, OTHER),
        (lambda y, p: 1 / 0, VECTOR, UNTRIED),
        (lambda y, p: ops.sum(y - p) + np.nan, VECTOR, UNTRIED),
        (drawn, VECTOR, UNTRIED),
        ("ctc", VECTOR, UNTRIED),
    ],
)
def test_what_the_loss_of_a_batch_is_to_those_of_its_rows(loss: Any, example: Example, kind: str) -> None:
    assert loss_kind(loss, example, weighted=False) == kind


def test_of_keras_losses_three_depend_on_the_batch() -> None:
    # It takes class indices, and would broadcast one-hot labels.
    apart = {keras.losses.Loss, keras.losses.CategoricalGeneralizedCrossEntropy}
    classes = {kind for kind in vars(keras.losses).values() if isinstance(kind, type)} - apart
    found = {
        kind.__name__: {loss_kind(kind(), example, True) for example in (NUMBER, VECTOR, CLASS)} for kind in classes
    }
    assert {name for name, kinds in found.items() if OTHER in kinds} == {"Circle", "Dice", "Tversky"}
    assert not any(SUM in kinds for kinds in found.values())


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (keras.losses.MeanSquaredError(), MEAN),
        (keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"), OTHER),
        (SumsWeights(), OTHER),
    ],
)
def test_weights_may_make_the_difference(loss: Any, kind: str) -> None:
    assert loss_kind(loss, VECTOR, weighted=False) == MEAN
    assert loss_kind(loss, VECTOR, weighted=True) == kind


class AddsSum(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * ops.sum(ops.square(x)))
        return x


class AddsMean(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return x


class AddsVariance(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(ops.mean(ops.var(x, axis=0)))
        return x


class AddsMasked(keras.layers.Layer):
    """Adds a mean over the steps that aren't padding."""

    def call(self, x: Any) -> Any:
        kept = ops.cast(ops.any(ops.not_equal(x, 0.0), axis=-1), x.dtype)
        self.add_loss(ops.sum(kept * ops.sum(ops.square(x), axis=-1)) / (ops.sum(kept) + 1e-6))
        return x


class SumsInTraining(keras.layers.Layer):
    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.add_loss(0.1 * ops.sum(ops.square(x)))
        return x


def network(*layers: keras.layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((5, 2)), keras.layers.Dense(3), *layers, keras.layers.Dense(1)])


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        (lambda: [keras.layers.Dense(2, kernel_regularizer="l2")], []),
        (lambda: [keras.layers.Dense(2, activity_regularizer="l2")], [MEAN]),
        (lambda: [keras.layers.ActivityRegularization(l1=0.1)], [MEAN]),
        (lambda: [AddsSum()], [SUM]),
        (lambda: [AddsMean()], [MEAN]),
        (lambda: [AddsVariance()], [OTHER]),
        (lambda: [AddsMasked()], [OTHER]),
        (lambda: [keras.layers.Dropout(0.5), AddsSum()], [SUM]),
        (lambda: [keras.layers.Dropout(0.5), SumsInTraining()], [SUM]),
        (lambda: [keras.Sequential([AddsMean(), AddsSum()])], [MEAN, SUM]),
    ],
)
def test_what_layers_add_is_tried_too_and_the_model_stays_as_it_is(
    layers: Callable[[], list[keras.layers.Layer]], kinds: list[str]
) -> None:
    model = network(*layers())
    before = [np.asarray(variable).tolist() for variable in model.variables]
    assert may_add_losses(model) is bool(kinds)
    assert sorted(kind for kind in model_loss_kinds(model, FEATURES) if kinds) == sorted(kinds)
    assert [np.asarray(variable).tolist() for variable in model.variables] == before


def masked(*layers: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((5, 2)), keras.layers.Masking(), *layers, keras.layers.Dense(1)])


def ids(*layers: keras.layers.Layer) -> keras.Model:
    first = keras.layers.Embedding(9, 3, mask_zero=True)
    return keras.Sequential([keras.Input((5,), dtype="int32"), first, *layers, keras.layers.Dense(1)])


class OwnMask(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return ops.any(ops.not_equal(inputs, 0.0), axis=-1)


class Called(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = keras.layers.Embedding(9, 3, mask_zero=True), keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.last(self.first(x))


def called() -> keras.Model:
    model = Called()
    model(np.zeros((1, 5), "int32"))
    return model


@pytest.mark.parametrize(
    ("make", "kind", "found"),
    [
        (masked, "float32", [0]),
        (ids, "int32", [0]),
        (lambda: ids(keras.layers.LSTM(2, return_sequences=True)), "int32", [0]),
        (lambda: ids(keras.layers.LSTM(2)), "int32", []),
        (lambda: ids(keras.layers.GlobalAveragePooling1D()), "int32", []),
        (lambda: network(OwnMask()), "float32", [0]),
        (called, "int32", [0]),
        (lambda: network(), "float32", []),
    ],
)
def test_masks_of_outputs_are_found(make: Callable[[], keras.Model], kind: str, found: list[int]) -> None:
    shape = (5,) if kind == "int32" else (5, 2)
    assert masked_outputs(make(), {"features": (shape, kind)}) == found
