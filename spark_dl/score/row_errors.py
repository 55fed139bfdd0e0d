"""Errors for rows that can't be scored, raised for the first column of a batch that has some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spark_dl.data.column import Column
from spark_dl.data.columns import Extracted, unfit
from spark_dl.data.lengths import lengths_text
from spark_dl.data.limits import EXACT_FIX, WHOLE_FIX, beyond, greatest
from spark_dl.data.specs import FeatureSpec
from spark_dl.errors import DataError, explain

__all__ = ["ScoringRowErrors", "UnscorableRows"]

_SCALE = "Scale the numbers before transform, or leave these rows out."


class ScoringRowErrors:
    """Receiver of invalid rows that raises a `DataError` with the column and the first of them.

    Args:
        features: The specification of each model input.
    """

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        self._dtypes: Mapping[Column, str] = {column: spec.dtype for spec in features for column in spec.columns}

    def add_extracted(self, column: Column, extracted: Extracted) -> None:
        """Check that all values are present and finite, and that all rows have the required length.

        Raises:
            DataError: They aren't.
        """
        missing, infinite = extracted.missing, extracted.infinite
        if extracted.lengths:
            raise _wrong_length(column, extracted)
        if missing.any():
            received = f"{int(missing.sum())} null or NaN in a batch of {len(missing)} rows, the first in row "
            raise unfit(column, "no nulls and no NaN", f"{received}{np.argmax(missing)}")
        if infinite is not None and infinite.any():
            expected = f"finite numbers that the model's input can hold ({self._dtypes[column]})"
            raise unfit(column, expected, _with_number(extracted.array, infinite, "with an infinite number"), _SCALE)

    def add_out_of_range(self, column: Column, values: np.ndarray, rows: np.ndarray, dtype: str) -> None:
        """Check that no row has a number outside the dtype's range.

        Raises:
            DataError: A row has one.
        """
        if rows.any():
            expected = f"finite numbers that the model's input can hold ({dtype})"
            raise unfit(column, expected, _with_number(values, rows, "beyond it", dtype), _SCALE)

    def add_inexact(self, column: Column, values: np.ndarray, rows: np.ndarray, dtype: str) -> None:
        """Check that the dtype rounds no integer.

        Raises:
            DataError: It rounds some.
        """
        if rows.any():
            received = f"{int(rows.sum())} rows that it would round in a batch of {len(rows)} rows, the greatest "
            expected = f"whole numbers that {dtype} can hold exactly"
            raise unfit(column, expected, f"{received}{greatest(values[rows])}", EXACT_FIX)

    def add_fractions(self, found: Sequence[tuple[Column, np.ndarray, np.ndarray]], dtype: str) -> None:
        """Check that numbers for an integer input are whole.

        Raises:
            DataError: Some aren't; the message names all such columns of the input.
        """
        wrong = [(column, values[rows], rows) for column, values, rows in found if rows.any()]
        if wrong:
            texts = [f"{c.name} {v[v != np.floor(v)][0]:g} {_rows(rows)}" for c, v, rows in wrong]
            names = ", ".join(repr(column.name) for column, _, _ in wrong)
            raise DataError(
                explain(
                    f"The column {names} can't be scored."
                    if len(wrong) == 1
                    else f"The columns {names} can't be scored.",
                    expected=f"whole numbers, for the model's input of {dtype}",
                    received="; ".join(texts),
                    fix=WHOLE_FIX,
                )
            )

    def add_undecodable(self, column: Column, rows: np.ndarray, reason: str) -> None:
        """Raise the error for images or texts that can't be decoded.

        Raises:
            DataError: There are some.
        """
        if rows.any():
            received = f"{int(rows.sum())} rows that are none, {_rows(rows)}"
            expected = f"images that can be decoded ({reason})" if column.kind.startswith("image") else reason
            raise unfit(column, expected, received)


class UnscorableRows(ScoringRowErrors):
    """Receiver that marks rows with missing values or undecodable bytes; raises a `DataError` for other invalid rows.

    Args:
        features: The specification of each model input.
        rows: The number of rows.

    Attributes:
        marked: Boolean, shape (rows,): the rows that can't be scored.
    """

    def __init__(self, features: Sequence[FeatureSpec], rows: int) -> None:
        super().__init__(features)
        self.marked = np.zeros(rows, bool)

    def add_extracted(self, column: Column, extracted: Extracted) -> None:
        """Mark rows with missing or infinite values.

        Raises:
            DataError: Rows have a wrong length.
        """
        if extracted.lengths:
            super().add_extracted(column, extracted)
        self.marked |= ~extracted.usable

    def add_undecodable(self, column: Column, rows: np.ndarray, reason: str) -> None:
        """Mark images and texts that can't be decoded.

        Raises:
            DataError: Arrays have numbers that the input can't hold.
        """
        if column.kind == "ragged array":
            super().add_undecodable(column, rows, reason)
        self.marked |= rows


def _wrong_length(column: Column, extracted: Extracted) -> DataError:
    """Build the error for rows of wrong lengths."""
    lengths, what = extracted.lengths, "strings" if column.kind == "text array" else "numbers"
    if column.pad is not None:
        limit = f"at most {column.width // column.unit} " if column.width else ""
        expected = f"{limit}{'arrays' if column.inner else what} per row"
        fix = "Set truncate='end' or 'start' (setTruncate), which cuts longer rows, or clean the column before."
    else:
        expected = f"{column.width} {what} per row"
        fix = "Give each row as many as the model was trained with, for example by the same stages of a Pipeline."
    received = f"a row of {next(iter(lengths))}" if len(lengths) == 1 else f"rows {lengths_text(column, lengths)},"
    if column.inner:
        # Length 0 also stands for inner arrays of wrong lengths.
        expected += f", in arrays of {' x '.join(map(str, column.inner))}"
        received = "arrays of another length" if 0 in lengths else received
    return unfit(column, expected, f"{received} {_rows(extracted.missing)}", fix)


def _with_number(values: np.ndarray, rows: np.ndarray, what: str, dtype: str = "") -> str:
    """Describe the marked rows, with the first wrong number where rows are numbers.

    Args:
        values: The values of the batch.
        rows: The mask of the invalid rows.
        what: The words about them.
        dtype: The dtype that can't hold a number; "" where the wrong numbers are infinite.
    """
    count, first = int(rows.sum()), int(np.argmax(rows))
    described = f"{count} rows {what} in a batch of {len(rows)}, the first is row {first}"
    if values.dtype == object:
        return described
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = values[first]
        wrong = beyond(numbers.reshape(-1, 1), dtype) if dtype else ~np.isfinite(numbers)
    return f"{numbers[wrong][0]}; {described}"


def _rows(wrong: np.ndarray) -> str:
    """Describe the marked rows of a batch."""
    count = int(wrong.sum())
    return f"in {count} row{'s' * (count != 1)} of a batch of {len(wrong)}, the first is row {int(np.argmax(wrong))}"
