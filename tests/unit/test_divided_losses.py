"""Losses of an evaluation in parts are those of all rows at once, also where they are divided by valid positions."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from spark_dl.train.metrics.divided_losses import DividedLosses
from spark_dl.train.step import build_state

X = np.random.default_rng(0).normal(size=(6, 4, 2)).astype(np.float32)
# One valid position in each of the first rows, all in the last.
TAGS = np.where((np.arange(4) == 0) | (np.arange(6)[:, None] > 3), np.arange(24).reshape(6, 4) % 3, -1)
RATE = X.sum(axis=(1, 2))


def tagged(outputs: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    given = keras.Input((4, 2))
    tags = keras.layers.Dense(3, name="tags")(given)
    rate = keras.layers.Dense(1, name="rate")(keras.layers.Flatten()(given))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    if outputs == 1:
        model = keras.Model(given, tags)
        model.compile("sgd", loss)
    else:
        model = keras.Model(given, {"tags": tags, "rate": rate})
        model.compile("sgd", {"tags": loss, "rate": "mse"}, loss_weights={"tags": 3.0, "rate": 0.5})
    return model


@pytest.mark.parametrize("outputs", [1, 2])
def test_parts_of_other_sizes_give_the_loss_of_all_rows(outputs: int) -> None:
    labels = TAGS if outputs == 1 else {"tags": TAGS, "rate": RATE}
    parts = [slice(0, 2), slice(2, 3), slice(3, 6)]
    whole, model = tagged(outputs), tagged(outputs)
    expected = whole.evaluate(X, labels, batch_size=6, verbose=0, return_dict=True)
    of_part = {name: label[:1] for name, label in labels.items()} if isinstance(labels, dict) else labels[:1]
    build_state(model, (X[:1], of_part))
    losses = DividedLosses(model)
    for part in parts:
        given = {name: label[part] for name, label in labels.items()} if isinstance(labels, dict) else labels[part]
        model.test_step((X[part], given))
    by_batches = {name: float(value) for name, value in model.get_metrics_result().items()}
    assert by_batches["loss"] != pytest.approx(expected["loss"], rel=1e-2)
    losses.correct(losses.sums())
    found = {name: float(value) for name, value in model.get_metrics_result().items()}
    assert found == pytest.approx(expected, rel=1e-5)
