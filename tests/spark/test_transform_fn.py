"""transformFn: the same in training, in every way of scoring, in what is saved, and in fits that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier, KerasRegressor
from spark_dl.errors import ModelError, OptionError

QUIET: dict[str, Any] = {"tracking": None, "verbose": 0}
SCALE, OFFSET = np.array([2.0, 0.5, 1.0, 3.0], np.float32), np.array([1.0, 0.0, -2.0, 0.5], np.float32)


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


def layer() -> keras.layers.Normalization:
    return keras.layers.Normalization(mean=OFFSET, variance=1.0 / SCALE**2, name="norm")


def of_rows(rows: Any) -> np.ndarray:
    return np.array([row.features for row in rows], np.float32)


def test_a_fit_is_that_of_the_model_on_transformed_features(data: DataFrame) -> None:
    own, model = layer(), models.regressor()
    before = own.get_config(), own.trainable, [weights.copy() for weights in model.get_weights()]
    options: dict[str, Any] = {"loss": "mse", "epochs": 2, "numWorkers": 2, "batchSize": 8, **QUIET}
    fitted = KerasRegressor(model=model, transformFn=own, **options).fit(data)

    numbers = [((F.col(f"f{i}") - float(OFFSET[i])) * float(SCALE[i])).cast("float") for i in range(4)]
    plain = KerasRegressor(model=model, **options).fit(data.withColumn("features", F.array(*numbers)))
    for ours, theirs in zip(fitted.keras().trainable_weights, plain.keras().trainable_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)

    rows = fitted.transform(data).collect()
    raw = of_rows(rows)
    np.testing.assert_allclose(
        [row.prediction for row in rows], fitted.keras().predict(raw, verbose=0)[:, 0], rtol=1e-5
    )
    inner = plain.keras().predict((raw - OFFSET) * SCALE, verbose=0)[:, 0]
    np.testing.assert_allclose([row.prediction for row in rows], inner, rtol=1e-3, atol=1e-4)
    assert fitted.evaluate(data)["loss"] == pytest.approx(np.mean((of_labels(rows) - inner) ** 2), rel=1e-3)
    assert (own.get_config(), own.trainable) == before[:2]
    for weights, others in zip(before[2], model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, others)


def of_labels(rows: Any) -> np.ndarray:
    return np.array([row.label for row in rows], np.float32)


def test_it_is_saved_with_estimator_and_model_and_stays_once_in_a_warm_start(data: DataFrame, tmp_path: Path) -> None:
    adapted = keras.layers.Normalization(name="norm")
    adapted.adapt(of_rows(data.collect()))
    original = KerasRegressor(model=models.regressor(), loss="mse", transformFn=adapted, shuffle=False, **QUIET)
    original.write().save(f"{tmp_path}/estimator")
    fitted, again = original.fit(data), KerasRegressor.load(f"{tmp_path}/estimator").fit(data)
    for ours, theirs in zip(fitted.keras().get_weights(), again.keras().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    fitted.write().save(f"{tmp_path}/model")
    loaded = type(fitted).load(f"{tmp_path}/model")
    assert loaded.transform(data).collect() == fitted.transform(data).collect()

    further = original.copy({original.model: None, original.warmStart: loaded}).fit(data)
    assert further.keras().count_params() == fitted.keras().count_params()
    assert further.summary.history["loss"][0] < fitted.summary.history["loss"][0]


def test_texts_become_numbers_in_the_model(data: DataFrame, spark: SparkSession) -> None:
    rows = [("good fine good",), ("bad awful",), ("fine",), ("awful bad bad",)] * 8
    texts = spark.createDataFrame(
        [(text, float("bad" in text or "awful" in text)) for (text,) in rows], ["text", "label"]
    )
    words = keras.layers.TextVectorization(output_sequence_length=3)
    words.adapt([text for (text,) in rows])
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int64"),
            keras.layers.Embedding(8, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    classifier = KerasClassifier(
        model=model,
        transformFn=keras.Sequential([keras.Input((1,), dtype="string"), words]),
        optimizer=keras.optimizers.Adam(0.1),
        featuresCol="text",
        epochs=5,
        **QUIET,
    )
    assert "text" in str(classifier.plan(texts))
    assert "string" in str(classifier.plan(texts))
    fitted = classifier.fit(texts)
    scored = fitted.transform(texts).collect()
    assert [row.prediction for row in scored] == [row.label for row in scored]
    further = classifier.copy({classifier.model: None, classifier.warmStart: fitted, classifier.epochs: 1}).fit(texts)
    assert further.summary.history["loss"][0] < fitted.summary.history["loss"][0]


@pytest.mark.parametrize(
    ("transform", "error", "expected"),
    [
        ("norm", OptionError, r"transformFn can't change the model's features.*a Keras layer.*'norm'"),
        ({"x": layer()}, OptionError, r"transformFn can't change the model's features.*a Keras layer"),
        (keras.layers.RandomFlip(name="flip"), OptionError, r"draws random numbers.*flip \(RandomFlip\).*augment"),
        (keras.layers.Dense(3), ModelError, r"doesn't fit the model's input.*\(4,\).*\(3,\)"),
    ],
)
def test_what_can_not_be_used_is_refused_before_any_job(
    data: DataFrame, transform: Any, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        KerasRegressor(model=models.regressor(), loss="mse", transformFn=transform, **QUIET).plan(data)
