"""Vectors that stay sparse until the batch: a row's bytes are (position, number) pairs of its nonzero numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_dl.data.arrow import Extracted, mask
from spark_dl.data.ragged import split

__all__ = ["dense", "extract_sparse"]

# A position is an integer of the number's width, so that one decode_raw reads both.
_PLACES = {"float32": "int32", "float64": "int64"}


def extract_sparse(fields: Mapping[str, pa.Array], width: int, dtype: str) -> Extracted:
    """Convert Spark ML Vectors, dense or sparse, to sparse rows as bytes: objects of shape (rows,).

    Args:
        fields: The Vectors' struct fields, as for `extract_vectors`.
        width: The number of elements in a Vector.
        dtype: The dtype of the model's input, whose range is checked: float16, float32 or float64.
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
    """Decode sparse rows to a dense model input, in a graph.

    Args:
        contents: A string tensor of shape (rows,): rows from `extract_sparse`.
        shape: The shape of one row of the input.
        dtype: The input's dtype.

    Returns:
        A tensor of shape (rows, *shape).
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
    """Return the dtype in which sparse rows store the numbers for an input of `dtype`."""
    return "float64" if dtype == "float64" else "float32"
