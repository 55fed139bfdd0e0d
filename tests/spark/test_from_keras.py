"""A Transformer from a Keras model without a fit: all ways of scoring, saved, logged, and the start of a fit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import mlflow
import models
import numpy as np
import pytest
from PIL import Image
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import spark_dl.mlflow
from spark_dl import KerasClassifier, KerasClassifierModel, KerasModel
from spark_dl.errors import ModelError

NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


def chances(frame: DataFrame) -> np.ndarray:
    rows = frame.withColumn("chances", vector_to_array("probability")).orderBy("id").collect()
    return np.array([row.chances for row in rows])


def test_every_way_of_scoring_gives_the_models_numbers(data: DataFrame, spark: SparkSession, tmp_path: Path) -> None:
    model = models.classifier()
    features = np.array([row.features for row in data.orderBy("id").collect()], np.float32)
    expected = model.predict(features, verbose=0)
    made = KerasClassifierModel.fromKeras(model, data, topK=2, classLabels=NAMES)
    scored = made.transform(data)
    np.testing.assert_allclose(chances(scored), expected, atol=1e-6)
    best = [row.topK[0].label for row in scored.orderBy("id").collect()]
    assert best == [NAMES[index] for index in expected.argmax(axis=1)]

    made.write().overwrite().save(f"{tmp_path}/saved")
    loaded = KerasClassifierModel.load(f"{tmp_path}/saved")
    np.testing.assert_allclose(chances(loaded.transform(data)), expected, atol=1e-6)
    loaded.registerUdf(spark, "made_of_keras", "probability")
    told = data.selectExpr("id", "made_of_keras(features) AS p").orderBy("id").collect()
    np.testing.assert_allclose([row.p for row in told], expected, atol=1e-6)

    data.write.parquet(f"{tmp_path}/rows")
    assert loaded.scoreParquet(f"{tmp_path}/rows", f"{tmp_path}/bulk") == 60
    np.testing.assert_allclose(chances(spark.read.parquet(f"{tmp_path}/bulk")), expected, atol=1e-6)
    stream = loaded.transform(spark.readStream.schema(data.schema).parquet(f"{tmp_path}/rows"))
    writer = stream.writeStream.trigger(availableNow=True).option("checkpointLocation", f"{tmp_path}/state")
    assert writer.start(f"{tmp_path}/streamed").awaitTermination(120)
    np.testing.assert_allclose(chances(spark.read.parquet(f"{tmp_path}/streamed")), expected, atol=1e-6)


def test_it_is_logged_and_served(data: DataFrame, tmp_path: Path) -> None:
    model = models.classifier()
    spark_dl.mlflow.save_model(KerasClassifierModel.fromKeras(model), f"{tmp_path}/logged")
    rows = data.select("features").toPandas()
    served = mlflow.pyfunc.load_model(f"{tmp_path}/logged").predict(rows)
    expected = model.predict(np.array(rows["features"].to_list(), np.float32), verbose=0)
    np.testing.assert_allclose(np.stack(served["probability"].to_list()), expected, atol=1e-6)


def test_a_fit_begins_with_it_and_its_own_loss_is_evaluated(data: DataFrame) -> None:
    model = models.classifier()
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    made = KerasClassifierModel.fromKeras(model)
    start = KerasClassifier(warmStart=made, epochs=1, tracking=None, verbose=0).fit(data)
    for ours, theirs in zip(start.keras().get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert made.evaluate(data) == pytest.approx(start.evaluate(data), rel=1e-5)
    # Also with a loss of one-hot rows.
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    assert KerasModel.fromKeras(model).evaluate(data) == pytest.approx(start.evaluate(data), rel=1e-5)
    model.compile("sgd", "categorical_crossentropy", metrics=["sparse_categorical_accuracy"])
    with pytest.raises(ModelError, match="labels are one-hot rows"):
        KerasModel.fromKeras(model).evaluate(data)
    bare = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ModelError, match="isn't compiled"):
        KerasClassifierModel.fromKeras(bare).evaluate(data)


def png(values: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(values).save(target, "PNG")
    return target.getvalue()


def test_a_featurizer_takes_photographs_and_kerass_own_preprocessing(spark: SparkSession) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    frame = spark.createDataFrame([(i, png(one)) for i, one in enumerate(pixels)], "id int, photo binary")
    image = keras.Input((16, 16, 3))
    body = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()], name="body")
    net = keras.Model(image, keras.layers.Dense(2)(body(image)))
    options: dict[str, Any] = {"featuresCol": "photo", "predictionCol": "vector", "outputFormat": "vector"}
    made = KerasModel.fromKeras(
        net, frame, outputLayer="body", transformFn=keras.applications.resnet50.preprocess_input, **options
    )
    rows = made.transform(frame).withColumn("vector", vector_to_array(F.col("vector"))).orderBy("id").collect()
    expected = body(keras.applications.resnet50.preprocess_input(pixels.astype(np.float32)))
    np.testing.assert_allclose([row.vector for row in rows], expected, rtol=1e-4, atol=1e-3)
