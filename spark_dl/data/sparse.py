"""Vectors that stay sparse until the batch: a row is bytes, its numbers that aren't zero, each behind its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_dl.data.arrow import Extracted, mask
from spark_dl.data.ragged import split

__all__ = ["dense", "extract_sparse"]

# A place is an integer of the number's own width, so that both are read by one look at the bytes.
_PLACES = {"float32": "int32", "float64": "int64"}


def extract_sparse(fields: Mapping[str, pa.Array], width: int, dtype: str) -> Extracted:
    """Spark's Vectors, dense ones among them, as such bytes: objects of shape (rows,).

    Args:
        fields: as `extract_vectors` takes them.
        width: numbers in a row.
        dtype: of the model's input, which the numbers must fit: float16, float32 or float64.
    """
    kept_as = _kept_dtype(dtype)
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
        fits = np.isfinite(numbers.astype(dtype)) | ~np.isfinite(numbers)
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


def dense(contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """The model's input, in a graph.

    Args:
        contents: string tensor, shape (rows,): rows as `extract_sparse` gives them.
        shape: of one row of the input.
        dtype: of the input.

    Returns:
        tensor of shape (rows, *shape).
    """
    import tensorflow as tf

    kept = _kept_dtype(dtype)
    rows, width = tf.shape(contents)[0], int(np.prod(shape))
    flat = tf.io.decode_raw(tf.strings.reduce_join(contents), _PLACES[kept])
    places, numbers = tf.unstack(tf.reshape(flat, (-1, 2)), axis=1)
    counts = tf.strings.length(contents) // (2 * np.dtype(kept).itemsize)
    at = tf.stack([tf.repeat(tf.range(rows), counts), tf.cast(places, tf.int32)], axis=1)
    filled = tf.scatter_nd(at, tf.bitcast(numbers, kept), (rows, width))
    return tf.cast(tf.reshape(filled, (-1, *shape)), dtype)


def _kept_dtype(dtype: str) -> str:
    """The dtype in which numbers are kept for an input of this one."""
    return "float64" if dtype == "float64" else "float32"
