"""Wide Vectors, as HashingTF and CountVectorizer make them: sparse until the batch, in training and in scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.feature import HashingTF, Tokenizer
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DoubleType, LongType, StructField, StructType

import spark_dl
import spark_dl.mlflow
from spark_dl import KerasClassifier, KerasClassifierModel
from spark_dl.errors import DataError

WIDTH, ROWS = 20_000, 120
QUIET: dict[str, Any] = {"tracking": None, "verbose": 0}
SCHEMA = StructType(
    [StructField("id", LongType()), StructField("features", VectorUDT()), StructField("label", DoubleType())]
)


def network(width: int = WIDTH, seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(2, "softmax")])


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    """The class is told by which of two far places has a number; each fifth row is dense."""
    rows = []
    for number in range(ROWS):
        label = number % 2
        vector = Vectors.sparse(WIDTH, {3 + number % 5: 0.5, WIDTH - 1 - label: 1.0})
        rows.append((number, Vectors.dense(vector.toArray()) if number % 5 == 0 else vector, float(label)))
    return spark.createDataFrame(rows, SCHEMA).repartition(3).cache()


@pytest.fixture(scope="module")
def fitted(data: DataFrame) -> KerasClassifierModel:
    options = {"epochs": 8, "batchSize": 16, "metrics": ["accuracy"], **QUIET}
    return KerasClassifier(model=network(), optimizer=keras.optimizers.Adam(0.05), **options).fit(data)


def chances(scored: DataFrame) -> dict[int, list[float]]:
    return {row.id: row.p for row in scored.withColumn("p", vector_to_array("probability")).collect()}


@pytest.mark.stack
def test_they_are_learned_from_and_take_the_bytes_of_what_is_not_zero(
    data: DataFrame, fitted: KerasClassifierModel, tmp_path: Path
) -> None:
    assert fitted.summary.history["accuracy"][-1] == 1.0
    assert fitted.transform(data).where("prediction = label").count() == ROWS
    estimator = KerasClassifier(model=network(), cacheDir=str(tmp_path), **QUIET)
    assert "float32 (20000,), sparse until the batch" in str(estimator.plan(data))
    with estimator.convert(data) as converted:
        assert converted.bytes == ROWS * (2 * 8 + 4)


@pytest.mark.stack
@pytest.mark.parametrize("way", ["transform", "scoreParquet", "pyfunc"])
def test_all_ways_of_scoring_see_what_keras_sees(
    data: DataFrame, fitted: KerasClassifierModel, tmp_path: Path, spark: SparkSession, way: str
) -> None:
    rows = data.orderBy("id").collect()
    expected = fitted.keras().predict(np.array([row.features.toArray() for row in rows], np.float32), verbose=0)
    if way == "pyfunc":
        import mlflow

        spark_dl.mlflow.save_model(fitted, str(tmp_path / "model"))
        served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
        frame = pd.DataFrame({"features": [row.features.toArray() for row in rows[:5]]})
        np.testing.assert_allclose(np.stack(served.predict(frame)["probability"]), expected[:5], atol=1e-6)
        return
    scored = fitted.transform(data)
    if way == "scoreParquet":
        data.write.parquet(str(tmp_path / "in"))
        assert fitted.scoreParquet(str(tmp_path / "in"), str(tmp_path / "out")) == ROWS
        scored = spark.read.parquet(str(tmp_path / "out"))
    found = chances(scored)
    np.testing.assert_allclose([found[row.id] for row in rows], expected, atol=1e-6)


def test_evaluate_takes_them(data: DataFrame, fitted: KerasClassifierModel) -> None:
    assert fitted.evaluate(data)["accuracy"] == 1.0


def test_what_stays_sparse_trains_as_what_is_dense(data: DataFrame) -> None:
    options = {"epochs": 2, "batchSize": 16, "seed": 1, **QUIET}
    found = [
        KerasClassifier(model=network(), optimizer=keras.optimizers.SGD(0.1), sparseVectors=rule, **options).fit(data)
        for rule in ("always", "never")
    ]
    for ours, theirs in zip(*(one.keras().get_weights() for one in found), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_rows_without_a_vector_are_told_and_dropped_where_that_is_asked_for(
    data: DataFrame, spark: SparkSession, fitted: KerasClassifierModel
) -> None:
    holes = data.union(spark.createDataFrame([(ROWS, None, 0.0), (ROWS + 1, Vectors.sparse(9, {}), 1.0)], SCHEMA))
    with pytest.raises(DataError, match=r"'features': 1 row with a null.*'features': 1 row of length 9"):
        KerasClassifier(model=network(), **QUIET).fit(holes)
    right = holes.where(f"id <= {ROWS}")
    assert KerasClassifier(model=network(), nullPolicy="drop", **QUIET).fit(right).summary.rows == ROWS
    with pytest.raises(Exception, match=r"'features' can't be scored.*1 null or NaN"):
        fitted.transform(right).collect()


def test_texts_that_are_hashed_in_a_pipeline(spark: SparkSession) -> None:
    texts = [(number, "good and bright" if number % 2 else "dull and grey", float(number % 2)) for number in range(40)]
    frame = spark.createDataFrame(texts, "id long, text string, label double").repartition(2)
    stages = [Tokenizer(inputCol="text", outputCol="words"), HashingTF(inputCol="words", outputCol="features")]
    hashed = 1 << 18
    classifier = KerasClassifier(model=network(hashed), optimizer=keras.optimizers.Adam(0.05), epochs=5, **QUIET)
    model = Pipeline(stages=[*stages, classifier]).fit(frame)
    assert model.transform(frame).where("prediction = label").count() == 40
