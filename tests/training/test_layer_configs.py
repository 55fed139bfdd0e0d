"""Models of equal weights that are other models: which of their layers differ."""

from __future__ import annotations

import re
from typing import Any

import keras
import pytest
from keras import layers

from spark_dl.train.model.layer_configs import differing_layers
from spark_dl.train.model.serialization import from_bytes, to_bytes


def network(act: str = "relu", rate: float = 0.5, dtype: str = "float32", inner: Any = layers.LSTM) -> keras.Model:
    given = keras.Input((4,))
    hidden = layers.Dropout(rate)(layers.Dense(8, act, dtype=dtype)(layers.Normalization()(given)))
    hidden = layers.Bidirectional(inner(3))(layers.Reshape((2, 4))(hidden))
    model = keras.Model(given, keras.Sequential([layers.Dense(3, act), layers.Dense(2)])(hidden))
    model.compile("adam", "mse")
    return model


def saved(model: keras.Model) -> keras.Model:
    return from_bytes(to_bytes(model))


def test_names_are_no_difference() -> None:
    assert differing_layers(saved(network()), saved(network())) == []


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"act": "tanh"}, ['dense\\w* has activation="relu" in place of "tanh"'] * 2),
        ({"rate": 0.1}, ["dropout\\w* has rate=0.5 in place of 0.1"]),
        ({"dtype": "mixed_float16"}, ["dense\\w* has dtype=.*float32.* in place of .*mixed_float16.*"]),
    ],
    ids=str,
)
def test_arguments_are(changed: dict[str, Any], found: list[str]) -> None:
    differences = differing_layers(saved(network()), saved(network(**changed)))
    assert len(differences) == len(found)
    for difference, pattern in zip(differences, found, strict=True):
        assert re.fullmatch(pattern, difference)


def test_other_classes_and_other_numbers_of_layers_are() -> None:
    found = differing_layers(saved(network()), saved(network(inner=layers.GRU)))
    assert any("is a LSTM in place of a GRU" in one for one in found)
    found = differing_layers(saved(network()), keras.Sequential([keras.Input((1,)), layers.Dense(1)]))
    assert len(found) == 1
    assert "layers in place of" in found[0]
