"""What a copy of a model may differ in from the model, each named in the error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dl.errors import ModelError
from spark_dl.train.model.round_trip import refuse_forgotten


def double(x: Any) -> Any:
    return 2 * x


def half(x: Any) -> Any:
    return x / 2


class Own(keras.layers.Layer):
    """A layer with constants and a function that its config doesn't have."""

    def __init__(
        self, scale: float = 1.0, shift: float = 0.0, drawn: float = 0.5, function: Any = double, **options: Any
    ) -> None:
        super().__init__(**options)
        self.scale = np.full(2, scale)
        self.shift = tf.constant(shift)
        self.tables = {"drawn": [np.full(2, drawn), tf.fill([3], drawn)]}
        self.function = function

    def call(self, inputs: Any) -> Any:
        return self.function(inputs) * float(self.scale[0])


def network(first: Callable[..., Any] = keras.layers.Dense, optimizer: Any = "adam", **own: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,), name="given"), first(3, name="first"), Own(name="own", **own)])
    model.compile(optimizer, "mse")
    return model


def changed(change: Callable[[keras.Model], Any]) -> keras.Model:
    copy = network()
    change(copy)
    return copy


def dense(**options: Any) -> Callable[..., Any]:
    return lambda units, name: keras.layers.Dense(units, name=name, **options)


OTHERS: dict[str, tuple[Callable[[], keras.Model], str]] = {
    "a frozen layer": (
        lambda: changed(lambda copy: setattr(copy.get_layer("first"), "trainable", False)),
        r"trainable False in place of True of first \(Dense\)",
    ),
    "other weights": (
        lambda: changed(lambda copy: copy.get_layer("first").bias.assign([1.0, 2.0, 3.0])),
        r"other values of the variable .*first/bias of first",
    ),
    "no bias": (lambda: network(dense(use_bias=False)), "1 variables in place of 2"),
    "a regularizer": (lambda: network(dense(kernel_regularizer="l2")), "another regularizer of the variable"),
    "another class": (
        lambda: network(lambda units, name: keras.layers.EinsumDense("ab,bc->ac", units, bias_axes="c", name=name)),
        r"class .*EinsumDense.* in place of .*Dense",
    ),
    "an array": (lambda: network(scale=2.0), r"the attribute 'scale' of own \(Own\)"),
    "a tensor": (lambda: network(shift=1.0), r"the attribute 'shift' of own \(Own\)"),
    "arrays and tensors in lists": (lambda: network(drawn=0.25), r"the attribute 'tables' of own \(Own\)"),
    "a function": (lambda: network(function=half), r"the attribute 'function' of own \(Own\)"),
    "another optimizer": (lambda: network(optimizer="sgd"), "the optimizer .*SGD"),
    "no such layer": (
        lambda: keras.Sequential([keras.Input((2,), name="given"), Own(name="own")]),
        r"the layer first \(Dense\) isn't there",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_a_copy_has_lost_is_named(what: str) -> None:
    make, message = OTHERS[what]
    with pytest.raises(ModelError, match=rf"isn't the same after Keras has saved and loaded it.*{message}"):
        refuse_forgotten(network(), make())


def test_an_equal_copy_passes() -> None:
    refuse_forgotten(network(), network())


def test_a_tensor_that_a_call_has_left_is_no_difference() -> None:
    model = network()
    model.get_layer("own").seen = [tf.zeros(3)]  # such as attention scores
    refuse_forgotten(model, network())
