"""Projection of columns to the form that Spark writes to Arrow fastest, and its conversion to NumPy arrays.

Spark's Arrow writer has a cost per value and per Arrow vector, and is several times slower with nulls in lists. So:
- scalars of one type are sent as one array,
- a Vector is sent as its four fields, with empty indices instead of null; a sparse one stays sparse.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pyspark.sql import Column as SparkColumn
from pyspark.sql import functions as F

from spark_dl.data.arrow import Extracted, extract, extract_together, extract_vectors
from spark_dl.data.column import Column
from spark_dl.data.media import SPARK_IMAGE
from spark_dl.data.schema import quoted
from spark_dl.data.sparse import extract_sparse

__all__ = ["VECTOR_FIELDS", "arrow_projection", "decode_batch", "not_finite", "selected", "vectors"]

# The fields of a Spark ML Vector's struct.
VECTOR_FIELDS = ("type", "size", "indices", "values")


def arrow_projection(columns: Sequence[Column]) -> list[SparkColumn]:
    """Build the columns to select from a DataFrame for mapInArrow, in the order that `decode_batch` expects.

    They are renamed to c0, c1, ..., as mapInArrow looks columns up by name and takes a dot for a struct field.
    """
    sent: list[SparkColumn] = []
    for group in _groups(columns):
        named = [selected(column) for column in group]
        if group[0].kind == "vector":
            vector = F.unwrap_udt(named[0])
            none = F.array().cast("array<int>")
            # A null Vector has a null type.
            sent += [
                F.coalesce(vector[field], none) if field == "indices" else vector[field] for field in VECTOR_FIELDS
            ]
        else:
            sent.append(F.array(*named) if len(named) > 1 else named[0])
    return [column.alias(f"c{index}") for index, column in enumerate(sent)]


def selected(column: Column) -> SparkColumn:
    """Build the expression that selects a column: nested arrays flattened, Spark's image structs as bytes.

    A row with a null inner array becomes null.
    """
    value = F.col(quoted(column.name))
    if column.image_struct:
        sizes = [F.unhex(F.lpad(F.hex(value[name]), 8, "0")) for name in ("height", "width", "nChannels")]
        return F.concat(F.lit(SPARK_IMAGE), *sizes, value["data"])
    flat = value
    for _ in range(column.nested):
        flat = F.flatten(flat)
    # Other inner lengths would silently regroup the numbers, so that such a row becomes an empty array.
    return F.when(_of_lengths(value, column.inner), flat).otherwise(F.slice(flat, 1, 0)) if column.inner else flat


def not_finite(value: SparkColumn) -> SparkColumn:
    """Build the condition that a float is NaN or infinite; null for null."""
    return F.isnan(value) | (F.abs(value) == float("inf"))


def _of_lengths(arrays: SparkColumn, lengths: Sequence[int]) -> SparkColumn:
    """Build the condition that all inner arrays have these lengths, from outer to inner; true for null."""

    def fits(part: SparkColumn) -> SparkColumn:
        right = F.size(part) == lengths[0]
        return right & _of_lengths(part, lengths[1:]) if len(lengths) > 1 else right

    return F.coalesce(F.forall(arrays, fits), F.lit(True))


def decode_batch(batch: pa.RecordBatch, columns: Sequence[Column]) -> dict[Column, Extracted]:
    """Convert an Arrow batch to the values of each column.

    Args:
        batch: A batch of the columns `arrow_projection(columns)`.
        columns: The columns, as they were passed to `arrow_projection`.
    """
    arrays = iter(batch.columns)
    received: dict[Column, Extracted] = {}
    for group in _groups(columns):
        if group[0].kind == "vector":
            fields = dict(zip(VECTOR_FIELDS, itertools.islice(arrays, len(VECTOR_FIELDS)), strict=True))
            received.update({column: vectors(fields, column) for column in group})
        elif len(group) > 1:
            received.update(zip(group, extract_together(next(arrays), group), strict=True))
        else:
            received[group[0]] = extract(next(arrays), group[0])
    return received


def vectors(fields: Mapping[str, pa.Array], column: Column) -> Extracted:
    """Convert a column of Vectors from its fields, to a dense array or to sparse rows as bytes."""
    if column.sparse:
        return extract_sparse(fields, column.width, column.sparse)
    return extract_vectors(fields, column.width)


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    """Group the columns that are sent together: scalars by type, the sparse and dense use of a Vector, others alone."""
    groups: dict[tuple[str, ...], list[Column]] = {}
    for column in dict.fromkeys(columns):
        key = ("scalar", column.dtype) if column.kind == "scalar" else (column.kind, column.name, str(column.width))
        groups.setdefault(key, []).append(column)
    return list(groups.values())
