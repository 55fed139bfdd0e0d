"""Checks for numbers that a dtype can't represent: outside its range, or whole numbers that it would round."""

from __future__ import annotations

import numpy as np

__all__ = ["EXACT_FIX", "all_finite", "beyond", "greatest", "inexact"]

EXACT_FIX = (
    "Give ids an integer input (keras.Input(..., dtype='int64')) in front of an Embedding, or index them with "
    "StringIndexer; where rounding is fine, cast the column to double."
)


def all_finite(values: np.ndarray) -> bool:
    """Return whether there is neither NaN nor infinity, in two passes without a copy, as a minimum propagates NaN."""
    return not values.size or bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def beyond(values: np.ndarray, dtype: str) -> np.ndarray:
    """Mark the rows with a finite number outside a dtype's range.

    Args:
        values: The numbers, shape (rows, width).
        dtype: The NumPy dtype of the planned cast.

    Returns:
        A boolean mask of shape (rows,).
    """
    wanted = np.dtype(dtype)
    if not values.size or values.dtype == bool or np.can_cast(values.dtype, wanted):
        return np.zeros(len(values), bool)
    limits = np.finfo(wanted) if wanted.kind == "f" else np.iinfo(wanted)
    if values.min() >= limits.min and values.max() <= limits.max:
        return np.zeros(len(values), bool)
    marks: np.ndarray = (((values < limits.min) | (values > limits.max)) & np.isfinite(values)).any(axis=1)
    return marks


def inexact(values: np.ndarray, dtype: str) -> np.ndarray:
    """Mark the rows with an integer that a floating-point dtype would round to another one.

    Only integer arrays are checked, as any cast to fewer digits rounds fractions.

    Args:
        values: The numbers, shape (rows, width).
        dtype: The NumPy dtype of the planned cast.

    Returns:
        A boolean mask of shape (rows,).
    """
    wanted = np.dtype(dtype)
    none = np.zeros(len(values), bool)
    if not values.size or values.dtype.kind not in "iu" or wanted.kind != "f":
        return none
    held = 1 << (np.finfo(wanted).nmant + 1)
    if values.min() >= -held and values.max() <= held:
        return none
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(wanted).astype(np.float64)
        # 2**63 as a float64 would overflow in the cast back to int64.
        same = np.isfinite(cast) & (cast < 2.0**63) & (cast.astype(np.int64) == values)
    marks: np.ndarray = (~same).any(axis=1)
    return marks


def greatest(values: np.ndarray) -> int:
    """Return the integer of the greatest magnitude."""
    low, high = int(values.min()), int(values.max())
    return low if -low > high else high
