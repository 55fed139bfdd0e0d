"""States of the user's layers are joined over ranks by the rule that gives those of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from rows import Together, on_ranks

from spark_dl.errors import ModelError
from spark_dl.train.callbacks.compare_ranks import CompareRanks
from spark_dl.train.callbacks.sync import SyncMetrics
from spark_dl.train.model.layer_states import AVERAGE, may_keep_states, state_joins

INPUTS = {"features": ((3,), "float32")}


class Keeps(keras.layers.Layer):
    """A layer with one state."""

    dtype_of_state, start = "float32", 0.0

    def build(self, shape: Any) -> None:
        self.kept = self.add_weight(
            shape=(), initializer="zeros", dtype=self.dtype_of_state, trainable=False, name="kept"
        )
        self.kept.assign(self.start)

    def after(self, x: Any) -> Any:
        raise NotImplementedError

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.kept.assign(self.after(x))
        return x


class Greatest(Keeps):
    def after(self, x: Any) -> Any:
        return ops.maximum(self.kept, ops.max(ops.abs(x)))


class Least(Keeps):
    start = 9.0

    def after(self, x: Any) -> Any:
        return ops.minimum(self.kept, ops.min(x))


class Rows(Keeps):
    start = 5.0

    def after(self, x: Any) -> Any:
        return self.kept + ops.cast(ops.shape(x)[0], "float32")


class WholeRows(Keeps):
    dtype_of_state = "int32"

    def after(self, x: Any) -> Any:
        return self.kept + ops.shape(x)[0]


class FirstRows(Rows):
    def after(self, x: Any) -> Any:
        return ops.minimum(super().after(x), 2000.0)


class Remainder(WholeRows):
    def after(self, x: Any) -> Any:
        return super().after(x) % 1001


class Steps(Keeps):
    def after(self, x: Any) -> Any:
        return self.kept + 1.0


class Moving(Keeps):
    def after(self, x: Any) -> Any:
        return 0.9 * self.kept + 0.1 * ops.mean(x)


class Deviation(Keeps):
    def after(self, x: Any) -> Any:
        return 0.9 * self.kept + 0.1 * ops.std(x)


class Rounded(Keeps):
    """A state with few values, of which a maximum or a mean is right now and then."""

    def after(self, x: Any) -> Any:
        return ops.round(3 * ops.std(x))


class Scaled(Greatest):
    def call(self, x: Any, training: bool = False) -> Any:
        return super().call(x, training=training) / (1.0 + self.kept)


class Never(Keeps):
    def call(self, x: Any, training: bool = False) -> Any:
        return x


class Fails(Greatest):
    def call(self, x: Any, training: bool = False) -> Any:
        if hasattr(x, "numpy"):
            raise RuntimeError("other rows")
        return x


def model_of(*layers: keras.layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    return model


@pytest.mark.parametrize(
    ("layer", "rule", "used"),
    [
        (Greatest, "max", False),
        (Least, "min", False),
        (Rows, "sum", False),
        (WholeRows, "sum", False),
        (FirstRows, "", False),
        (Remainder, "", False),
        (Steps, AVERAGE, False),
        (Moving, AVERAGE, False),
        (Deviation, "", False),
        (Rounded, "", False),
        (Scaled, "max", True),
    ],
)
def test_the_rule_of_each_state_is_found(layer: Any, rule: str, used: bool) -> None:
    model = model_of(keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), layer())
    index = next(i for i, v in enumerate(model.non_trainable_variables) if "kept" in v.path)
    assert may_keep_states(model)
    (join,), tried = state_joins(model, INPUTS)
    assert (join.index, join.rule, join.used, tried) == (index, rule, used, True)


@pytest.mark.parametrize(("layer", "tried"), [(Never, True), (Fails, False)])
def test_states_without_a_rule(layer: Any, tried: bool) -> None:
    assert state_joins(model_of(layer()), INPUTS) == ((), tried)


def test_states_of_keras_layers_are_not_tried() -> None:
    inner = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    assert not may_keep_states(model_of(inner, keras.layers.Dropout(0.1)))


def trained(callbacks: Callable[[Any], list[Any]] | None = None, alone: Sequence[Any] = ()) -> list[list[np.ndarray]]:
    """Train two epochs on two ranks, and in one process; return the states of each."""
    random = np.random.default_rng(0)
    parts = [random.normal(size=(8, 3)).astype("float32") for _ in range(2)]
    layers = (Greatest, Least, Rows, WholeRows, Steps, Moving)
    whole = np.concatenate([part.reshape(4, 2, 3) for part in parts], axis=1).reshape(16, 3)
    models = [model_of(*[layer() for layer in layers]) for _ in range(3)]
    joins, _ = state_joins(model_of(*[layer() for layer in layers]), INPUTS)
    rules = [(join.index, join.rule) for join in joins]

    def run(rank: Together) -> None:
        me = rank.world.rank
        more = callbacks(rank) if callbacks else []
        agreement = SyncMetrics(rank, state_rules=rules)
        following = [agreement, *more, CompareRanks(rank, agreement.moving_variables)]
        options = {"batch_size": 2, "epochs": 2, "shuffle": False, "verbose": 0, "callbacks": following}
        models[me].fit(parts[me], np.zeros(8), validation_data=(parts[me], np.zeros(8)), **options)

    on_ranks(2, run)
    options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0, "callbacks": list(alone)}
    models[2].fit(whole, np.zeros(16), **options)
    return [[np.asarray(v) for v in model.non_trainable_variables] for model in models]


def test_ranks_have_the_states_of_one_process() -> None:
    *ranks, alone = trained()
    for states in ranks:
        for mine, expected in zip(states, alone, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-5)


class Resets(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 0:
            for layer in self.model.layers[:4]:
                layer.kept.assign(1)


def test_states_that_a_callback_sets_go_on_from_there() -> None:
    *ranks, alone = trained(lambda rank: [Resets()], [Resets()])
    for states in ranks:
        for mine, expected in zip(states, alone, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-5)


class SetsState(keras.callbacks.Callback):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.layers[0].kept.assign(self.value)


def test_a_callback_that_sets_a_state_by_rank_is_refused() -> None:
    with pytest.raises(ModelError, match=r"The ranks train different models at the end of epoch 1: .*kept"):
        trained(lambda rank: [SetsState(float(rank.world.rank))])
    trained(lambda rank: [SetsState(3.0)])
