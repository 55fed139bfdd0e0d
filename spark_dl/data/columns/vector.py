"""Columns of Spark ML Vectors, which become dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_dl.data.column import Column
from spark_dl.data.columns.array import lists_of, served_array
from spark_dl.data.columns.extracted import Extracted, from_lists, from_numbers, mask
from spark_dl.data.columns.kind import ColumnKind, ModelInput
from spark_dl.data.columns.number import not_finite

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["VECTOR_FIELDS", "VectorKind", "vector_fields"]

# The fields of a Vector's struct. In `type` a sparse Vector has 0, a dense one 1, and a null Vector null.
VECTOR_FIELDS = ("type", "size", "indices", "values")


class VectorKind(ColumnKind):
    """A Spark ML Vector in each row, dense or sparse, fed as a dense row."""

    name = "vector"

    def column(self, name: str, data_type: DataType) -> Column | None:
        return Column(name, self.name, "float64", 0) if data_type.simpleString() == "vector" else None

    def matched(self, column: Column, width: int, model_input: ModelInput) -> Column:
        sized = replace(column, width=width)
        as_float = np.dtype(model_input.dtype).kind == "f"  # sparse rows are kept as floats, which may round ids
        if as_float and len(model_input.columns) == 1 and model_input.rules.stays_sparse(width):
            return replace(sized, kind="sparse vector", sparse=model_input.dtype)
        return sized

    def sent(self, column: Column) -> list[SparkColumn]:
        """Build four columns, the Vector's fields, as Spark's Arrow writer is several times slower with nulls in lists.

        Empty indices replace null ones; a null Vector has a null type.
        """
        from pyspark.sql import functions as F

        vector = F.unwrap_udt(self.select(column))
        none = F.array().cast("array<int>")
        return [F.coalesce(vector[field], none) if field == "indices" else vector[field] for field in VECTOR_FIELDS]

    def group(self, column: Column) -> object:
        """Group the dense and the sparse use of a Vector."""
        return (VectorKind.name, column.name)

    @property
    def sent_columns(self) -> int:
        return len(VECTOR_FIELDS)

    def received(self, arrays: Sequence[pa.Array]) -> pa.Array:
        return pa.StructArray.from_arrays(list(arrays), list(VECTOR_FIELDS))

    def udf_argument(self, column: Column, wide: bool) -> SparkColumn:
        from pyspark.ml.functions import vector_to_array
        from pyspark.sql import functions as F

        value = self.select(column)
        # vector_to_array fails on null without the column's name.
        return F.when(value.isNotNull(), vector_to_array(value, "float64" if wide else "float32"))

    def is_present(self, column: Column) -> SparkColumn:
        from pyspark.sql import functions as F

        value = self.select(column)
        # A sparse Vector's zeros are never NaN.
        return value.isNotNull() & ~F.exists(F.unwrap_udt(value)["values"], not_finite)

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        """Convert Vectors as structs, or as the lists to which a UDF's argument is converted in Spark."""
        if not pa.types.is_struct(array.type):
            return from_lists(array, column.width, column.dtype)
        return _dense(vector_fields(array), column.width)

    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        return lists_of(values, column)

    def from_served(self, values: pd.Series, column: Column) -> pd.Series:
        return served_array(values, column, "float64")

    def signature_type(self, column: Column) -> Any:
        return ("array", "double")

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        return [0.0] * column.width


def vector_fields(array: pa.StructArray) -> dict[str, pa.Array]:
    """Return the fields of Vectors by name, null where the Vector is null."""
    return dict(zip(VECTOR_FIELDS, array.flatten(), strict=True))


def _dense(fields: Mapping[str, pa.Array], width: int) -> Extracted:
    array = pa.RecordBatch.from_pydict(dict(fields))
    null = mask(fields["type"].is_null())
    kind = np.where(null, 1, fields["type"].fill_null(1).to_numpy(zero_copy_only=False))
    values = fields["values"]
    sparse = kind == 0
    if not sparse.any() and not null.any():
        return from_lists(values, width, "float64")
    extracted = Extracted(np.zeros((len(array), width)), null.copy(), nulls=int(null.sum()))
    dense_rows = np.flatnonzero(~sparse & ~null)
    if len(dense_rows):
        dense = from_lists(values.take(pa.array(dense_rows)), width, "float64")
        extracted.array[dense_rows] = dense.values
        extracted.missing[dense_rows] = dense.missing
        extracted.lengths = dense.lengths
    sparse_rows = np.flatnonzero(sparse)
    if len(sparse_rows):
        _scatter(array.take(pa.array(sparse_rows)), sparse_rows, width, extracted)
    return from_numbers(extracted.array, null, extracted.lengths, extracted.missing & ~null)


def _scatter(array: pa.RecordBatch, rows: np.ndarray, width: int, into: Extracted) -> None:
    """Write the numbers of sparse Vectors to their places in `rows`, and mark those of a wrong size."""
    sizes = array.column("size").to_numpy(zero_copy_only=False)
    for size in np.unique(sizes[sizes != width]).tolist():
        into.lengths[size] = into.lengths.get(size, 0) + int((sizes == size).sum())
        into.missing[rows[sizes == size]] = True
    fits = sizes == width
    kept = array.filter(pa.array(fits))
    counts = pc.list_value_length(kept.column("indices")).to_numpy(zero_copy_only=False)
    at = np.repeat(rows[fits], counts)
    into.array[at, kept.column("indices").flatten().to_numpy()] = kept.column("values").flatten().to_numpy()
