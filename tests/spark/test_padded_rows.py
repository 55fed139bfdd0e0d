"""Rows of varying length on two ranks, and in every way of scoring: what plain Keras makes of rows that NumPy pads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasRegressor, KerasRegressorModel
from spark_dl.errors import DataError
from spark_dl.score.serving import Served

COUNT, VOCABULARY = 24, ["a", "b", "c"]
PADDING = {"ids": 0, "words": "", "steps": -1.0}
QUIET = {"tracking": None, "verbose": 0, "labelCol": "y", "inputCols": {name: name for name in PADDING}}
RANDOM = np.random.default_rng(0)
ROWS = [
    {
        "id": index,
        "ids": RANDOM.integers(1, 10, 1 + index % 7).tolist(),
        "words": RANDOM.choice([*VOCABULARY, "z"], 1 + index % 5).tolist(),
        "steps": RANDOM.normal(size=(index % 4, 2)).astype(np.float32).tolist(),
        "y": float(index % 5),
    }
    for index in range(COUNT)
]
SCHEMA = "id int, ids array<int>, words array<string>, steps array<array<float>>, y double"


def padded(ids: int, words: int, steps: int) -> dict[str, Any]:
    """The rows as NumPy pads and cuts them to these lengths."""
    made = {
        "ids": np.full((COUNT, ids), PADDING["ids"], np.int32),
        "words": np.full((COUNT, words), PADDING["words"], object),
        "steps": np.full((COUNT, steps, 2), PADDING["steps"], np.float32),
    }
    for index, row in enumerate(ROWS):
        for name, array in made.items():
            kept = row[name][: array.shape[1]]
            if kept:
                array[index, : len(kept)] = kept
    return {**made, "words": tf.constant(made["words"])}


def a_network(ids: int | None, words: int | None) -> keras.Model:
    """Masks the padding of each input."""
    keras.utils.set_random_seed(1)
    inputs = {
        "ids": keras.Input((ids,), name="ids", dtype="int32"),
        "words": keras.Input((words,), name="words", dtype="string"),
        "steps": keras.Input((None, 2), name="steps"),
    }
    looked_up = keras.layers.StringLookup(vocabulary=VOCABULARY, mask_token="")(inputs["words"])
    tables = [keras.layers.Embedding(10, 4, mask_zero=True)(one) for one in (inputs["ids"], looked_up)]
    parts = [keras.layers.GlobalAveragePooling1D()(table) for table in tables]
    parts.append(keras.layers.GRU(3)(keras.layers.Masking(PADDING["steps"])(inputs["steps"])))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(parts)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ROWS, SCHEMA).coalesce(1).cache()


def fit(model: keras.Model, data: DataFrame, **options: Any) -> KerasRegressorModel:
    """Three steps of two ranks, each with half of the rows."""
    options = {"padding": PADDING, "numWorkers": 2, "batchSize": COUNT // 2, "epochs": 3, "shuffle": False, **options}
    options["slotTimeout"] = 300
    return KerasRegressor(model=model, **options, **QUIET).fit(data)


def trained(model: keras.Model, rows: dict[str, Any]) -> keras.Model:
    """Three steps of plain Keras with all rows."""
    model.fit(rows, np.array([row["y"] for row in ROWS]), batch_size=COUNT, epochs=3, shuffle=False, verbose=0)
    return model


@pytest.fixture(scope="module")
def both(data: DataFrame) -> tuple[KerasRegressorModel, keras.Model]:
    """The fitted model, and what plain Keras fits to padded rows."""
    model = a_network(5, 3)
    fitted = fit(model, data, truncate="end", columnShapes={"steps": [2, 2]})
    return fitted, trained(model, padded(5, 3, 2))


def predictions(frame: DataFrame) -> list[float]:
    return [row.prediction for row in frame.orderBy("id").select("prediction").collect()]


def all_ways(fitted: KerasRegressorModel, data: DataFrame, path: Path) -> dict[str, list[float]]:
    """The predictions of each way of scoring."""
    spark = data.sparkSession
    fitted.save(str(path / "model"))
    data.write.parquet(str(path / "rows"))
    fitted.scoreParquet(str(path / "rows"), str(path / "scored"))
    fitted.registerUdf(spark, "padded_rows")
    return {
        "transform": predictions(fitted.transform(data)),
        "a loaded model": predictions(KerasRegressorModel.load(str(path / "model")).transform(data)),
        "scoreParquet": predictions(spark.read.parquet(str(path / "scored"))),
        "SQL": predictions(data.withColumn("prediction", F.expr("padded_rows(ids, steps, words)"))),
        "SQL, flat": predictions(data.withColumn("prediction", F.expr("padded_rows(ids, flatten(steps), words)"))),
        "serving": Served(*fitted._serving()).predict(ROWS)["prediction"].tolist(),
    }


def test_two_ranks_train_what_plain_keras_does_on_padded_rows(both: Any) -> None:
    fitted, plain = both
    for one, other in zip(fitted.keras().get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_all_ways_of_scoring_pad_and_cut_alike(both: Any, data: DataFrame, tmp_path: Path) -> None:
    fitted, plain = both
    expected = plain.predict(padded(5, 3, 2), verbose=0)[:, 0]
    for way, found in all_ways(fitted, data, tmp_path).items():
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=way)
    loss = plain.evaluate(padded(5, 3, 2), np.array([row["y"] for row in ROWS]), verbose=0)
    assert fitted.evaluate(data)["loss"] == pytest.approx(loss, rel=1e-5)


def test_rows_that_are_too_long_are_one_line_by_column(both: Any, data: DataFrame) -> None:
    with pytest.raises(DataError) as refused:
        fit(a_network(5, 3), data, columnShapes={"steps": [2, 2]})
    assert "column 'ids': 6 rows of lengths 6 to 7, most often 6 (in 3), the model's input has 5" in str(refused.value)
    assert "column 'steps': 6 rows of length 3, the model's input has 2" in str(refused.value)
    strict = both[0].copy().setTruncate("error")
    with pytest.raises(Exception, match=r"'ids' can't be scored.*at most 5 numbers per row.*setTruncate"):
        strict.transform(data).collect()


def test_rows_without_a_length_are_padded_to_the_longest_of_a_batch(data: DataFrame, tmp_path: Path) -> None:
    model = a_network(None, None)
    fitted = fit(model, data, columnShapes={"steps": [3, 2]})
    rows = padded(7, 5, 3)
    plain = trained(model, rows)
    for one, other in zip(fitted.keras().get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    expected = plain.predict(rows, verbose=0)[:, 0]
    for way, found in all_ways(fitted.setScoreBatchSize(5), data, tmp_path).items():
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=way)
    loss = plain.evaluate(rows, np.array([row["y"] for row in ROWS]), verbose=0)
    assert fitted.evaluate(data)["loss"] == pytest.approx(loss, rel=1e-5)
