"""Checks for numbers that a dtype can't represent: outside its range, or whole numbers that it would round."""

from __future__ import annotations

import numpy as np

__all__ = ["EXACT_FIX", "WHOLE_FIX", "all_finite", "beyond", "exact_up_to", "fractional", "greatest", "inexact"]

EXACT_FIX = (
    "Give ids an integer input (keras.Input(..., dtype='int64')) in front of an Embedding, or index them with "
    "StringIndexer; where rounding is fine, cast the column to double."
)
WHOLE_FIX = "Index them with StringIndexer, round them in Spark, or give the model a float input."


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
    if wanted.kind != "f" and values.dtype.kind == "f":  # limits.max may have no float of its own: 2**63 - 1
        outside: np.ndarray = (values < limits.min) | (values >= float(limits.max) + 1)
        rows: np.ndarray = (outside & np.isfinite(values)).any(axis=1)
        return rows
    if values.min() >= limits.min and values.max() <= limits.max:
        return np.zeros(len(values), bool)
    marks: np.ndarray = (((values < limits.min) | (values > limits.max)) & np.isfinite(values)).any(axis=1)
    return marks


def inexact(values: np.ndarray, dtype: str) -> np.ndarray:
    """Mark the rows with an integer that a floating-point dtype would round to another one, or may have rounded.

    Integers on their way to a floating-point dtype are checked, and floats on their way to an integer dtype: a float32
    from 2**24 on may have been another integer. Other floats aren't, as any cast to fewer digits rounds fractions.

    Args:
        values: The numbers, shape (rows, width).
        dtype: The NumPy dtype of the planned cast.

    Returns:
        A boolean mask of shape (rows,).
    """
    wanted = np.dtype(dtype)
    none = np.zeros(len(values), bool)
    if values.size and values.dtype.kind == "f" and wanted.kind in "iu":
        rounded: np.ndarray = (np.isfinite(values) & (np.abs(values) >= exact_up_to(values.dtype))).any(axis=1)
        return rounded
    if not values.size or values.dtype.kind not in "iu" or wanted.kind != "f":
        return none
    held = exact_up_to(wanted)
    if values.min() >= -held and values.max() <= held:
        return none
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(wanted).astype(np.float64)
        # 2**63 as a float64 would overflow in the cast back to int64.
        same = np.isfinite(cast) & (cast < 2.0**63) & (cast.astype(np.int64) == values)
    marks: np.ndarray = (~same).any(axis=1)
    return marks


def fractional(values: np.ndarray, dtype: str) -> np.ndarray:
    """Mark the rows with a number that isn't whole, where an integer dtype is wanted.

    Args:
        values: The numbers, shape (rows, width).
        dtype: The NumPy dtype of the planned cast.

    Returns:
        A boolean mask of shape (rows,).
    """
    if values.dtype.kind != "f" or np.dtype(dtype).kind not in "iu":
        return np.zeros(len(values), bool)
    marks: np.ndarray = (np.isfinite(values) & (values != np.floor(values))).any(axis=1)
    return marks


def exact_up_to(dtype: np.dtype | str) -> int:
    """Return the integer up to which a floating-point dtype holds all integers.

    >>> exact_up_to("float32")
    16777216
    """
    return 1 << (np.finfo(dtype).nmant + 1)


def greatest(values: np.ndarray) -> int:
    """Return the integer of the greatest magnitude."""
    low, high = int(values.min()), int(values.max())
    return low if -low > high else high
