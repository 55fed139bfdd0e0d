"""Models that take batches of one size, or hand a state from batch to batch, are refused; others are taken."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from spark_dl.errors import ModelError
from spark_dl.ml.fixed_batch import check_saved_batch
from spark_dl.train.model.batch_size import check_any_batch, check_stateless
from spark_dl.train.model.serialization import from_bytes, to_bytes

L = keras.layers


def functional(*layers: Any, batch: int | None = 8, shape: tuple[int, ...] = (2, 1)) -> keras.Model:
    given = keras.Input(batch_shape=(batch, *shape))
    outputs = given
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(given, outputs)


STATEFUL: dict[str, Any] = {
    "an LSTM": lambda: functional(L.LSTM(3, stateful=True)),
    "a GRU within Bidirectional": lambda: functional(L.Bidirectional(L.GRU(3, stateful=True))),
    "an RNN of cells": lambda: functional(L.RNN(L.LSTMCell(3), stateful=True)),
    "one in an inner model": lambda: functional(functional(L.SimpleRNN(3, stateful=True)), L.Dense(1)),
    "one in a Sequential": lambda: keras.Sequential([keras.Input(batch_shape=(8, 2, 1)), L.LSTM(3, stateful=True)]),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_state_between_batches_is_refused(name: str) -> None:
    model = STATEFUL[name]()
    with pytest.raises(ModelError, match=r"keeps a state from one batch to the next.*stateful=True.*stateful=False"):
        check_stateless(model)
    # Saved by a release that took it.
    with pytest.raises(ModelError, match="keeps a state"):
        check_saved_batch(to_bytes(model), lambda: from_bytes(to_bytes(model)))


def reshaped() -> keras.Model:
    given = keras.Input(batch_shape=(8, 2))
    return keras.Model(given, keras.ops.reshape(L.Dense(1)(given), (8, 1)))


def regrouped() -> keras.Model:
    """Makes two rows of four."""
    given = keras.Input(batch_shape=(8, 2))
    return keras.Model(given, keras.ops.reshape(given, (-1, 4)))


@pytest.mark.parametrize("make", [reshaped, regrouped])
def test_a_batch_of_one_size_is_refused(make: Any) -> None:
    with pytest.raises(ModelError, match=r"only takes batches of 8 rows.*for \d rows: "):
        check_any_batch(make())
    with pytest.raises(ModelError, match="only takes batches of 8 rows"):
        check_saved_batch(to_bytes(make()), make)


def test_a_size_that_nothing_depends_on_is_taken() -> None:
    built = keras.Sequential([L.Dense(2), L.BatchNormalization()])
    built(np.zeros((8, 4)))  # which fixes the size
    embedded = functional(L.Embedding(3, 2), L.Flatten(), L.Dense(1), shape=(5,))
    for model in (built, embedded, functional(L.LSTM(3)), functional(L.LSTM(3), batch=None)):
        check_stateless(model)
        check_any_batch(model)
        check_saved_batch(to_bytes(model), lambda model=model: model)
