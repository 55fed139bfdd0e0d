"""Rows and columns at the edge of what can be scored: NaN, infinity, names, filters; alike in all ways of scoring."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier, KerasClassifierModel, KerasEstimator, KerasRegressor
from spark_dl.errors import DataError, ModelError, OptionError
from spark_dl.score.serving import Served

QUIET = {"tracking": None, "verbose": 0}


def of_roots(*layers: Any) -> keras.Model:
    """A model that gives NaN for a negative number."""
    given = keras.Input((2,))
    outputs = keras.ops.sqrt(given)
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(given, outputs)


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    rows = spark.range(0, 40, 1, 1).selectExpr(
        "id", "array(double(id % 2), double(id % 3)) features", "int(id % 2) label"
    )
    return rows.cache()


@pytest.fixture(scope="module")
def fitted(data: DataFrame) -> KerasClassifierModel:
    return KerasClassifier(model=of_roots(keras.layers.Dense(2, "softmax")), **QUIET).fit(data)


def with_row(data: DataFrame, features: str) -> DataFrame:
    """Another row, of id 99, in the same partition."""
    other = data.sparkSession.sql(f"SELECT 99L AS id, {features} AS features")
    return data.select("id", "features").unionByName(other).coalesce(1)


# --- NaN ---------------------------------------------------------------------------------------------------------


def test_a_row_of_nan_is_nan_in_every_way_of_scoring(fitted: Any, data: DataFrame, tmp_path: Path) -> None:
    spark = data.sparkSession
    frame = with_row(data, "array(-1D, 1D)")
    frame.write.parquet(str(tmp_path / "in"))
    fitted.scoreParquet(str(tmp_path / "in"), str(tmp_path / "out"))
    stream = fitted.transform(spark.readStream.schema(frame.schema).parquet(str(tmp_path / "in")))
    writer = stream.writeStream.trigger(availableNow=True).option("checkpointLocation", str(tmp_path / "state"))
    assert writer.start(str(tmp_path / "streamed")).awaitTermination(120)
    ways = {
        "transform": fitted.transform(frame),
        "parquet": spark.read.parquet(str(tmp_path / "out")),
        "stream": spark.read.parquet(str(tmp_path / "streamed")),
    }
    fitted.registerUdf(spark, "edge_probability", "probability")
    sql = frame.selectExpr("id", "edge_probability(features) AS probability")
    ways["sql"] = sql.withColumn("probability", array_to_vector("probability"))
    found = {}
    for way, scored in ways.items():
        rows = scored.orderBy("id").collect()
        for row in rows:
            vectors = [row.probability, *([] if way == "sql" else [row.rawPrediction])]
            numbers = [number for vector in vectors for number in vector.toArray()]
            numbers += [] if way == "sql" else [row.prediction]
            assert [math.isnan(number) for number in numbers] == [row.id == 99] * len(numbers), way
        found[way] = [(row.id, tuple(row.probability)) for row in rows if row.id != 99]
    assert all(one == found["transform"] for one in found.values())
    serving, content = fitted._serving()
    served = Served(serving, content).predict({"features": [[-1.0, 1.0], [1.0, 1.0]]})
    assert served["prediction"].isna().tolist() == [True, False]
    assert np.isnan(served["probability"][0]).all()
    top = fitted.copy({fitted.topK: 2}).transform(frame).where("id = 99").first()
    assert top.topK == []


def test_a_number_and_a_wide_vector_are_nan(data: DataFrame) -> None:
    model = of_roots(keras.layers.Dense(300, name="wide"), keras.layers.Dense(1))
    regressor = KerasRegressor(model=model, **QUIET).fit(data)
    frame = with_row(data, "array(-1D, 1D)")
    layer = {regressor.outputLayer: "wide", regressor.outputFormat: "vector", regressor.predictionCol: "wide"}
    for row in regressor.copy(layer).transform(regressor.transform(frame)).collect():
        assert math.isnan(row.prediction) == (row.id == 99)
        assert np.isnan(row.wide.toArray()).all() == (row.id == 99)


# --- what can't be scored ----------------------------------------------------------------------------------------

# Of the conversion of the column: the rest is the same for each (see tests/unit/test_predict.py).
BAD: dict[str, tuple[str, str]] = {
    "too large": ("array(1e300D, 1D)", r"column 'features'.*finite numbers.*1e\+300; 1 rows beyond it"),
    "no Vector": ("cast(null AS array<double>)", r"column 'features'.*no nulls.*1 null or NaN"),
    "a long Vector": ("array(1D, 2D, 3D)", r"column 'features'.*2 numbers per row.*a row of 3 in 1 row"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_scored_is_told_by_column_and_row(fitted: Any, data: DataFrame, name: str) -> None:
    features, told = BAD[name]
    frame = with_row(data, features)
    if "Vector" in name:
        vector = F.when(F.col("features").isNotNull(), array_to_vector("features"))
        frame = frame.withColumn("features", vector)
    with pytest.raises(PythonException, match=f"(?s){told}"):
        fitted.transform(frame).collect()


# --- columns -----------------------------------------------------------------------------------------------------


def test_two_outputs_to_one_column_are_refused(fitted: Any, data: DataFrame, spark: SparkSession) -> None:
    both = fitted.copy({fitted.predictionCol: "p", fitted.probabilityCol: "p"})
    with pytest.raises(OptionError, match=r"output column 'p' is taken.*prediction to 'p', probability to 'p'"):
        both.transform(data)
    with pytest.raises(OptionError, match=r"output column 'p' is taken.*prediction to 'p', probability to 'P'"):
        fitted.copy({fitted.predictionCol: "p", fitted.probabilityCol: "P"}).transform(data)
    with pytest.raises(DataError, match=r"Several outputs go to one column 'prediction'"):
        fitted.copy({fitted.topK: 1, fitted.topKCol: "prediction"}).transform(data)
    with pytest.raises(OptionError, match="No output column is named"):
        fitted.copy({fitted.predictionCol: "", fitted.probabilityCol: "", fitted.rawPredictionCol: ""}).transform(data)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"predictionCol": "p", "probabilityCol": "p"}, "output column 'p' is taken"),
        ({"topK": 1, "topKCol": "prediction"}, "output column 'prediction' is taken"),
        ({"predictionCol": "features"}, "output column 'features' is taken.*that no feature column has"),
        ({"predictionCol": "", "probabilityCol": "", "rawPredictionCol": ""}, "No output column is named"),
    ],
)
def test_output_columns_are_checked_before_fit(data: DataFrame, options: dict[str, Any], told: str) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    with pytest.raises(OptionError, match=told):
        KerasClassifier(model=model, **options, **QUIET).plan(data)


def test_two_outputs_of_the_model_to_one_column_are_refused(data: DataFrame) -> None:
    given = keras.Input((2,))
    model = keras.Model(given, {"a": keras.layers.Dense(1)(given), "b": keras.layers.Dense(1)(given)})
    named = {"labelCols": {"a": "label", "b": "id"}, "outputCols": {"a": "p", "b": "p"}}
    with pytest.raises(OptionError, match=r"output column 'p' is taken.*a to 'p', b to 'p'"):
        KerasEstimator(model=model, loss="mse", **named, **QUIET).plan(data)


def test_a_feature_column_that_is_there_twice_is_refused(fitted: Any, data: DataFrame) -> None:
    twice = data.select("*", F.col("features"))
    for use in (fitted.transform, fitted.evaluate, KerasClassifier(model=fitted.keras(), **QUIET).plan):
        with pytest.raises(DataError, match="2 columns 'features', which featuresCol names"):
            use(twice)
    other = data.select("*", F.col("label"))
    assert fitted.transform(other).count() == 40


def test_names_may_hold_dots_and_backticks(fitted: Any, data: DataFrame, tmp_path: Path) -> None:
    names = {"featuresCol": "a.b", "predictionCol": "p.q", "probabilityCol": "pro`b", "rawPredictionCol": "r.`w"}
    renamed = data.withColumnRenamed("features", "a.b")
    dotted = fitted.copy({fitted.getParam(name): value for name, value in names.items()})
    dotted = dotted.copy({dotted.topK: 1, dotted.topKCol: "t.k"})
    scored = dotted.transform(renamed)
    assert set(scored.columns) - set(renamed.columns) == {"p.q", "pro`b", "r.`w", "t.k"}
    plain = {row.id: row for row in fitted.transform(data).collect()}
    for row in scored.collect():
        assert (row["p.q"], row["pro`b"]) == (plain[row.id].prediction, plain[row.id].probability)
        assert row["t.k"][0].label == row["p.q"]
    renamed.write.parquet(str(tmp_path / "in"))
    assert dotted.scoreParquet(str(tmp_path / "in"), str(tmp_path / "out")) == 40
    back = data.sparkSession.read.parquet(str(tmp_path / "out")).collect()
    assert {row["id"]: row["p.q"] for row in back} == {id_: row.prediction for id_, row in plain.items()}


@pytest.mark.parametrize("literal", ["0.5, 1.0", "0.5D, 1", "1, 0", "0.5, 1e0", "CAST(1 AS DECIMAL(20, 10)), 2.25"])
def test_numbers_in_sql_may_be_decimals(fitted: Any, spark: SparkSession, literal: str) -> None:
    fitted.registerUdf(spark, "edge_probability", "probability")
    row = spark.sql(f"SELECT array({literal}) AS given, edge_probability(array({literal})) AS told").first()
    expected = fitted.keras()(np.array([row.given], np.float32)).numpy()[0]
    np.testing.assert_allclose(row.told, expected, rtol=1e-6)


def test_decimals_with_nulls_in_sql_are_told(fitted: Any, spark: SparkSession) -> None:
    fitted.registerUdf(spark, "edge_probability", "probability")
    with pytest.raises(PythonException, match=r"(?s)column 'features' can't be scored.*null or NaN"):
        spark.sql("SELECT edge_probability(array(0.5, null))").collect()


# --- plans -------------------------------------------------------------------------------------------------------


def explained(frame: DataFrame) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        frame.explain()
    return text.getvalue()


def test_a_filter_on_the_prediction_scores_once(fitted: Any, data: DataFrame, tmp_path: Path) -> None:
    data.write.partitionBy("label").parquet(str(tmp_path / "rows"))
    frame = data.sparkSession.read.parquet(str(tmp_path / "rows"))
    scored = fitted.transform(frame)
    for query in (
        scored,
        scored.where("prediction = 1"),
        scored.where("prediction = label").groupBy("prediction").count(),
        scored.where(F.col("prediction") == 1).join(frame.select("id"), "id"),
        fitted.copy({fitted.topK: 1}).transform(frame).where("topK[0].label = 1 AND prediction = 1"),
    ):
        assert explained(query).count("ArrowEvalPython") == 1
    # A filter on another column goes below the scoring, down to the directories that are read.
    text = explained(scored.where("label = 1 AND prediction = 1"))
    assert text.count("ArrowEvalPython") == 1
    assert "PartitionFilters: [isnotnull(label" in text
    assert scored.where("prediction >= 0").count() == 40


# --- batches -----------------------------------------------------------------------------------------------------


def test_a_state_between_batches_is_refused_before_any_job(data: DataFrame) -> None:
    steps = keras.Input(batch_shape=(8, 2, 1))
    model = keras.Model(steps, keras.layers.Dense(1)(keras.layers.LSTM(3, stateful=True)(steps)))
    for use in (KerasRegressor(model=model, **QUIET).plan, KerasRegressor(model=model, **QUIET).fit):
        with pytest.raises(ModelError, match=r"keeps a state from one batch to the next.*stateful=True"):
            use(data)
