"""Columns with an array of strings in each row, such as the tokens of a text, for a model input of strings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted
from spark_dl.data.columns.kind import OPEN, ColumnKind, ModelInput, array_of
from spark_dl.data.columns.padded import cut
from spark_dl.data.columns.ragged_array import check_open, padded_batch
from spark_dl.data.ragged import BYTES
from spark_dl.errors import DataError, explain, shape_text

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["TextArrayKind"]

_EXPECTED = "an array of strings in each row"
# The byte after each string in a row's bytes. It is in no string, as UTF-8 hasn't it.
_END = b"\xff"
_NOT_UTF8 = "strings that are UTF-8"


class TextArrayKind(ColumnKind):
    """An array of strings in each row, all of one length unless they are padded."""

    name = "text array"
    coding = "strings"
    is_label = False

    def column(self, name: str, data_type: DataType) -> Column | None:
        element = getattr(data_type, "elementType", None)
        is_text = element is not None and element.typeName() == "string"
        return Column(name, self.name, BYTES, 0) if is_text else None

    def feeds(self, model_input: ModelInput) -> str | None:
        return self.name if model_input.dtype == "string" else None

    def check_input(self, model_input: ModelInput, param: str) -> None:
        if len(model_input.columns) > 1 or not model_input.shape:
            raise DataError(
                explain(
                    "An input of strings takes one column, with an array of strings in each row.",
                    expected="one column, and a model input of shape (batch, strings)",
                    received=f"columns {', '.join(c.name for c in model_input.columns)}, and an input of shape "
                    f"{shape_text(model_input.shape)}",
                    fix="Give the input one column, or join several with concat.",
                )
            )

    def matched(self, column: Column, width: int, model_input: ModelInput) -> Column:
        if model_input.is_open:
            check_open(column, model_input, depth=1)
            return replace(column, width=0)
        return replace(column, width=math.prod(model_input.shape))

    def pad_value(self, column: Column, pad: Any) -> float | str | None:
        return pad if isinstance(pad, str) else None

    def is_present(self, column: Column) -> SparkColumn:
        from pyspark.sql import functions as F

        value = self.select(column)
        return value.isNotNull() & ~F.exists(value, lambda one: one.isNull())

    def udf_argument(self, column: Column, wide: bool) -> SparkColumn:
        return self.select(column).cast("array<binary>")  # pandas refuses strings that aren't UTF-8

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        fixed = column if column.pad is not None else replace(column, truncate="error")
        chosen, flat = cut(array, fixed), array.flatten()
        wrong, counts = chosen.wrong, chosen.lengths
        if column.pad is None and (short := ~chosen.null & ~wrong & (chosen.kept != column.width)).any():
            wrong = wrong | short
            found, times = np.unique(chosen.kept[short], return_counts=True)
            counts = {**counts, **dict(zip(found.tolist(), times.tolist(), strict=True))}
        texts = flat.cast(pa.large_binary()).fill_null(b"").to_numpy(zero_copy_only=False)[chosen.source]
        foreign = np.fromiter((_END in text for text in texts), bool, len(texts))
        ends = np.cumsum(chosen.kept)
        padding = b"" if column.pad is None else str(column.pad).encode() + _END
        before = b"" if column.width else padding  # for the batch, which pads
        values = np.empty(len(array), object)
        values[:] = [
            before + b"".join(text + _END for text in texts[end - kept : end]) + padding * (column.width - kept)
            for end, kept in zip(ends.tolist(), chosen.kept.tolist(), strict=True)
        ]
        holes = chosen.holes(flat)
        marked = np.bincount(chosen.rows, foreign, len(array)) > 0
        return Extracted(
            values,
            holes | wrong,
            nulls=int(holes.sum()),
            lengths=counts,
            undecodable={_NOT_UTF8: marked} if marked.any() else {},
        )

    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        return array_of(values, column, _EXPECTED, pa.large_list(pa.large_binary()))

    def decode_tensor(self, contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
        import tensorflow as tf

        texts = tf.strings.split(contents, _END)[:, :-1]  # what follows the last end is empty
        if shape != (OPEN,):
            return tf.reshape(texts.flat_values, (-1, *shape))
        return padded_batch(texts.flat_values, texts.row_lengths(), 1)

    def signature_type(self, column: Column) -> Any:
        return ("array", "string")

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        return [""] * (column.width or 1)
