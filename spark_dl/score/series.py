"""Conversion of outputs to pandas Series in which Spark preserves NaN, as it reads NaN in plain Series as null."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

__all__ = ["output_series"]


def output_series(values: np.ndarray, nulls: np.ndarray | None = None) -> pd.Series:
    """Create the Series that a pandas UDF returns.

    Args:
        values: The values, of shape (rows,), or (rows, ...) for an array in each row, nested for several axes.
        nulls: Boolean, shape (rows,): rows without a value; None for none.
    """
    if nulls is not None and nulls.any():
        if values.ndim == 1:
            return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values, mask=nulls)))
        rows_or_none = output_series(values)
        rows_or_none[nulls] = None
        return rows_or_none
    if values.ndim > 2:
        # One Arrow array of all rows: pandas has no nested arrays, and lists of floats would turn NaN into null.
        lists = pa.array(values.reshape(-1))
        for size in reversed(values.shape[1:]):
            lists = pa.FixedSizeListArray.from_arrays(lists, size)
        return pd.Series(pd.arrays.ArrowExtensionArray(_variable(lists)))
    if values.ndim == 1:
        return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values)) if np.isnan(values).any() else values)
    rows: list[np.ndarray] = list(values)
    for index in np.flatnonzero(np.isnan(values).any(axis=1)):
        row = values[index].astype(object)
        row[np.isnan(values[index])] = np.float32("nan")  # Arrow reads NaN as a Python float as null
        rows[index] = row
    return pd.Series(rows, dtype=object)


def _variable(lists: pa.Array) -> pa.Array:
    """Convert nested lists of fixed sizes to those that Spark reads."""
    kind = lists.type
    levels = 0
    while pa.types.is_fixed_size_list(kind):
        kind, levels = kind.value_type, levels + 1
    for _ in range(levels):
        kind = pa.list_(kind)
    return lists.cast(kind)
