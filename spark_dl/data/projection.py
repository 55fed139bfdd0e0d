"""Projection of columns to the form that Spark writes to Arrow fastest, and its conversion to NumPy arrays.

Spark's Arrow writer has a cost per value and per Arrow vector. So scalars of one type are sent as one array; the other
columns are sent as their kinds say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import Column as SparkColumn
from pyspark.sql import functions as F

from spark_dl.data.column import Column
from spark_dl.data.columns import Extracted, decode, kind_of
from spark_dl.data.columns.number import decode_together

__all__ = ["arrow_projection", "decode_batch"]


def arrow_projection(columns: Sequence[Column]) -> list[SparkColumn]:
    """Build the columns to select from a DataFrame for mapInArrow, in the order that `decode_batch` expects.

    They are renamed to c0, c1, ..., as mapInArrow looks columns up by name and takes a dot for a struct field.
    """
    sent: list[SparkColumn] = []
    for group in _groups(columns):
        if len(group) > 1 and kind_of(group[0]).is_scalar:
            sent.append(F.array(*(kind_of(column).select(column) for column in group)))
        else:
            sent += kind_of(group[0]).sent(group[0])
    return [column.alias(f"c{index}") for index, column in enumerate(sent)]


def decode_batch(batch: pa.RecordBatch, columns: Sequence[Column]) -> dict[Column, Extracted]:
    """Convert an Arrow batch to the values of each column.

    Args:
        batch: A batch of the columns `arrow_projection(columns)`.
        columns: The columns, as they were passed to `arrow_projection`.
    """
    arrays = iter(batch.columns)
    received: dict[Column, Extracted] = {}
    for group in _groups(columns):
        kind = kind_of(group[0])
        if len(group) > 1 and kind.is_scalar:
            received.update(zip(group, decode_together(next(arrays), group), strict=True))
        else:
            array = kind.received(list(itertools.islice(arrays, kind.sent_columns)))
            received.update({column: decode(array, column) for column in group})
    return received


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    """Group the columns that are sent together, without duplicates."""
    groups: dict[object, list[Column]] = {}
    for column in dict.fromkeys(columns):
        groups.setdefault(kind_of(column).group(column), []).append(column)
    return list(groups.values())
