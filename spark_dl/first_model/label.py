"""The label of a first model: its checks, its statistics, and how many classes it has."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dl.data.column import quoted
from spark_dl.errors import DataError, OptionError, explain, hint
from spark_dl.spark.session import is_case_sensitive

__all__ = ["check_label", "classes_of", "finite", "label_aggregates"]

_TASKS = ("classification", "regression")
_FEW = 20  # whole labels with more values are numbers
_MOST = 1_000  # classes; beyond, there must be as many rows


def check_label(frame: DataFrame, label: str, task: str | None) -> None:
    """Check that a DataFrame has a valid label, before any Spark job.

    Args:
        frame: The training rows.
        label: The label column.
        task: "classification" or "regression"; None to decide it by the label.

    Raises:
        OptionError: There is no such task.
        DataError: The label is missing or no number, names occur more than once, or the DataFrame is a stream.
    """
    if task is not None and task not in _TASKS:
        raise OptionError(
            explain(f"There is no task {task!r}.", expected=" or ".join(_TASKS), received=task, fix=hint(task, _TASKS))
        )
    _check_frame(frame)
    if label not in frame.columns:
        raise DataError(
            explain(
                f"The DataFrame has no column {label!r}.",
                expected="the label",
                received=", ".join(frame.columns),
                fix=hint(label, frame.columns),
            )
        )
    kind = frame.schema[label].dataType
    if not isinstance(kind, T.NumericType):
        raise DataError(
            explain(
                f"The label {label!r} can't be used.",
                expected="a number, or a class index from 0",
                received=kind.simpleString(),
                fix="Convert it: a boolean by a cast to int, strings with Spark ML's StringIndexer.",
            )
        )


def _check_frame(frame: DataFrame) -> None:
    if frame.isStreaming:
        raise DataError(
            explain(
                "The statistics of a stream can't be computed.",
                expected="a DataFrame of all training rows",
                received="a stream",
                fix="Suggest a model for rows that have arrived, read by spark.read.",
            )
        )
    apart = is_case_sensitive()
    counts = Counter(name if apart else name.lower() for name in frame.columns)
    if twice := [name for name in frame.columns if counts[name if apart else name.lower()] > 1]:
        raise DataError(
            explain(
                "Column names occur more than once.",
                expected="a unique name for each column",
                received=", ".join(twice),
                fix="Rename or drop columns.",
            )
        )


def finite(value: SparkColumn) -> SparkColumn:
    """Return a double, or null where it is NaN or infinite, as nullPolicy takes it."""
    return F.when(~F.isnan(value) & (F.abs(value) < math.inf), value)


def label_aggregates(label: str) -> list[SparkColumn]:
    """Return the statistics of the label: how many rows have one, its mean, variance and limits."""
    value = F.col(quoted(label)).cast("double")
    return [
        F.count(value).alias("rows"),
        F.avg(value).alias("mean"),
        F.var_pop(value).alias("variance"),
        F.min(value).alias("low"),
        F.max(value).alias("high"),
        F.max((value != F.floor(value)).cast("int")).alias("broken"),
    ]


def classes_of(found: Any, task: str | None) -> int:
    """Return the number of classes; 0 for a number to predict.

    Args:
        found: The values of `label_aggregates`.
        task: "classification" or "regression"; None to decide it by the label.

    Raises:
        DataError: The label has no class indices, or one that far exceeds the number of rows.
    """
    whole = not found["broken"] and found["low"] >= 0
    if task == "regression" or (task is None and not (whole and found["high"] < _FEW)):
        return 0
    if not whole:
        raise DataError(
            explain(
                "The label has no class indices.",
                expected="whole numbers from 0",
                received=f"numbers from {found['low']:g} to {found['high']:g}",
                fix="Use Spark ML's StringIndexer, or task='regression'.",
            )
        )
    classes = max(2, int(found["high"]) + 1)
    if classes > max(_MOST, found["rows"]):
        raise DataError(
            explain(
                "The label's numbers are no class indices: there would be more classes than rows.",
                expected="whole numbers from 0 without large gaps",
                received=f"numbers up to {found['high']:.0f} in {found['rows']} rows",
                fix="Use Spark ML's StringIndexer, or task='regression'.",
            )
        )
    return classes
