"""Columns of binary values whose bytes are numbers from 0 to 255."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted, from_lists
from spark_dl.data.columns.kind import ColumnKind, ModelInput, array_of
from spark_dl.data.columns.number import number_of_dtype
from spark_dl.data.columns.padded import padded_numbers

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

__all__ = ["BinaryKind"]


class BinaryKind(ColumnKind):
    """A binary value in each row; it may also feed an input as text or as an image."""

    name = "binary"
    is_label = False

    def column(self, name: str, data_type: DataType) -> Column | None:
        return Column(name, self.name, "uint8", 0) if data_type.typeName() == "binary" else None

    def feeds(self, model_input: ModelInput) -> str | None:
        if model_input.dtype == "string":
            return "text"
        return "image" if model_input.rules.binary == "image" else self.name

    def pad_value(self, column: Column, pad: Any) -> float | str | None:
        return number_of_dtype(pad, column.dtype)

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        if column.pad is not None:
            return padded_numbers(_as_lists(array), column)
        return from_lists(_as_lists(array), column.width, column.dtype)

    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        return array_of(values, column, "a binary value in each row", pa.large_binary())

    def signature_type(self, column: Column) -> Any:
        return "binary"


def _as_lists(array: pa.Array) -> pa.Array:
    """View binary values as lists of uint8."""
    if array.offset:  # Arrow's cast ignores the offset of fixed-size binary values
        array = array.take(pa.array(np.arange(len(array))))
    array = array.cast(pa.large_binary())
    validity, offsets, content = array.buffers()
    size = content.size if content is not None else 0
    numbers = pa.Array.from_buffers(pa.uint8(), size, [None, content])
    return pa.Array.from_buffers(
        pa.large_list(pa.uint8()), len(array), [validity, offsets], offset=array.offset, children=[numbers]
    )
