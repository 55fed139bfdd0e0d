"""Magnitude pruning: the schedule, the zeros of the saved model, and ranks that choose the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import keras
import numpy as np
import pytest
from rows import on_ranks

from spark_dl.callbacks import MagnitudePruning
from spark_dl.errors import ModelError, OptionError
from spark_dl.train.loop import train
from spark_dl.train.model.serialization import from_bytes

from .test_train import WIDTH, a_plan

EPOCHS = 4


def net() -> keras.Model:
    keras.utils.set_random_seed(4)
    layers = [keras.layers.Dense(16, "relu", name="wide"), keras.layers.Dense(1, name="last")]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers])
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return model


class Kept(keras.callbacks.Callback):
    """Keeps what each rank's weights are after each step."""

    steps: ClassVar[dict[int, list[np.ndarray]]] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps.setdefault(id(self), []).append(np.array(self.model.layers[0].kernel))


def test_ranks_prune_the_same_weights_and_the_saved_model_has_the_zeros(tmp_path: Path) -> None:
    Kept.steps.clear()
    callbacks = cloudpickle.dumps([MagnitudePruning(0.75, begin=1, end=2, layers=["wide"]), Kept()])
    plan = replace(a_plan(tmp_path, net(), None, batch_size=32, epochs=EPOCHS), callbacks=callbacks)
    result = on_ranks(2, lambda rank: train(plan, rank, lambda content: None).result)[0]
    first, second = Kept.steps.values()
    np.testing.assert_array_equal(first, second)
    shares = [np.mean(kernel == 0) for kernel in first]
    assert sorted({round(share, 2) for share in shares}) == [0, 0.65, 0.75]
    wide, _, last, _ = from_bytes(plan.workspace.read(result.model_file)).get_weights()
    assert np.mean(wide == 0) == pytest.approx(0.75, abs=1 / wide.size)
    assert np.all(last != 0)
    assert not np.any(np.signbit(wide[wide == 0]))


def test_the_share_of_zeros_rises_and_then_stays() -> None:
    shares = [MagnitudePruning(0.8, begin=2, end=5).sparsity_at(epoch, 10) for epoch in range(8)]
    assert shares[:2] == [0, 0]
    assert np.all(np.diff(shares[1:6]) > 0)
    assert shares[5:] == pytest.approx([0.8] * 3)
    assert np.all(np.diff(shares[1:6], 2) < 0)
    assert MagnitudePruning(0.8).sparsity_at(9, 10) == MagnitudePruning(0.8).sparsity_at(4, 10) == 0.8


def test_moving_averages_of_the_weights_have_the_zeros_too() -> None:
    model = net()
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse")
    rows = np.random.default_rng(0).normal(size=(32, WIDTH))
    model.fit(rows, rows[:, 0], epochs=2, callbacks=[MagnitudePruning(0.5, end=0)], verbose=0)
    assert np.mean(model.get_weights()[0] == 0) == 0.5


def test_what_cant_be_pruned_is_an_error() -> None:
    for options in (
        {"sparsity": 1.0},
        {"sparsity": 0},
        {"begin": 3, "end": 2},
        {"layers": "wide"},
        {"sparsity": "0.5"},
        {"begin": "1"},
    ):
        with pytest.raises(OptionError, match="MagnitudePruning"):
            MagnitudePruning(**options)
    with pytest.raises(ModelError, match="Did you mean 'wide'"):
        net().fit(np.ones((4, WIDTH)), np.ones(4), callbacks=[MagnitudePruning(layers=["wyde"])], verbose=0)
