"""Nulls and broken images among good rows: under nullPolicy in training, under scoreNullPolicy in scoring."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier, KerasClassifierModel
from spark_dl.errors import DataError
from spark_dl.score.serving import Served

QUIET = {"tracking": None, "verbose": 0, "epochs": 1, "inputCols": {"image": "image", "age": "age"}}


def a_file(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG" if seed % 2 else "PNG")
        return file.getvalue()


# By id: what is wrong.
DIRTY: dict[int, tuple[bytes | None, int | None]] = {
    3: (None, 3),
    5: (b"no image", 5),
    6: (a_file(6)[:-900], 6),  # cut off
    7: (a_file(7)[:300], 7),
    9: (a_file(9), None),
}
ROWS = [(i, *DIRTY.get(i, (a_file(i), i)), i % 2) for i in range(16)]
GOOD = [i for i in range(16) if i not in DIRTY]


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ROWS, "id int, image binary, age int, label int").coalesce(1).cache()


def estimator(**options: Any) -> KerasClassifier:
    inputs = {"image": keras.Input((8, 8, 3), name="image"), "age": keras.Input((1,), name="age")}
    small = keras.layers.Rescaling(1 / 255)(keras.layers.GlobalAveragePooling2D()(inputs["image"]))
    chances = keras.layers.Dense(2, "softmax")(keras.layers.Concatenate()([small, inputs["age"]]))
    return KerasClassifier(model=keras.Model(inputs, chances), slotTimeout=300, **QUIET, **options)


@pytest.fixture(scope="module")
def fitted(data: DataFrame) -> KerasClassifierModel:
    return estimator(nullPolicy="drop", validateImages=True, topK=1).fit(data)


def test_dirty_rows_are_left_out_of_training(fitted: KerasClassifierModel) -> None:
    assert fitted.summary.rows == len(GOOD)


def test_dirty_rows_are_counted_or_filled(data: DataFrame) -> None:
    with pytest.raises(DataError) as refused:
        estimator(validateImages=True).fit(data)
    for told in (
        "column 'age': 1 row with a null",
        "column 'image': 1 row with a null",
        "column 'image': 1 row without an image that can be decoded (JPEG, PNG",
        "column 'image': 2 rows without an image that can be decoded (files that are whole)",
    ):
        assert told in str(refused.value)
    filling = estimator(validateImages=True, nullPolicy={"image": {"fill": 128}, "age": {"fill": 0}})
    with filling.convert(data) as converted:
        assert converted.rows == len(ROWS)


def test_one_broken_image_is_an_error_by_default(fitted: KerasClassifierModel, data: DataFrame) -> None:
    assert fitted.getScoreNullPolicy() == "error"
    for dirty in (3, 5, 6):
        with pytest.raises(Exception, match="image"):
            fitted.transform(data.where(F.col("id") == dirty)).collect()


def test_dirty_rows_have_null_outputs_or_are_dropped_in_every_way(
    fitted: KerasClassifierModel, data: DataFrame, tmp_path: Path
) -> None:
    spark, clean = data.sparkSession, data.where(F.col("id").isin(GOOD))
    expected = {row.id: row.probability.toArray() for row in fitted.transform(clean).collect()}
    data.write.parquet(str(tmp_path / "rows"))
    for policy in ("null", "drop"):
        model = fitted.copy().setScoreNullPolicy(policy)
        model.save(str(tmp_path / policy / "model"))
        loaded = KerasClassifierModel.load(str(tmp_path / policy / "model"))
        count = model.scoreParquet(str(tmp_path / "rows"), str(tmp_path / policy / "scored"))
        kept = 16 if policy == "null" else len(GOOD)
        assert count == kept
        frames = {"transform": loaded.transform(data), "parquet": spark.read.parquet(str(tmp_path / policy / "scored"))}
        for way, frame in frames.items():
            rows = frame.collect()
            assert len(rows) == kept, way
            for row in rows:
                outputs = [row.prediction, row.probability, row.rawPrediction] + (
                    [row.topK] if way == "transform" else []
                )
                if row.id in GOOD:
                    np.testing.assert_allclose(row.probability.toArray(), expected[row.id], atol=1e-6)
                else:
                    assert outputs == [None] * len(outputs), (way, row.id)
        served = Served(*model._serving()).predict([{"image": image, "age": age} for _, image, age, _ in ROWS])
        assert len(served) == kept
        assert served.index[served["prediction"].notna()].tolist() == GOOD
    model = fitted.copy().setScoreNullPolicy("null")
    model.registerUdf(spark, "dirty_rows")
    rows = data.withColumn("found", F.expr("dirty_rows(age, image)")).collect()
    assert [row.id for row in rows if row.found is not None] == GOOD
