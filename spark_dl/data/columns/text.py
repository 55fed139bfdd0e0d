"""Columns with a string in each row, for a model input of strings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted, filled, from_bytes
from spark_dl.data.columns.kind import ColumnKind, ModelInput, array_of, unfit
from spark_dl.data.ragged import BYTES
from spark_dl.errors import DataError, explain, shape_text

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["TextKind"]


class TextKind(ColumnKind):
    """A string in each row; binary columns hold its UTF-8 bytes."""

    name = "text"
    coding = "text"
    is_label = False
    is_flat = True

    def column(self, name: str, data_type: DataType) -> Column | None:
        return Column(name, self.name, BYTES, 0) if data_type.typeName() == "string" else None

    def feeds(self, model_input: ModelInput) -> str | None:
        return self.name if model_input.dtype == "string" else None

    def check_input(self, model_input: ModelInput, param: str) -> None:
        if len(model_input.columns) > 1 or math.prod(model_input.shape) != 1:
            raise DataError(
                explain(
                    "An input of strings takes one column, with a string in each row.",
                    expected="one column, and a model input of shape (batch,) or (batch, 1)",
                    received=f"columns {', '.join(c.name for c in model_input.columns)}, and an input of shape "
                    f"{shape_text(model_input.shape)}",
                    fix="Give the input one column, or use concat_ws on several.",
                )
            )

    def matched(self, column: Column, width: int, model_input: ModelInput) -> Column:
        return replace(column, dtype=BYTES)

    def fill_value(self, column: Column, fill: Any) -> float | str | None:
        return fill if isinstance(fill, str) else None

    def udf_argument(self, column: Column, wide: bool) -> SparkColumn:
        from pyspark.sql import functions as F

        value = self.select(column)
        filled = value if column.fill is None else F.when(value.isNull(), F.lit(column.fill)).otherwise(value)
        return filled.cast("binary")  # pandas refuses strings that aren't UTF-8, which Spark may hold

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        return filled(from_bytes(array), None if column.fill is None else str(column.fill).encode())

    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        array = array_of(values, column, "a string in each row")
        if pa.types.is_null(array.type):
            return array.cast(pa.string())
        kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
        if not any(is_kind(array.type) for is_kind in kinds):
            raise unfit(column, "a string in each row", f"{array.type}, such as {array[0]}"[:200])
        return array

    def decode_tensor(self, contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
        import tensorflow as tf

        return tf.reshape(contents, (-1, *shape))

    def signature_type(self, column: Column) -> Any:
        return "string"

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        return ""
