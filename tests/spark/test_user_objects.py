"""Models with functions of one name, through all that is done with a model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasEstimator, KerasModel
from spark_dl.errors import ModelError, SavedModelError

# The ranks can't import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

FEATURES = np.arange(32, dtype="float32")[:, None] / 32
QUIET: dict[str, Any] = {"tracking": None, "verbose": 0, "shuffle": False, "batchSize": 8}


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    rows = [([float(x)], float(x), float(1 - x)) for (x,) in FEATURES]
    return spark.createDataFrame(rows, "features array<double>, a double, b double").coalesce(1).cache()


def quantile(q: float) -> Callable[[Any, Any], Any]:
    def loss(y: Any, p: Any) -> Any:
        error = y - p
        return keras.ops.mean(keras.ops.maximum(q * error, (q - 1) * error), axis=-1)

    return loss


def powered(exponent: float) -> Callable[[Any], Any]:
    def act(x: Any) -> Any:
        return keras.ops.sign(x) * keras.ops.abs(x) ** exponent

    return act


def a_model(*activations: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    hidden = inputs = keras.Input((1,))
    for activation in activations:
        hidden = keras.layers.Dense(2, activation=activation)(hidden)
    model = keras.Model(inputs, [keras.layers.Dense(1, name=name)(hidden) for name in ("one", "two")])
    model.compile(
        keras.optimizers.SGD(0.05), [quantile(0.1), quantile(0.9)], metrics=[[quantile(0.5)], [quantile(0.2)]]
    )
    return model


def plain(model: keras.Model, epochs: int) -> dict[str, list[float]]:
    labels = [FEATURES, 1 - FEATURES]
    return model.fit(FEATURES, labels, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history


def predictions(scored: DataFrame) -> np.ndarray:
    return np.array([row[-2:] for row in scored.orderBy("a").collect()], "float32")


def test_closures_of_one_name_stay_apart_in_all_that_a_fitted_model_does(data: DataFrame, tmp_path: Path) -> None:
    model = a_model(powered(1.5), keras.layers.LeakyReLU(0.3), lambda x: x * 0.5)
    fitted = KerasEstimator(model=model, labelCols=["a", "b"], epochs=2, **QUIET).fit(data)
    expected = plain(model, 2)
    assert fitted.summary.history.keys() == expected.keys()
    for name, values in expected.items():
        assert fitted.summary.history[name] == pytest.approx(values, rel=1e-5), name
    outputs = np.concatenate(model.predict(FEATURES, verbose=0), axis=1)
    for one in (fitted, fitted.copy()):
        np.testing.assert_allclose(predictions(one.transform(data)), outputs, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate(fitted.keras().predict(FEATURES, verbose=0), axis=1), outputs, rtol=1e-5)
    data.write.parquet(str(tmp_path / "rows"))
    fitted.scoreParquet(str(tmp_path / "rows"), str(tmp_path / "scored"))
    scored = data.sparkSession.read.parquet(str(tmp_path / "scored"))
    np.testing.assert_allclose(predictions(scored), outputs, rtol=1e-5)
    evaluated = model.evaluate(FEATURES, [FEATURES, 1 - FEATURES], verbose=0, return_dict=True)
    assert fitted.evaluate(data) == pytest.approx(evaluated, rel=1e-5)
    # Only this process knows the lambda.
    with pytest.raises(SavedModelError, match=r"can't be saved.*'spark_dl.custom>lambda' in Dense 'dense_\d"):
        fitted.save(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()

    again = KerasEstimator(warmStart=fitted, labelCols=["a", "b"], epochs=3, initialEpoch=2, **QUIET).fit(data)
    more = plain(model, 1)
    for name, values in more.items():
        assert again.summary.history[name] == pytest.approx(values, rel=1e-5), name


def test_a_saved_model_scores_and_never_takes_one_function_for_another(data: DataFrame, tmp_path: Path) -> None:
    registered = keras.saving.register_keras_serializable("users", "root")(powered(1.5))
    model = a_model(registered)
    fitted = KerasEstimator(model=model, labelCols=["a", "b"], checkpointDir=str(tmp_path), **QUIET).fit(data)
    fitted.save(str(tmp_path / "model"))
    loaded = KerasModel.load(str(tmp_path / "model"))
    np.testing.assert_allclose(predictions(loaded.transform(data)), predictions(fitted.transform(data)))
    for use in (loaded.keras, lambda: loaded.evaluate(data)):
        with pytest.raises(SavedModelError, match=r"'spark_dl.custom>loss', 'spark_dl.custom>loss_2'"):
            use()


def test_what_can_not_be_carried_is_refused_before_a_job(data: DataFrame) -> None:
    model = a_model()
    one = model.get_layer("one")
    model.compile("sgd", [lambda y, p: keras.ops.mean((y - p) ** 2) + keras.ops.sum(one.kernel), "mse"])
    with pytest.raises(ModelError, match="holds a part of the given model"):
        KerasEstimator(model=model, labelCols=["a", "b"], **QUIET).plan(data)


class Annealed(keras.losses.Loss):
    """A squared error whose weight a callback changes."""

    def __init__(self, name: str = "annealed") -> None:
        super().__init__(name=name)
        self.weight = keras.Variable(1.0, trainable=False)

    def call(self, y: Any, p: Any) -> Any:
        return self.weight * keras.ops.mean(keras.ops.square(y - p), axis=-1)


class Anneal(keras.callbacks.Callback):
    """Halves a variable after each epoch: that of the model's loss, or one that it holds."""

    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.held = held

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        weight = self.model.loss.weight if self.held is None else self.held
        weight.assign(weight / 2)


def test_a_callback_changes_the_loss_through_its_model_and_through_nothing_else(
    data: DataFrame, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), Annealed())
    options: dict[str, Any] = {"model": model, "labelCols": ["b"], "epochs": 3, **QUIET}
    fitted = KerasEstimator(callbacks=[Anneal()], **options).fit(data)
    holding = KerasEstimator(callbacks=[Anneal(model.loss.weight)], cacheDir=str(tmp_path), **options)
    with pytest.raises(ModelError, match=r"^callbacks\[0\] \(Anneal\)\.held.*Received: the variable"):
        holding.fit(data)
    assert list(tmp_path.iterdir()) == []
    history = model.fit(
        FEATURES, 1 - FEATURES[:, 0], batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=[Anneal()]
    ).history
    assert fitted.summary.history["loss"] == pytest.approx(history["loss"], rel=1e-5)
    assert history["loss"][2] < 0.3 * history["loss"][0]
