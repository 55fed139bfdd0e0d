"""Columns with an array of numbers in each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted, from_lists
from spark_dl.data.columns.kind import ColumnKind, ModelInput, unfit
from spark_dl.data.columns.number import as_numbers, not_finite, number_dtype, number_of_dtype, number_type, zero
from spark_dl.data.columns.padded import padded_numbers

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["ArrayKind", "lists_of", "served_array"]

_EXPECTED = "an array of numbers in each row"
_FIX = "Send the shape that the model was trained with."


class ArrayKind(ColumnKind):
    """An array of numbers or booleans in each row, all of one length unless they are padded."""

    name = "array"

    def column(self, name: str, data_type: DataType) -> Column | None:
        element = getattr(data_type, "elementType", None)
        dtype = None if element is None else number_dtype(element)
        return None if dtype is None else Column(name, self.name, dtype, 0)

    def feeds(self, model_input: ModelInput) -> str | None:
        if model_input.dtype == "string":
            return None
        return "ragged array" if model_input.is_open else self.name

    def pad_value(self, column: Column, pad: Any) -> float | str | None:
        return number_of_dtype(pad, column.dtype)

    def is_present(self, column: Column) -> SparkColumn:
        from pyspark.sql import functions as F

        fractions = column.dtype.startswith("float")
        value = self.select(column)
        return value.isNotNull() & ~F.exists(
            value, lambda one: one.isNull() | not_finite(one) if fractions else one.isNull()
        )

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        if column.pad is not None:
            return padded_numbers(array, column)
        return from_lists(array, column.width, column.dtype)

    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        return lists_of(values, column)

    def from_served(self, values: pd.Series, column: Column) -> pd.Series:
        return served_array(values, column, column.dtype)

    def signature_type(self, column: Column) -> Any:
        of_level: Any = number_type(column)
        for _ in range(column.nested + 1):
            of_level = ("array", of_level)
        return of_level

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        return [zero(column)] * column.width


def lists_of(values: Any, column: Column) -> pa.Array:
    """Convert a Series of arrays or lists of numbers to Arrow lists, with one copy of all numbers.

    Raises:
        DataError: A row isn't an array of numbers.
    """
    null = np.asarray(values.isna())
    rows = values.to_numpy()[~null] if null.any() else values.to_numpy()
    lengths = np.zeros(len(null), np.int64)
    try:
        lengths[~null] = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = np.concatenate(rows) if len(rows) else np.empty(0, column.dtype)
        if flat.ndim != 1:
            raise ValueError("arrays within arrays")
        elements = pa.array(flat, from_pandas=flat.dtype == object)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise unfit(column, _EXPECTED, f"such as {rows[0]!r}"[:200]) from error
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
    return pa.LargeListArray.from_arrays(
        offsets, as_numbers(elements, column, _EXPECTED), mask=pa.array(null) if null.any() else None
    )


def served_array(values: pd.Series, column: Column, dtype: str) -> pd.Series:
    """Convert each row to a flat array; None and NaN are nulls.

    Args:
        values: The rows: lists or arrays, nested as deep as the column.
        column: The column.
        dtype: The dtype of the arrays.

    Raises:
        DataError: A row isn't an array of numbers, or inner arrays have wrong lengths.
    """
    import pandas as pd  # late import: ranks decode without it

    rows = [_flat(row, column, dtype, index) for index, row in enumerate(values)]
    return pd.Series(rows, values.index, dtype=object)


def _flat(row: Any, column: Column, dtype: str, index: int) -> Any:
    if row is None or isinstance(row, float):
        return None
    try:
        array = np.asarray(row)
        if array.dtype == object:  # nulls become NaN
            array = array.astype(np.float64)
        # Whole numbers keep their own type until they are checked against the input's.
        array = array.astype(dtype) if np.dtype(dtype).kind == "f" else array
    except (ValueError, TypeError):
        array = np.asarray(None)
    if column.nested and column.pad is not None and not len(row):
        return np.full(column.unit, column.pad, dtype)  # as NestedArrayKind.select has a row without arrays
    if array.ndim != column.nested + 1 or (column.inner and array.shape[1:] != column.inner):
        wanted = " of arrays" * column.nested + (f" of {' x '.join(map(str, column.inner))}" if column.inner else "")
        raise unfit(column, f"an array{wanted} of numbers in each row", f"row {index}: {row!r}"[:200], _FIX)
    return array.ravel()
