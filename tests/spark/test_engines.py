"""Scoring by another engine than Keras: all ways in Spark, saved and loaded, with the same numbers."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifierModel


def chances(frame: DataFrame) -> np.ndarray:
    rows = frame.withColumn("chances", vector_to_array("probability")).orderBy("id").collect()
    return np.array([row.chances for row in rows])


def test_every_way_of_scoring_by_an_engine_gives_kerass_numbers(spark: SparkSession, tmp_path: Path) -> None:
    data = models.frame(spark, rows=60).cache()
    model = models.classifier()
    expected = model.predict(np.array([row.features for row in data.orderBy("id").collect()], np.float32), verbose=0)
    KerasClassifierModel.fromKeras(model, data, scoreEngine="onnx").save(f"{tmp_path}/saved")
    loaded = KerasClassifierModel.load(f"{tmp_path}/saved")
    assert loaded.getScoreEngine() == "onnx"
    np.testing.assert_allclose(chances(loaded.transform(data)), expected, atol=1e-5)
    loaded.registerUdf(spark, "by_onnx", "probability")
    found = data.selectExpr("id", "by_onnx(features) AS p").orderBy("id").collect()
    np.testing.assert_allclose([row.p for row in found], expected, atol=1e-5)
    data.write.parquet(f"{tmp_path}/rows")
    assert loaded.scoreParquet(f"{tmp_path}/rows", f"{tmp_path}/bulk") == 60
    np.testing.assert_allclose(chances(spark.read.parquet(f"{tmp_path}/bulk")), expected, atol=1e-5)
    stream = loaded.transform(spark.readStream.schema(data.schema).parquet(f"{tmp_path}/rows"))
    writer = stream.writeStream.trigger(availableNow=True).option("checkpointLocation", f"{tmp_path}/state")
    assert writer.start(f"{tmp_path}/streamed").awaitTermination(120)
    np.testing.assert_allclose(chances(spark.read.parquet(f"{tmp_path}/streamed")), expected, atol=1e-5)
