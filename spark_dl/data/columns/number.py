"""Columns with one number in each row, and the number types that arrays share with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted, filled, from_numbers, mask, nulls_of, numbers_of
from spark_dl.data.columns.kind import ColumnKind, ModelInput, array_of, unfit
from spark_dl.data.limits import exact_up_to

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["NumberKind", "as_numbers", "decode_together", "not_finite", "number_dtype", "number_of_dtype", "spark_name"]

# NumPy's dtypes by Spark's names of its types.
_DTYPES = (
    ("boolean", "bool"),
    ("byte", "int8"),
    ("short", "int16"),
    ("integer", "int32"),
    ("long", "int64"),
    ("float", "float32"),
    ("double", "float64"),
)


def number_dtype(data_type: DataType) -> str | None:
    """Return the NumPy dtype of a Spark type of numbers or booleans; None for another type."""
    return dict(_DTYPES).get(data_type.typeName())


def _integers(array: pa.Array, column: Column) -> pa.Array:
    """Return floats with nulls as the integers that they were in an integer column.

    Raises:
        DataError: Integers beside a null may have been rounded.
    """
    if np.dtype(column.dtype).kind not in "iu":
        return array
    numbers = array.drop_null().to_numpy()
    if (numbers != np.floor(numbers)).any():  # served fractions
        return array
    if (np.abs(numbers) >= exact_up_to(numbers.dtype)).any():
        raise unfit(column, "integers below 2^53 beside nulls, as pandas makes floats of them", f"{numbers.max():g}")
    return array.cast(pa.from_numpy_dtype(column.dtype))


def spark_name(dtype: str) -> str:
    """Return the name in SQL of the Spark type of a NumPy dtype.

    >>> spark_name("int64")
    'long'
    """
    return next(name for name, known in _DTYPES if known == dtype)


class NumberKind(ColumnKind):
    """A number in each row."""

    name = "number"
    is_scalar = True
    is_flat = True

    def column(self, name: str, data_type: DataType) -> Column | None:
        dtype = number_dtype(data_type)
        return Column(name, self.name, dtype, 1) if dtype not in (None, "bool") else None

    def matched(self, column: Column, width: int, model_input: ModelInput) -> Column:
        return column

    def fill_value(self, column: Column, fill: Any) -> float | str | None:
        return number_of_dtype(fill, column.dtype)

    def group(self, column: Column) -> object:
        """Group scalars by type, which become one array in Spark, for `decode_together`."""
        return column.dtype

    def udf_argument(self, column: Column, wide: bool) -> SparkColumn:
        from pyspark.sql import functions as F

        value = self.select(column)
        if column.fill is None:
            return value
        # Filled in Spark, as pandas converts integers with nulls to floats.
        missing = value.isNull() | not_finite(value) if column.dtype.startswith("float") else value.isNull()
        return F.when(missing, F.lit(self._fill_literal(column))).otherwise(value)

    def _fill_literal(self, column: Column) -> Any:
        return column.fill

    def is_present(self, column: Column) -> SparkColumn:
        value = self.select(column)
        present = value.isNotNull()
        return present & ~not_finite(value) if column.dtype.startswith("float") else present

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        extracted = from_numbers(numbers_of(array).reshape(-1, 1), nulls_of(array))
        return filled(extracted, column.fill)  # type: ignore[arg-type]

    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        array = as_numbers(array_of(values, column, "a number in each row"), column, "a number in each row")
        # pandas converts integers with nulls to floats.
        if column.fill is not None:
            return array.cast(pa.from_numpy_dtype(column.dtype), safe=False)
        return _integers(array, column) if array.null_count and pa.types.is_floating(array.type) else array

    def signature_type(self, column: Column) -> Any:
        return number_type(column)

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        return zero(column)


def number_of_dtype(value: Any, dtype: str) -> float | None:
    """Return an option's value as a number of a NumPy dtype; None if it isn't one that the dtype holds."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return float(value)
    low, high = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    return int(value) if float(value).is_integer() and low <= value <= high else None


def zero(column: Column) -> float:
    """Return 0 as the column's dtype has it."""
    value: float = {"b": False, "i": 0, "u": 0}.get(np.dtype(column.dtype).kind, 0.0)
    return value


def number_type(column: Column) -> str:
    """Return MLflow's type of the column's numbers: Python and JSON have one of integers and one of fractions."""
    return {"b": "boolean", "i": "long"}.get(np.dtype(column.dtype).kind, "double")


def as_numbers(array: pa.Array, column: Column, expected: str) -> pa.Array:
    """Return an Arrow array of numbers or booleans as it is, or cast to the column's dtype.

    Raises:
        DataError: The values aren't numbers.
    """
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type):
        return array
    kind = pa.float64() if pa.types.is_decimal(array.type) else pa.from_numpy_dtype(column.dtype)
    try:
        return array.cast(kind)
    except (pa.ArrowException, ValueError) as error:
        raise unfit(column, expected, f"{array.type}, such as {array[0]}"[:200]) from error


def decode_together(array: pa.Array, columns: Sequence[Column]) -> list[Extracted]:
    """Convert several scalar columns that a conversion packs into one array per row."""
    flat, count = array.flatten(), len(columns)
    numbers = numbers_of(flat).reshape(-1, count)
    nulls = mask(flat.is_null()).reshape(-1, count) if flat.null_count else np.zeros((len(numbers), count), bool)
    return [
        filled(from_numbers(numbers[:, i : i + 1], nulls[:, i]), column.fill)  # type: ignore[arg-type]
        for i, column in enumerate(columns)
    ]


def not_finite(value: SparkColumn) -> SparkColumn:
    """Build the condition that a float is NaN or infinite; null for null."""
    from pyspark.sql import functions as F

    return F.isnan(value) | (F.abs(value) == float("inf"))
