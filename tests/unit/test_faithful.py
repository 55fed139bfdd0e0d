"""Whether two values are the same, by what they hold: of arguments of layers and losses, and of their copies."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest

from spark_dl.train.model.faithful import is_same


class Held:
    def __init__(self, value: Any) -> None:
        self.value = value

    def method(self) -> None:
        """Do nothing."""


def closed_over(value: Any) -> Any:
    return lambda: value


SAME: dict[str, tuple[Any, Any]] = {
    "numbers": (1.5, 1.5),
    "NaN": (float("nan"), float("nan")),
    "arrays": (np.array([1.0, np.nan]), np.array([1.0, np.nan])),
    "a list and a tuple": ([1, [2]], (1, (2,))),
    "dicts": ({"a": [1]}, {"a": [1]}),
    "Keras's objects": (keras.regularizers.L2(0.5), keras.regularizers.L2(0.5)),
    "symbolic tensors": (keras.Input((2,)), keras.Input((2,))),
    "methods": (Held(1).method, Held(1).method),
    "partial functions": (functools.partial(max, 1, key=abs), functools.partial(max, 1, key=abs)),
    "closures": (closed_over(1), closed_over(1)),
    "objects": (Held([1]), Held([1])),
}
OTHER: dict[str, tuple[Any, Any]] = {
    "numbers": (1.5, 2.5),
    "a number and a text": (1, "1"),
    "arrays": (np.array([1.0]), np.array([2.0])),
    "shapes": (np.zeros(2), np.zeros((2, 1))),
    "lengths": ([1], [1, 2]),
    "keys": ({"a": 1}, {"b": 1}),
    "values": ({"a": 1}, {"a": 2}),
    "Keras's objects": (keras.regularizers.L2(0.5), keras.regularizers.L2(0.25)),
    "classes": (keras.regularizers.L2(0.5), Held(0.5)),
    "methods": (Held(1).method, Held(2).method),
    "partial functions": (functools.partial(max, 1), functools.partial(max, 2)),
    "closures": (closed_over(1), closed_over(2)),
    "objects": (Held([1]), Held([2])),
}


@pytest.mark.parametrize("what", SAME)
def test_values_that_hold_the_same_are_the_same(what: str) -> None:
    assert is_same(*SAME[what])


@pytest.mark.parametrize("what", OTHER)
def test_values_that_hold_others_are_others(what: str) -> None:
    assert not is_same(*OTHER[what])
