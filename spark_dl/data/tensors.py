"""The rows of a model input from its columns' values, for conversions, which count invalid rows, and for scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from spark_dl.data.column import Column
from spark_dl.data.columns import Extracted, kind_of
from spark_dl.data.limits import beyond, fractional, inexact
from spark_dl.data.ragged import Values, as_array
from spark_dl.data.specs import FeatureSpec

__all__ = ["RowErrorSink", "feature_rows"]


class RowErrorSink(Protocol):
    """Receiver of invalid rows, which counts them or raises an error; a mask without a marked row is no error."""

    def add_extracted(self, column: Column, extracted: Extracted) -> None:
        """Report rows with missing or infinite values, and rows of a wrong length."""

    def add_out_of_range(self, column: Column, values: np.ndarray, rows: np.ndarray, dtype: str) -> None:
        """Report rows with numbers outside a dtype's range."""

    def add_inexact(self, column: Column, values: np.ndarray, rows: np.ndarray, dtype: str) -> None:
        """Report rows with integers that a dtype rounds."""

    def add_fractions(self, found: Sequence[tuple[Column, np.ndarray, np.ndarray]], dtype: str) -> None:
        """Report numbers that aren't whole: each column of an input, its values and a mask of its rows."""

    def add_undecodable(self, column: Column, rows: np.ndarray, reason: str) -> None:
        """Report rows whose bytes can't be decoded."""


def feature_rows(
    spec: FeatureSpec, extracted: Mapping[Column, Extracted], dtype: str, keep: np.ndarray, errors: RowErrorSink
) -> Values:
    """Join the columns of a model input to one array, and report the rows that the input can't represent.

    Args:
        spec: The input's specification.
        extracted: The values by column.
        dtype: The dtype of the result, for numbers.
        keep: The boolean mask of the rows that are used; the others aren't reported. Rows whose bytes can't be decoded
            are taken out of it.
        errors: The receiver of invalid rows.

    Returns:
        An array of shape (rows, width); for bytes, objects of shape (rows,) that `decode_tensor` takes, or byte rows.
    """
    if spec.coding:
        (column,) = spec.columns
        found = extracted[column]
        if found.beyond is not None:
            errors.add_out_of_range(column, found.array, found.beyond & keep, spec.dtype)
        kind = kind_of(column)
        prepared, undecodable = kind.prepare(found.values, spec.shape, keep)
        undecodable = {**found.undecodable, **undecodable}
        whole = keep & ~np.logical_or.reduce([np.zeros_like(keep), *undecodable.values()])
        undecodable.update(kind.damaged(prepared, whole) if column.validate else {})
        for reason, rows in undecodable.items():
            if (filler := kind.filler(column)) is not None:
                prepared = as_array(prepared)
                prepared[rows & keep] = filler
            else:
                errors.add_undecodable(column, rows & keep, reason)
                np.logical_and(keep, ~rows, out=keep)
        return prepared
    parts = [extracted[column].array for column in spec.columns]
    for column, values in zip(spec.columns, parts, strict=True):
        outside = beyond(values, spec.dtype) & keep
        errors.add_out_of_range(column, values, outside, spec.dtype)
        holder = str(values.dtype) if values.dtype.kind == "f" else spec.dtype
        errors.add_inexact(column, values, inexact(values, spec.dtype) & keep & ~outside, holder)
    pairs = zip(spec.columns, parts, strict=True)
    errors.add_fractions([(c, values, fractional(values, spec.dtype) & keep) for c, values in pairs], spec.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # such rows are dropped or reported
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1, dtype=dtype, casting="unsafe")
        return np.ascontiguousarray(joined, dtype=dtype)
