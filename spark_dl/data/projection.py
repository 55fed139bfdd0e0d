"""How columns travel from the JVM to Python: in the form that Spark writes to Arrow fastest, and back to numbers.

Spark's Arrow writer takes its time by value and by vector, and it is several times slower with nulls in lists:
- scalars of one type travel as one array,
- a Vector travels as its four fields, with empty indices in place of none; a sparse one stays sparse.
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

# A Vector is a struct of these.
VECTOR_FIELDS = ("type", "size", "indices", "values")


def arrow_projection(columns: Sequence[Column]) -> list[SparkColumn]:
    """What to select from the DataFrame: columns c0, c1, ..., of which `decode_batch` knows the order.

    Names of one's own, since mapInArrow looks columns up by name, where a dot would mean a field.
    """
    sent: list[SparkColumn] = []
    for group in _groups(columns):
        named = [selected(column) for column in group]
        if group[0].kind == "vector":
            vector = F.unwrap_udt(named[0])
            none = F.array().cast("array<int>")
            # The vector may be null: then so is its type.
            sent += [
                F.coalesce(vector[field], none) if field == "indices" else vector[field] for field in VECTOR_FIELDS
            ]
        else:
            sent.append(F.array(*named) if len(named) > 1 else named[0])
    return [column.alias(f"c{index}") for index, column in enumerate(sent)]


def selected(column: Column) -> SparkColumn:
    """A column; its arrays of arrays as one array, null where one of them is; Spark's image structs as bytes."""
    value = F.col(quoted(column.name))
    if column.image_struct:
        sizes = [F.unhex(F.lpad(F.hex(value[name]), 8, "0")) for name in ("height", "width", "nChannels")]
        return F.concat(F.lit(SPARK_IMAGE), *sizes, value["data"])
    flat = value
    for _ in range(column.nested):
        flat = F.flatten(flat)
    # Other lengths would regroup the numbers without a word: such a row becomes an array of no length.
    return F.when(_of_lengths(value, column.inner), flat).otherwise(F.slice(flat, 1, 0)) if column.inner else flat


def not_finite(value: SparkColumn) -> SparkColumn:
    """Tell whether a fraction is NaN or infinite; null for null."""
    return F.isnan(value) | (F.abs(value) == float("inf"))


def _of_lengths(arrays: SparkColumn, lengths: Sequence[int]) -> SparkColumn:
    """Whether all arrays within an array have these lengths; true for null."""

    def fits(part: SparkColumn) -> SparkColumn:
        right = F.size(part) == lengths[0]
        return right & _of_lengths(part, lengths[1:]) if len(lengths) > 1 else right

    return F.coalesce(F.forall(arrays, fits), F.lit(True))


def decode_batch(batch: pa.RecordBatch, columns: Sequence[Column]) -> dict[Column, Extracted]:
    """The numbers of each column.

    Args:
        batch: what came of `send(columns)`.
        columns: the same ones.
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
    """The numbers of a column of Vectors, from their fields."""
    if column.sparse:
        return extract_sparse(fields, column.width, column.sparse)
    return extract_vectors(fields, column.width)


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    """Scalars of one type together, all others alone; each column once, or once sparse and once dense."""
    groups: dict[tuple[str, ...], list[Column]] = {}
    for column in dict.fromkeys(columns):
        key = ("scalar", column.dtype) if column.kind == "scalar" else (column.kind, column.name, str(column.width))
        groups.setdefault(key, []).append(column)
    return list(groups.values())
