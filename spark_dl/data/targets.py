"""The rows of a label and of sample weights from their column's values, with the invalid rows counted."""

from __future__ import annotations

import numpy as np

from spark_dl.data.column import Column
from spark_dl.data.label_rules import RULES
from spark_dl.data.limits import beyond, inexact
from spark_dl.data.row_errors import RowErrors
from spark_dl.data.specs import LabelSpec

__all__ = ["label_rows", "weight_rows"]


def label_rows(values: np.ndarray, spec: LabelSpec, errors: RowErrors, keep: np.ndarray) -> np.ndarray:
    """Convert a label's values to its dtype, and count the rows that its loss can't take.

    Args:
        values: The column's values, shape (rows, width).
        spec: The label's specification.
        errors: The receiver of invalid rows.
        keep: The boolean mask of the rows that are used; the others aren't counted.

    Returns:
        An array of shape (rows,) for a label of one number, else (rows, width).
    """
    name = spec.name
    if spec.classes is not None:
        kept = values[keep]
        broken = kept != np.floor(kept)
        outside = ~broken & ((kept < 0) | (kept >= spec.classes)) & (kept != spec.ignored)
        for kind, wrong in (("fraction", broken), ("class", outside)):
            if wrong.any():
                errors.add(kind, name, int(wrong.any(axis=1).sum()), f"{kept[wrong][0]:g}")
        if broken.any() or outside.any():
            return np.zeros(values.shape if spec.shape else len(values), spec.dtype)
    if not spec.joined:  # joined columns are a model input's, which are checked as such
        _check_range(values, spec.dtype, spec.column, errors, keep)
        errors.add_inexact(spec.column, values, inexact(values, spec.dtype) & keep, spec.dtype)
    if spec.loss:
        kept = values[keep]
        _, refused = RULES[spec.loss].breaches(kept, spec.shape[-1] if spec.shape else 1)
        errors.add_labels(name, spec.loss, refused)
    return _cast(values[:, 0] if spec.shape == () else values, spec.dtype)


def weight_rows(
    values: np.ndarray, column: Column, shape: tuple[int, ...], errors: RowErrors, keep: np.ndarray
) -> np.ndarray:
    """Convert sample weights to float32, and count the rows with negative ones.

    Args:
        values: The column's values, shape (rows, width).
        column: The column.
        shape: The shape of one row's weights.
        errors: The receiver of invalid rows.
        keep: The boolean mask of the rows that are used.
    """
    errors.add("negative", column.name, int((values[keep] < 0).any(axis=1).sum()))
    _check_range(values, "float32", column, errors, keep)
    return _cast(values if shape else values[:, 0], "float32")


def _cast(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # such rows are dropped or counted as errors
        return values.astype(dtype)


def _check_range(values: np.ndarray, dtype: str, column: Column, errors: RowErrors, keep: np.ndarray) -> None:
    """Count the rows with numbers outside a dtype's range."""
    errors.add_out_of_range(column, values, beyond(values, dtype) & keep, dtype)
