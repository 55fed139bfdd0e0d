"""Columns with true or false in each row, which are fed as 1 and 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spark_dl.data.column import Column
from spark_dl.data.columns.number import NumberKind, number_dtype

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

__all__ = ["BooleanKind"]


class BooleanKind(NumberKind):
    """A boolean in each row."""

    name = "boolean"

    def column(self, name: str, data_type: DataType) -> Column | None:
        return Column(name, self.name, "bool", 1) if number_dtype(data_type) == "bool" else None

    def _fill_literal(self, column: Column) -> Any:
        return bool(column.fill)
