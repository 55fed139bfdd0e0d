"""The kinds of columns that can feed a model, one file each.

To add a kind, write a file with a subclass of `ColumnKind` and add it to KINDS; `tests/unit/test_column_kinds.py` then
holds it to the contract, with the rows that it names there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.array import ArrayKind
from spark_dl.data.columns.binary import BinaryKind
from spark_dl.data.columns.boolean import BooleanKind
from spark_dl.data.columns.decimal_number import DecimalKind
from spark_dl.data.columns.extracted import Extracted
from spark_dl.data.columns.image import ImageKind
from spark_dl.data.columns.image_struct import ImageStructKind
from spark_dl.data.columns.kind import OPEN, ColumnKind, InputRules, ModelInput, unfit
from spark_dl.data.columns.nested_array import NestedArrayKind
from spark_dl.data.columns.number import NumberKind
from spark_dl.data.columns.ragged_array import RaggedArrayKind
from spark_dl.data.columns.sparse_vector import SparseVectorKind
from spark_dl.data.columns.text import TextKind
from spark_dl.data.columns.text_array import TextArrayKind
from spark_dl.data.columns.vector import VectorKind

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

__all__ = [
    "KINDS",
    "OPEN",
    "ColumnKind",
    "Extracted",
    "InputRules",
    "ModelInput",
    "column_of",
    "decode",
    "decode_tensor",
    "kind_named",
    "kind_of",
    "unfit",
]

KINDS: tuple[ColumnKind, ...] = (
    NumberKind(),
    DecimalKind(),
    BooleanKind(),
    ArrayKind(),
    NestedArrayKind(),
    RaggedArrayKind(),
    VectorKind(),
    SparseVectorKind(),
    BinaryKind(),
    TextKind(),
    TextArrayKind(),
    ImageKind(),
    ImageStructKind(),
)


def kind_named(name: str) -> ColumnKind:
    """Return the kind with this name."""
    return next(kind for kind in KINDS if kind.name == name)


def kind_of(column: Column) -> ColumnKind:
    """Return the column's kind."""
    return kind_named(column.kind)


def column_of(name: str, data_type: DataType) -> Column | None:
    """Return the column of a Spark type; None if no kind has this type."""
    return next((found for kind in KINDS if (found := kind.column(name, data_type))), None)


def decode(array: pa.Array, column: Column) -> Extracted:
    """Convert a projected column in one Arrow batch to NumPy."""
    return kind_of(column).decode(array, column)


def decode_tensor(values: Any, coding: str, shape: tuple[int, ...], dtype: str) -> Any:
    """Convert a batch of stored values to a model's input, in a TensorFlow graph.

    Args:
        values: The rows: numbers, or bytes of shape (rows,).
        coding: The coding of the bytes; "" for numbers.
        shape: The shape of one row of the input, where it is decoded from bytes.
        dtype: The input's dtype; "string" for text.
    """
    import tensorflow as tf

    if not coding:
        return tf.cast(values, dtype)
    kind = next(kind for kind in KINDS if kind.coding == coding)
    return kind.decode_tensor(tf.convert_to_tensor(values, tf.string), shape, dtype)
