"""Symbols of Keras behind compiled losses and their masks: each is what `_compat/keras_losses.py` takes it for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from spark_dl._compat.keras_losses import counts_as_keras, loss_and_divisor, loss_trackers, replace_losses

X, Y = np.ones((4, 3), np.float32), np.zeros((4, 1), np.float32)


def two_outputs() -> keras.Model:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")})
    model.compile("sgd", {"a": "mse", "b": keras.losses.Huber()}, loss_weights={"a": 1.0, "b": 0.5})
    return model


@pytest.mark.parametrize("built", [False, True])
def test_losses_are_replaced_in_steps_and_not_in_the_config(built: bool) -> None:
    model = two_outputs()
    labels = {"a": Y, "b": Y}
    if built:
        model.evaluate(X, labels, verbose=0)
    seen: list[tuple[int, str, Any]] = []

    def replacement(index: int, loss: keras.Loss, weight: Any) -> Any:
        seen.append((index, loss.name, weight))
        return lambda y_true, y_pred, sample_weight=None: ops.convert_to_tensor(2.0)

    config = model.get_compile_config()
    replace_losses(model, replacement)
    assert float(model.compute_loss(y=labels, y_pred=model(X))) == 2.0 + 0.5 * 2.0
    assert seen == [(0, "mse", 1.0), (1, "huber_loss", 0.5)]
    assert model.get_compile_config() == config


def test_a_model_without_losses_has_none_to_replace() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd")
    replace_losses(model, lambda *given: pytest.fail("no loss"))
    assert loss_trackers(model)[1] == []


def test_trackers_are_the_metrics_of_the_losses() -> None:
    model = two_outputs()
    logs = model.evaluate(X, {"a": Y, "b": Y}, verbose=0, return_dict=True)
    whole, each = loss_trackers(model)
    assert float(whole.result()) == pytest.approx(logs["loss"])
    assert [float(one.result()) for one in each] == pytest.approx([logs["a_loss"], logs["b_loss"]])


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ignored", [None, 0])
def test_the_loss_is_a_sum_divided_by_the_divisor(
    reduction: str, weighted: bool, masked: bool, ignored: int | None
) -> None:
    random = np.random.default_rng(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, ignore_class=ignored)
    labels = random.integers(0, 3, (5, 4))
    weights = random.uniform(0.5, 2.0, (5, 4)).astype(np.float32) if weighted else None
    scores = ops.convert_to_tensor(random.normal(size=(5, 4, 3)).astype(np.float32))
    valid = np.ones((5, 4), bool)
    if masked:
        mask = random.random((5, 4)) < 0.5
        scores._keras_mask = ops.convert_to_tensor(mask)
        valid &= mask
    if ignored is not None:
        valid &= labels != ignored
    value, divisor = loss_and_divisor(loss, labels, scores, weights)
    assert "call" not in vars(loss)
    each = np.asarray(keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=True))
    each, used = each * valid * (1 if weights is None else weights), valid if weights is None else valid * weights
    by_weights = reduction == "mean_with_sample_weight"
    if valid.all() and not (weighted and by_weights):
        assert divisor is None
        assert float(value) == pytest.approx(each.mean(), rel=1e-5)
    else:
        assert float(divisor) == pytest.approx((used if by_weights else valid).sum(), rel=1e-5)
        assert float(value) == pytest.approx(each.sum() / float(divisor), rel=1e-5)


def test_a_loss_of_one_number_has_no_divisor() -> None:
    def whole(y_true: Any, y_pred: Any) -> Any:
        return ops.mean(y_pred)

    scores = ops.convert_to_tensor(X)
    scores._keras_mask = ops.convert_to_tensor(X > 0)
    loss = type("Whole", (keras.losses.Loss,), {"call": lambda self, y_true, y_pred: whole(y_true, y_pred)})()
    assert loss_and_divisor(loss, X, scores, None)[1] is None


def test_who_reduces_a_loss() -> None:
    own = type("Own", (keras.losses.Loss,), {"__call__": lambda self, y_true, y_pred, sample_weight=None: 0.0})
    assert not counts_as_keras(own())
    assert not counts_as_keras(own)
    assert all(map(counts_as_keras, ["mse", keras.losses.Huber(), keras.losses.mean_squared_error]))
