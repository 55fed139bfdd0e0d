"""Columns with arrays that are padded to the longest of a batch.

A row's bytes are the padding, then its numbers, in the dtype of the model's input.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted, numbers_of
from spark_dl.data.columns.kind import ModelInput
from spark_dl.data.columns.nested_array import NestedArrayKind
from spark_dl.data.columns.number import zero
from spark_dl.data.columns.padded import cut
from spark_dl.data.limits import beyond, fractional, inexact
from spark_dl.data.ragged import split
from spark_dl.errors import DataError, explain, shape_text

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

__all__ = ["RaggedArrayKind", "check_open", "padded_batch"]

# The shortest length of a batch; others are its products with powers of two, so that few lengths are compiled.
_SHORTEST = 8
# Dtypes that decode_raw doesn't take, and those of the same size that it does.
_RAW = {"uint32": "int32", "uint64": "int64"}


class RaggedArrayKind(NestedArrayKind):
    """An array, or an array of arrays, in each row, for an input whose first length is open; `feeds` decides which."""

    name = "ragged array"
    coding = "ragged"
    is_label = False
    plan_note = "padded to the longest of a batch"

    def column(self, name: str, data_type: DataType) -> Column | None:
        return None

    def matched(self, column: Column, width: int, model_input: ModelInput) -> Column:
        check_open(column, model_input, depth=column.nested + 1)
        inner = model_input.shape[1:] if column.nested else ()
        return replace(column, width=0, inner=inner, sparse=model_input.dtype)

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        """Convert lists to bytes, and check that the input's dtype, `column.sparse`, holds the numbers."""
        chosen, flat = cut(array, column), array.flatten()
        numbers, dtype = numbers_of(flat)[chosen.source], column.sparse

        def rows_with(elements: np.ndarray) -> np.ndarray:
            return np.bincount(chosen.rows, elements, len(array)) > 0

        holes = chosen.holes(flat)
        missing = holes | chosen.wrong
        nan = rows_with(np.isnan(numbers)) & ~missing
        infinite = rows_with(np.isinf(numbers)) & ~missing & ~nan
        missing = missing | nan
        each = numbers.reshape(-1, 1)
        outside = rows_with(beyond(each, dtype)) & ~missing
        rounded = rows_with(inexact(each, dtype)) & ~missing & ~outside
        marks = {
            f"whole numbers, for an input of {dtype}": rows_with(fractional(each, dtype)) & ~missing,
            f"numbers that {dtype} and {numbers.dtype} hold exactly": rounded,
        }
        with np.errstate(over="ignore", invalid="ignore"):  # such rows are dropped or reported
            content = memoryview(numbers.astype(dtype).tobytes())
        padding = np.array(column.pad, dtype).tobytes()
        values = np.empty(len(array), object)
        values[:] = [padding + row for row in split(content, chosen.kept * np.dtype(dtype).itemsize)]
        return Extracted(
            values,
            missing,
            nulls=int(holes.sum()),
            nans=int(nan.sum()),
            lengths=chosen.lengths,
            beyond=outside,
            infinite=infinite,
            undecodable={reason: rows for reason, rows in marks.items() if rows.any()},
        )

    def decode_tensor(self, contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
        import tensorflow as tf

        flat = tf.io.decode_raw(tf.strings.reduce_join(contents), _RAW.get(dtype, dtype))
        flat = tf.bitcast(flat, dtype) if dtype in _RAW else flat
        lengths = tf.strings.length(contents) // np.dtype(dtype).itemsize
        unit = math.prod(shape[1:])
        batch = padded_batch(flat, lengths, unit)
        if len(shape) == 1:
            return batch
        made = tf.reshape(batch, (tf.shape(contents)[0], tf.shape(batch)[1] // unit, *shape[1:]))
        return tf.ensure_shape(made, (None, None, *shape[1:]))

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        return np.full((1, *column.inner), zero(column), object).tolist()


def padded_batch(flat: Any, lengths: Any, unit: int) -> Any:
    """Pad the rows of a batch to one length, in a graph.

    Args:
        flat: The values of all rows, each row after its padding value.
        lengths: The number of values of each row, its padding value included.
        unit: The number of values in one element of a row.

    Returns:
        A tensor of shape (rows, length * unit). The length is that of the longest row, rounded up to one of few.
    """
    import tensorflow as tf

    rows = tf.RaggedTensor.from_row_lengths(flat, lengths)
    longest = tf.reduce_max(tf.concat([lengths - 1, [0]], 0)) // unit
    steps = tf.cast(tf.maximum(longest, 1), tf.float64) / _SHORTEST
    doublings = tf.maximum(tf.math.ceil(tf.math.log(steps) / math.log(2.0) - 1e-9), 0.0)
    length = tf.cast(_SHORTEST * 2.0**doublings, tf.int64) * unit
    padding = tf.concat([flat, tf.zeros([1], flat.dtype)], 0)[0]  # a batch may have no rows
    batch = rows[:, 1:].to_tensor(padding, shape=tf.stack([tf.cast(rows.nrows(), tf.int64), length]))
    return tf.ensure_shape(batch, (None, None))


def check_open(column: Column, model_input: ModelInput, depth: int) -> None:
    """Check that a column can feed an input whose first length is open.

    Args:
        column: The column, with its padding.
        model_input: The input.
        depth: The number of nested arrays.

    Raises:
        DataError: The column isn't padded, is nested otherwise than the input, or isn't the input's only column.
    """
    fits = depth == len(model_input.shape) or (depth == 1 and math.prod(model_input.shape[1:]) == 1)
    if column.pad is None or not fits or len(model_input.columns) > 1:
        raise DataError(
            explain(
                f"The column {column.name!r} can't feed an input of open length.",
                expected=f"one column in padding, with arrays nested as the model's input "
                f"{shape_text(model_input.shape)} has them",
                received=f"arrays nested {depth} deep, {'not ' * (column.pad is None)}in padding, in an input of "
                f"{len(model_input.columns)} column{'s' * (len(model_input.columns) != 1)}",
                fix=f"Set padding={{{column.name!r}: 0}}, or the length of a row in columnShapes.",
            )
        )
