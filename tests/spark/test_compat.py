"""What the package takes from inside PySpark and needs a JVM; `tests/unit/test_compat.py` has the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from spark_dl._compat.spark import set_worker_python
from spark_dl._compat.spark_ml import remove_directory


@pytest.mark.stack
def test_a_directory_is_removed_by_spark_whether_it_exists_or_not(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "saved" / "model"
    spark.range(1).write.parquet(str(path))
    remove_directory(spark, str(path))
    remove_directory(spark, str(path))
    assert list(tmp_path.glob("saved/*")) == []


@pytest.mark.stack
def test_functions_run_with_the_python_that_was_set(spark: SparkSession, tmp_path: Path) -> None:
    def marks(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"mark": [os.environ.get("COMPAT_MARK", "")]})

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nCOMPAT_MARK=set exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    before = spark.sparkContext.pythonExec
    rows = spark.range(1, numPartitions=1)
    set_worker_python(spark, str(python))
    try:
        found = rows.mapInArrow(marks, "mark string").collect()
    finally:
        set_worker_python(spark, before)
    assert [row.mark for row in found] == ["set"]
    assert [row.mark for row in rows.mapInArrow(marks, "mark string").collect()] == [""]
