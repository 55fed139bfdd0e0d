"""Columns of Spark ML Vectors that stay sparse until the batch.

A row's bytes are (position, number) pairs of its nonzero numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted, mask
from spark_dl.data.columns.vector import VectorKind, vector_fields
from spark_dl.data.ragged import split

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["SparseVectorKind"]

# A position is an integer of the number's width, so that one decode_raw reads both.
_PLACES = {"float32": "int32", "float64": "int64"}
_FIELD_TYPES = {
    "type": pa.int8(),
    "size": pa.int32(),
    "indices": pa.list_(pa.int32()),
    "values": pa.list_(pa.float64()),
}


class SparseVectorKind(VectorKind):
    """A wide Vector in each row, stored as its nonzero numbers; `VectorKind.matched` decides which these are."""

    name = "sparse vector"
    coding = "sparse"
    plan_note = "sparse until the batch"

    def column(self, name: str, data_type: DataType) -> Column | None:
        return None

    def udf_argument(self, column: Column, wide: bool) -> SparkColumn:
        from pyspark.sql import functions as F

        return F.unwrap_udt(self.select(column))

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        """Convert Vectors, dense or sparse, to bytes, and check the range of the input's dtype, `column.sparse`."""
        fields, width = vector_fields(array), column.width
        kept_as = _kept_dtype(column.sparse)
        null = mask(fields["type"].is_null())
        kinds = fields["type"].fill_null(1).to_numpy(zero_copy_only=False)
        is_sparse = (kinds == 0) & ~null
        counts = pc.list_value_length(fields["values"]).fill_null(0).to_numpy(zero_copy_only=False)
        sizes = np.where(is_sparse, fields["size"].fill_null(0).to_numpy(zero_copy_only=False), counts)
        wrong = (sizes != width) & ~null
        found, times = np.unique(sizes[wrong], return_counts=True)

        rows = np.repeat(np.arange(len(null)), counts)
        starts = np.cumsum(counts) - counts
        places = np.arange(len(rows)) - np.repeat(starts, counts)
        places[is_sparse[rows]] = fields["indices"].flatten().to_numpy(zero_copy_only=False)
        numbers = fields["values"].flatten().to_numpy(zero_copy_only=False)
        nan = np.bincount(rows[np.isnan(numbers)], minlength=len(null)) > 0
        with np.errstate(over="ignore"):
            cast = numbers.astype(kept_as)
            fits = np.isfinite(numbers.astype(column.sparse)) | ~np.isfinite(numbers)
        beyond = np.bincount(rows[~fits], minlength=len(null)) > 0
        missing = null | wrong | nan
        infinite = (np.bincount(rows[np.isinf(numbers)], minlength=len(null)) > 0) & ~missing
        kept = (numbers != 0) & ~missing[rows]
        pairs = np.empty(int(kept.sum()), [("place", _PLACES[kept_as]), ("number", kept_as)])
        pairs["place"], pairs["number"] = places[kept], cast[kept]
        lengths = np.bincount(rows[kept], minlength=len(null)) * pairs.itemsize
        return Extracted(
            values=split(memoryview(pairs.tobytes()), lengths),
            missing=missing,
            nulls=int(null.sum()),
            nans=int((nan & ~null & ~wrong).sum()),
            lengths=dict(zip(found.tolist(), times.tolist(), strict=True)),
            beyond=beyond & ~missing,
            infinite=infinite,
        )

    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        """Convert a DataFrame of the struct's fields, as Spark has it, or a Series of dense rows."""
        if hasattr(values, "columns"):
            fields = [pa.array(values[name], kind, from_pandas=True) for name, kind in _FIELD_TYPES.items()]
        else:
            rows = super().from_pandas(values, column).cast(_FIELD_TYPES["values"])
            kinds = pa.array(np.ones(len(rows), np.int8), mask=mask(rows.is_null()))
            fields = [kinds, pa.nulls(len(rows), pa.int32()), pa.array([[]] * len(rows), pa.list_(pa.int32())), rows]
        return pa.StructArray.from_arrays(fields, list(_FIELD_TYPES))

    def decode_tensor(self, contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
        import tensorflow as tf

        kept = _kept_dtype(dtype)
        rows, width = tf.shape(contents)[0], int(np.prod(shape))
        flat = tf.io.decode_raw(tf.strings.reduce_join(contents), _PLACES[kept])
        places, numbers = tf.unstack(tf.reshape(flat, (-1, 2)), axis=1)
        counts = tf.strings.length(contents) // (2 * np.dtype(kept).itemsize)
        at = tf.stack([tf.repeat(tf.range(rows), counts), tf.cast(places, tf.int32)], axis=1)
        filled = tf.scatter_nd(at, tf.bitcast(numbers, kept), (rows, width))
        return tf.cast(tf.reshape(filled, (-1, *shape)), dtype)

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        return None


def _kept_dtype(dtype: str) -> str:
    """Return the dtype in which sparse rows store the numbers for an input of `dtype`."""
    return "float64" if dtype == "float64" else "float32"
