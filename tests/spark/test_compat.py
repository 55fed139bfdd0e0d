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
from spark_dl.io.payload import Payload


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


@pytest.mark.stack
def test_a_task_reads_a_large_payload_as_often_as_it_wants_and_keeps_none_of_it(spark: SparkSession) -> None:
    content = bytes(range(256)) * (1 << 13)
    payload = Payload(content).ship(spark)

    def read(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for _ in batches:
            twice = [payload.load(), payload.load()]
            kept = [name for name, value in vars(payload.broadcast).items() if isinstance(value, bytes)]
            yield pa.RecordBatch.from_pylist([{"content": one, "kept": kept} for one in twice])

    assert (payload.content, payload.load()) == (b"", content)
    rows = spark.range(1, numPartitions=1).mapInArrow(read, "content binary, kept array<string>").collect()
    assert [(bytes(row.content), row.kept) for row in rows] == [(content, [])] * 2
