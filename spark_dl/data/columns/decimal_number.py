"""Columns with a decimal in each row, which are fed as doubles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.number import NumberKind, as_numbers

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["DecimalKind"]

# Decimal digits of whole numbers that a double always keeps.
_EXACT_DIGITS = 15


class DecimalKind(NumberKind):
    """A decimal in each row, such as a price; but no whole number of more digits than a double keeps, such as a key."""

    name = "decimal"

    def column(self, name: str, data_type: DataType) -> Column | None:
        if data_type.typeName() != "decimal":
            return None
        precision, scale = data_type.precision, data_type.scale  # type: ignore[attr-defined]
        if scale <= 0 and precision - scale > _EXACT_DIGITS:  # a negative scale is of whole hundreds, for example
            return None
        return Column(name, self.name, "float64", 1)

    def select(self, column: Column) -> SparkColumn:
        return super().select(column).cast("double")

    def from_parquet(self, array: pa.Array, column: Column) -> pa.Array:
        return as_numbers(array, column, "a number in each row").cast(pa.float64())
