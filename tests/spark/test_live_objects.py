"""What is set on Keras objects and in Keras itself counts in the ranks' processes, in scoring, and in a second fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import models
import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasRegressor, KerasRegressorModel

QUIET = {"tracking": None, "verbose": 0, "shuffle": False, "batchSize": 64}


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


@pytest.fixture(scope="module", autouse=True)
def settings() -> Iterator[None]:
    before = keras.config.dtype_policy(), keras.config.epsilon()
    keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_epsilon(1e3)  # a lower bound of norms
    yield
    keras.config.set_dtype_policy(before[0])
    keras.config.set_epsilon(before[1])


def optimizer() -> Any:
    one = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    one.exclude_from_weight_decay(var_names=["bias"])
    return one


def model() -> keras.Model:
    keras.utils.set_random_seed(1)
    base = keras.Sequential([keras.layers.Dense(4), keras.layers.LayerNormalization()], name="base")
    start = keras.Input((4,))
    ends = keras.layers.Dense(2, keras.layers.PReLU())(base(keras.ops.normalize(start)))
    made = keras.Model(start, keras.layers.Dense(1, dtype="float32")(ends))
    base.trainable = False
    made.compile(optimizer(), "mse")
    return made


@pytest.fixture(scope="module")
def fitted(data: DataFrame) -> KerasRegressorModel:
    return KerasRegressor(model=model(), optimizer=optimizer(), epochs=3, **QUIET).fit(data)


def rows(data: DataFrame) -> tuple[np.ndarray, np.ndarray]:
    found = data.select("features", "label").toPandas()
    return np.stack(found["features"]).astype("float32"), found["label"].to_numpy()


def test_training_is_plain_keras_under_the_drivers_settings(data: DataFrame, fitted: KerasRegressorModel) -> None:
    plain, trained = model(), fitted.keras()
    plain.fit(*rows(data), batch_size=64, epochs=3, shuffle=False, verbose=0)
    for ours, theirs in zip(trained.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)
    assert type(trained.optimizer) is type(plain.optimizer) is keras.optimizers.LossScaleOptimizer
    assert not trained.get_layer("base").trainable


def test_scoring_is_plain_keras_under_the_drivers_settings(data: DataFrame, fitted: KerasRegressorModel) -> None:
    expected = fitted.keras().predict(rows(data)[0], verbose=0).ravel()
    found = fitted.transform(data).toPandas()["prediction"].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    labels = rows(data)[1]
    assert fitted.evaluate(data)["loss"] == pytest.approx(((expected - labels) ** 2).mean(), rel=5e-3)


def test_what_was_frozen_can_be_trained_in_a_second_fit(data: DataFrame, fitted: KerasRegressorModel) -> None:
    trained = fitted.keras()
    before = trained.get_layer("base").get_weights()
    trained.get_layer("base").trainable = True
    # Loss scaling leaves out the first steps, whose gradients overflow.
    again = KerasRegressor(model=trained, optimizer=optimizer(), loss="mse", epochs=8, **QUIET).fit(data).keras()
    for one, other in zip(before, again.get_layer("base").get_weights(), strict=True):
        assert (one != other).any()
    assert again.get_layer("base").trainable
