"""Columns with arrays of arrays of numbers in each row, such as time series and matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.array import ArrayKind
from spark_dl.data.columns.kind import ModelInput
from spark_dl.data.columns.number import number_dtype, spark_name, zero

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["NestedArrayKind", "flattened"]


class NestedArrayKind(ArrayKind):
    """An array of arrays of numbers in each row, flattened in Spark."""

    name = "nested array"

    def column(self, name: str, data_type: DataType) -> Column | None:
        levels, element = 0, data_type
        while hasattr(element, "elementType"):
            levels, element = levels + 1, element.elementType
        dtype = number_dtype(element)
        return Column(name, self.name, dtype, 0, nested=levels - 1) if levels > 1 and dtype else None

    def matched(self, column: Column, width: int, model_input: ModelInput) -> Column:
        shape = model_input.shape
        if column.nested >= len(shape):
            return replace(column, width=width)
        return replace(column, width=width, inner=(*shape[1 : column.nested], math.prod(shape[column.nested :])))

    def select(self, column: Column) -> SparkColumn:
        """Build the expression of the flattened array; null for a row with a null inner array."""
        from pyspark.sql import functions as F

        value = super().select(column)
        flat = value
        for _ in range(column.nested):
            flat = F.flatten(flat)
        if not column.inner:
            return flat
        # Other inner lengths would silently regroup the numbers, so that such a row becomes an empty array.
        selected = F.when(_of_lengths(value, column.inner), flat).otherwise(F.slice(flat, 1, 0))
        if column.pad is None:
            return selected
        # A row without inner arrays is all padding, and begins with it here to differ from such a row.
        padding = F.array_repeat(F.lit(column.pad), column.unit).cast(f"array<{spark_name(column.dtype)}>")
        return F.when(F.size(value) == 0, padding).otherwise(selected)

    def from_parquet(self, array: pa.Array, column: Column) -> pa.Array:
        if column.inner and column.pad is not None:
            rows = array.to_pylist()
            if any(row is not None and not row for row in rows):
                padding = np.full((1, *column.inner), column.pad, column.dtype).tolist()
                array = pa.array([padding if row is not None and not row else row for row in rows], array.type)
        return flattened(array, column.nested, column.inner)

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        if column.inner:
            shape = (column.width // math.prod(column.inner), *column.inner)
        return np.full(shape, zero(column), object).tolist()


def _of_lengths(arrays: SparkColumn, lengths: Sequence[int]) -> SparkColumn:
    """Build the condition that all inner arrays have these lengths, from outer to inner; true for null."""
    from pyspark.sql import functions as F

    def fits(part: SparkColumn) -> SparkColumn:
        right = F.size(part) == lengths[0]
        return right & _of_lengths(part, lengths[1:]) if len(lengths) > 1 else right

    return F.coalesce(F.forall(arrays, fits), F.lit(True))


def flattened(array: pa.Array, times: int, lengths: Sequence[int] = ()) -> pa.Array:
    """Flatten an Arrow column of nested arrays.

    Args:
        array: The column in one batch.
        times: The number of levels to remove.
        lengths: The required lengths of the inner arrays, from outer to inner; rows with other lengths become empty
            arrays. Empty for no requirement.
    """
    if lengths:
        array = _emptied(array, [_has_lengths(row, lengths) for row in array.to_pylist()])
    for _ in range(times):
        inner = array.values
        ends = inner.offsets.to_numpy()[array.offsets.to_numpy()]
        mask = array.is_null() if array.null_count else None
        array = type(inner).from_arrays(pa.array(ends, inner.offsets.type), inner.values, mask=mask)
    return array


def _has_lengths(row: list[Any] | None, lengths: Sequence[int]) -> bool:
    return row is None or all(
        part is not None and len(part) == lengths[0] and (len(lengths) == 1 or _has_lengths(part, lengths[1:]))
        for part in row
    )


def _emptied(array: pa.Array, fits: list[bool]) -> pa.Array:
    rows = array.to_pylist()
    return (
        array if all(fits) else pa.array([row if fit else [] for row, fit in zip(rows, fits, strict=True)], array.type)
    )
