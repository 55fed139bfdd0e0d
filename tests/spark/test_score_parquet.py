"""Scoring from Parquet to Parquet gives what `transform` and a write give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier, KerasEstimator, KerasRegressor
from spark_dl.errors import DataError, StoreError

QUIET = {"tracking": None, "verbose": 0, "epochs": 1}
OTHERS = {
    "at": "timestamp'2026-03-01 12:34:56.789'",
    "local": "timestamp_ntz'2026-03-01 12:34:56.789'",
    "day": "date'2026-03-01'",
    "price": "cast(id as decimal(12, 2))",
    "name": "concat('row ', id)",
    "nothing": "cast(null as string)",
    "nested": "named_struct('a', id, 'b', array(id, null), 'at', timestamp'2026-03-01 12:34:56.789')",
    "times": "array(timestamp_ntz'2026-03-01 12:34:56', null)",
    "never": "timestamp'9999-12-31 00:00:00'",
    "raw": "cast('bytes' as binary)",
}


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark).withColumns({name: F.expr(text) for name, text in OTHERS.items()}).cache()


@pytest.fixture(scope="module")
def fitted(data: DataFrame):
    return KerasClassifier(model=models.classifier(), **QUIET).fit(data)


def same(scored: DataFrame, expected: DataFrame) -> None:
    """The same columns, types and rows; numbers of other batches may round otherwise."""
    assert scored.dtypes == expected.dtypes
    for one, other in zip(scored.orderBy("id").collect(), expected.orderBy("id").collect(), strict=True):
        for name in scored.columns:
            if name in ("probability", "rawPrediction") or (
                isinstance(one[name], (float, list)) and name == "prediction"
            ):
                np.testing.assert_allclose(one[name], other[name], atol=1e-5)
            else:
                assert one[name] == other[name], name


@pytest.mark.stack
def test_all_columns_are_there_and_the_outputs_are_transforms(fitted, data: DataFrame, tmp_path: Path) -> None:
    spark = data.sparkSession
    data.repartition(3).write.parquet(f"{tmp_path}/in")
    assert fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out") == models.ROWS
    same(spark.read.parquet(f"{tmp_path}/out"), fitted.transform(spark.read.parquet(f"{tmp_path}/in")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize("kind", ["array", "sparse", "scalars"])
def test_features_of_every_kind(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    rows = models.blobs()[0]
    frame = {
        "array": lambda: models.frame(spark).withColumn("features", F.expr("transform(array(f0, f1, f2, f3), x -> x)")),
        "sparse": lambda: spark.createDataFrame(
            [(i, Vectors.sparse(4, {1: float(row[1])}) if i % 2 else Vectors.dense(row)) for i, row in enumerate(rows)],
            ["id", "features"],
        ),
        "scalars": lambda: models.frame(spark).drop("features"),
    }[kind]()
    options: dict[str, Any] = {"inputCols": ["f0", "f1", "f2", "f3"]} if kind == "scalars" else {}
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    fitted = KerasRegressor(model=model, labelCol="y", **options, **QUIET).fit(
        frame.withColumn("y", F.col("id") * 0.01)
    )
    frame.write.parquet(f"{tmp_path}/in")
    fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out")
    same(spark.read.parquet(f"{tmp_path}/out"), fitted.transform(spark.read.parquet(f"{tmp_path}/in")))


@pytest.mark.stack
def test_partition_columns_become_columns(spark: SparkSession, tmp_path: Path) -> None:
    parts = {"part": "concat('p', id % 3)", "day": "date'2026-01-01'", "long": "3000000000 + id % 2"}
    frame = models.frame(spark).withColumns({name: F.expr(text) for name, text in parts.items()})
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    estimator = KerasEstimator(model=model, loss="mse", labelCol="y", **QUIET)
    fitted = estimator.fit(frame.withColumn("y", F.array(F.lit(0.0), F.lit(1.0))))
    frame.write.partitionBy("part", "day", "long").parquet(f"{tmp_path}/in")
    fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out")
    same(spark.read.parquet(f"{tmp_path}/out"), fitted.transform(spark.read.parquet(f"{tmp_path}/in")))


def test_an_output_that_exists_is_replaced_only_when_asked_for(fitted, data: DataFrame, tmp_path: Path) -> None:
    data.coalesce(1).write.parquet(f"{tmp_path}/in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"output directory exists.*overwrite=True"):
        fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out", overwrite=True) == models.ROWS
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_rows_that_can_not_be_scored_leave_everything_as_it_was(fitted, data: DataFrame, tmp_path: Path) -> None:
    bad = data.withColumn("features", F.when(F.col("id") != 7, F.col("features")))
    bad.coalesce(1).write.parquet(f"{tmp_path}/in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PythonException, match=r"column 'features' can't be scored.*1 null or NaN in a batch"):
        fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_what_is_wrong_with_the_columns_is_told_before_any_job(fitted, data: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Parquet files can't be read"):
        fitted.scoreParquet(f"{tmp_path}/nowhere", f"{tmp_path}/out")
    data.select("id").write.parquet(f"{tmp_path}/ids")
    with pytest.raises(DataError, match="features"):
        fitted.scoreParquet(f"{tmp_path}/ids", f"{tmp_path}/out")
    data.withColumn("prediction", F.lit(1.0)).write.parquet(f"{tmp_path}/scored")
    with pytest.raises(DataError, match="already has a column 'prediction'"):
        fitted.scoreParquet(f"{tmp_path}/scored", f"{tmp_path}/out")
    assert not (tmp_path / "out").exists()


def test_an_input_is_never_removed_by_whatever_name_the_output_has(fitted, data: DataFrame, tmp_path: Path) -> None:
    source = tmp_path / "all" / "in"
    data.coalesce(1).write.parquet(str(source))
    before = sorted(source.iterdir())
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "above").symlink_to(tmp_path / "all")
    (tmp_path / "linked").mkdir()
    for file in source.glob("*.parquet"):
        (tmp_path / "linked" / file.name).symlink_to(file)
    targets = [
        "all",
        "all/in",
        "all/in/",
        "all/../all/in",
        "link",
        "link/",
        "above/in",
        "above",
        "all/in/out",
        "link/out",
    ]
    for target in (*(f"{tmp_path}/{name}" for name in targets), f"file:{source}", f"file://{tmp_path}/link"):
        for given in (str(source), f"file:{tmp_path}/link", f"{tmp_path}/linked"):
            if given.endswith("linked") and target.endswith("/out"):
                continue  # which takes nothing away
            with pytest.raises(StoreError, match="input lies in the output directory"):
                fitted.scoreParquet(given, target, overwrite=True)
    assert sorted(source.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["above", "all", "link", "linked"]


def test_outputs_that_can_not_be_replaced_are_refused(
    fitted, data: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.coalesce(1).write.parquet(f"{tmp_path}/in")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").write_text("mine")
    monkeypatch.chdir(tmp_path / "work")
    for target, told in (
        ("", "path is empty"),
        (".", "working directory"),
        ("file", "is a file"),
        ("C:\\out", "Windows"),
    ):
        with pytest.raises(StoreError, match=told):
            fitted.scoreParquet(f"{tmp_path}/in", target, overwrite=True)
    assert os.listdir(tmp_path / "work") == ["file"]
    # As Spark prints paths, and what it takes for patterns.
    os.rename(tmp_path / "in", tmp_path / "i[n] 5%25")
    assert fitted.scoreParquet(f"file:{tmp_path}/i[n] 5%25", f"file:{tmp_path}/out/") == models.ROWS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i[n] 5%25", "out", "work"]


def test_no_rows_are_no_rows_but_columns(fitted, data: DataFrame, tmp_path: Path) -> None:
    data.limit(0).write.parquet(f"{tmp_path}/in")
    assert fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out") == 0
    same(data.sparkSession.read.parquet(f"{tmp_path}/out"), fitted.transform(data.limit(0)))
