"""An autoencoder of several columns: fit on two ranks, and the error of each row in all ways of scoring."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasEstimator, KerasModel
from spark_dl.mlflow import save_model

QUIET = {"tracking": None, "verbose": 0, "numWorkers": 2}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """id, x and n, of which one row is far from the others."""
    random = np.random.default_rng(0)
    data = [(i, *(100.0 if i == 7 else 0.1) * random.normal(size=2)) for i in range(60)]
    return spark.createDataFrame([(i, float(a), float(b)) for i, a, b in data], "id long, a double, b double").cache()


def test_the_error_of_each_row_is_a_column_in_all_ways(rows: DataFrame, spark: SparkSession, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Dense(2)])
    estimator = KerasEstimator(
        model=model,
        inputCols=["a", "b"],
        labelCol="features",
        loss=keras.losses.Huber(delta=0.2),
        errorCol="off",
        validationFraction=0.2,
        **QUIET,
    )
    fitted = estimator.fit(rows)
    fitted.save(f"{tmp_path}/model")
    fitted = KerasModel.load(f"{tmp_path}/model")
    local = rows.orderBy("id").toPandas()
    x = local[["a", "b"]].to_numpy(np.float32)
    made = fitted.keras().predict(x, verbose=0)
    expected = keras.losses.huber(x, made, delta=0.2).numpy()
    scored = fitted.transform(rows)
    assert dict(scored.dtypes)["off"] == "double"
    fitted.registerUdf(spark, "off", "error")
    rows.write.parquet(f"{tmp_path}/rows")
    fitted.scoreParquet(f"{tmp_path}/rows", f"{tmp_path}/scored")
    ways = [scored, rows.selectExpr("id", "off(a, b) AS off"), spark.read.parquet(f"{tmp_path}/scored")]
    for way in ways:
        np.testing.assert_allclose([row.off for row in way.orderBy("id").collect()], expected, rtol=1e-5)
    save_model(fitted, f"{tmp_path}/logged")
    import mlflow

    served = mlflow.pyfunc.load_model(f"{tmp_path}/logged")
    assert served.metadata.get_output_schema().input_names() == ["prediction", "off"]
    np.testing.assert_allclose(served.predict(local)["off"], expected, rtol=1e-5)
    assert fitted.evaluate(rows)["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert scored.orderBy("off", ascending=False).first().id == 7


def test_images_are_their_own_labels(spark: SparkSession) -> None:
    random = np.random.default_rng(1)
    files = [(bytearray(tf.io.encode_png(random.integers(0, 256, (4, 4, 1), np.uint8)).numpy()),) for _ in range(24)]
    photos = spark.createDataFrame(files, "photo binary").cache()
    given = keras.Input((4, 4, 1))
    keras.utils.set_random_seed(2)
    hidden = keras.layers.Conv2D(2, 3, padding="same")(keras.layers.Rescaling(1 / 255)(given))
    model = keras.Model(given, keras.layers.Rescaling(255.0)(keras.layers.Conv2D(1, 1)(hidden)))
    x = np.stack([tf.io.decode_png(bytes(content)).numpy() for (content,) in files]).astype(np.float32)
    estimator = KerasEstimator(
        model=model,
        optimizer=keras.optimizers.SGD(1e-6),
        loss="mse",
        featuresCol="photo",
        labelCol="features",
        errorCol="error",
        batchSize=12,
        **QUIET,
    )
    fitted = estimator.fit(photos)
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    model.fit(x, x, batch_size=24, verbose=0)
    for one, other in zip(fitted.keras().get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    errors = [row.error for row in fitted.transform(photos).collect()]
    made = fitted.keras().predict(x, verbose=0)
    np.testing.assert_allclose(sorted(errors), sorted(((made - x) ** 2).mean(axis=(1, 2, 3))), rtol=1e-4)
    assert fitted.evaluate(photos)["loss"] == pytest.approx(np.mean(errors), rel=1e-4)
