"""Reading and writing of rows as a configuration says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from spark_dl.cli.keys import RowsKeys, ScoreKeys
from spark_dl.errors import DataError, StoreError, explain
from spark_dl.ml.spark_files import first_line
from spark_dl.redaction import redacted_errors

__all__ = ["read_rows", "read_validation_rows", "write_rows"]

_VIEW = "rows"


@redacted_errors()
def read_rows(spark: SparkSession, keys: RowsKeys) -> DataFrame:
    """Read the rows of a configuration.

    Args:
        spark: The Spark session.
        keys: The keys.

    Raises:
        DataError: Spark can't read the rows.
    """
    try:
        rows = _source(spark, keys)
        if keys.sql is not None:
            if rows is not None:
                rows.createOrReplaceTempView(_VIEW)
            rows = spark.sql(keys.sql)
    except Exception as error:  # Spark's own, and Java's that have no class in Python
        source = {name: getattr(keys, name) for name in ("data", "format", "table", "sql") if getattr(keys, name)}
        raise DataError(
            explain(
                "Spark can't read the rows.",
                expected=f"rows of {source}",
                received=first_line(error),
                fix="Change data, format, table or sql.",
            )
        ) from error
    frame: DataFrame = rows
    return frame


def read_validation_rows(spark: SparkSession, keys: RowsKeys, path: str) -> DataFrame:
    """Read rows for validation, as those of `data` are read.

    Args:
        spark: The Spark session.
        keys: The keys of the training rows.
        path: The path or URL.

    Raises:
        DataError: Spark can't read the rows.
    """
    return read_rows(spark, replace(keys, data=path, table=None, sql=None))


@redacted_errors()
def write_rows(rows: DataFrame, keys: ScoreKeys) -> str:
    """Write scored rows; return where.

    Args:
        rows: The rows.
        keys: The keys, with `output` or `outputTable`.

    Raises:
        StoreError: The rows exist, or can't be written there.
    """
    writer = rows.write.mode(keys.write_mode)
    try:
        if keys.output_table is not None:
            (writer.format(keys.write_format) if keys.write_format else writer).saveAsTable(keys.output_table)
            return keys.output_table
        writer.format(keys.write_format or "parquet").save(keys.output)
        return str(keys.output)
    except PySparkException as error:
        if type(error).__name__ != "AnalysisException":
            raise
        raise StoreError(
            explain(
                "The scored rows can't be written.",
                expected="a new output, or a writeMode",
                received=first_line(error),
                fix="Set output elsewhere, or writeMode.",
            )
        ) from error


def _source(spark: SparkSession, keys: RowsKeys) -> Any:
    """Return the rows of the table or the files; None if a configuration has a query alone."""
    if keys.table is not None:
        return spark.table(keys.table)
    if keys.data is None:
        return None
    reader = spark.read.format(keys.format).options(**(keys.read_options or {}))
    return (reader.schema(keys.schema) if keys.schema else reader).load(keys.data)
