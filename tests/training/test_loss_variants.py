"""Losses and metrics as users write them: classes, without get_config, with from_logits, and eager models."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pyspark.sql import types as T

from spark_dl import KerasClassifier, KerasRegressor
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.score.heads import Classification

ROWS = T.StructType([T.StructField("features", T.ArrayType(T.FloatType())), T.StructField("label", T.IntegerType())])


class Plain(keras.losses.Loss):
    """Without a get_config, and nothing that it could tell."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


class Powered(keras.losses.Loss):
    """With an argument, and without a get_config."""

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.power(keras.ops.abs(y_true - y_pred), self.power), axis=-1)


class OfLogits(keras.losses.Loss):
    """Says by from_logits what it takes."""

    def __init__(self, from_logits: bool = False) -> None:
        super().__init__()
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=self.from_logits)

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits}


class Count(keras.metrics.Metric):
    """Without a get_config."""

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(keras.ops.cast(keras.ops.shape(y_true)[0], "float32"))

    def result(self) -> Any:
        return self.total.value


def net(units: int = 1, eager: bool = False, **compiled: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
    if compiled or eager:
        model.compile("sgd", run_eagerly=eager, **compiled)
    return model


def spec(estimator: Any) -> FitSpec:
    return build_fit_spec(estimator, ROWS, estimator._options())


@pytest.mark.parametrize(
    "options",
    [
        {"model": net(loss=Plain(), metrics=[Count()])},
        {"model": net(eager=True, loss=Plain()), "learningRate": 0.5},
        {"model": net(), "loss": Powered(3.0)},
        {"model": net(), "loss": Plain, "metrics": [Count]},
        {"model": net(loss=Plain)},
        {"model": net(), "loss": keras.losses.MeanSquaredError, "metrics": [keras.metrics.MeanAbsoluteError]},
    ],
)
def test_losses_and_metrics_without_get_config_and_as_classes_train(options: dict[str, Any]) -> None:
    found = spec(KerasRegressor(**options))
    before = found.model.get_weights()
    history = found.model.fit(np.ones((8, 2), np.float32), np.full((8, 1), 3.0, np.float32), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert found.model.run_eagerly is options["model"].run_eagerly
    assert any((a != b).any() for a, b in zip(before, found.model.get_weights(), strict=True))


@pytest.mark.parametrize("logits", [True, False])
def test_a_custom_loss_may_say_by_from_logits_what_it_takes(logits: bool) -> None:
    layers = [keras.layers.Dense(3)] if logits else [keras.layers.Dense(3), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((2,)), *layers])
    head = spec(KerasClassifier(model=model, loss=OfLogits(logits))).head
    assert isinstance(head, Classification)
    assert head.from_logits is logits
