"""Output numbers as pandas Series from which Spark reads NaN as NaN: of plain ones it makes nulls."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

__all__ = ["output_series"]


def output_series(values: np.ndarray) -> pd.Series:
    """A Series for a pandas UDF to return.

    Args:
        values: shape (rows,), or (rows, width) for an array in each row.
    """
    if values.ndim == 1:
        return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values)) if np.isnan(values).any() else values)
    rows: list[np.ndarray] = list(values)
    for index in np.flatnonzero(np.isnan(values).any(axis=1)):
        row = values[index].astype(object)
        row[np.isnan(values[index])] = np.float32("nan")  # Arrow takes a NaN of Python's float for a null
        rows[index] = row
    return pd.Series(rows, dtype=object)
