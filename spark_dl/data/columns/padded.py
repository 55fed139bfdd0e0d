"""Rows of varying length, padded and cut to the length of the model's input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted, from_numbers, mask, nulls_of, numbers_of

__all__ = ["Cut", "cut", "padded_numbers"]


@dataclass(frozen=True)
class Cut:
    """The elements of lists that remain for the model, row by row.

    Attributes:
        null: Boolean, shape (rows,): rows without a list.
        wrong: Boolean, shape (rows,): rows that are too long, or that have inner arrays of wrong lengths.
        lengths: The number of rows of each wrong length; 0 stands for inner arrays of wrong lengths.
        kept: The number of elements that remain of each row, int64, shape (rows,).
        source: The places of these elements among those of all lists that aren't null, int64.
    """

    null: np.ndarray
    wrong: np.ndarray
    lengths: dict[int, int]
    kept: np.ndarray
    source: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Row of each element that remains."""
        return np.repeat(np.arange(len(self.kept)), self.kept)

    @property
    def places(self) -> np.ndarray:
        """Place in its row of each element that remains."""
        places: np.ndarray = np.arange(int(self.kept.sum())) - np.repeat(np.cumsum(self.kept) - self.kept, self.kept)
        return places

    def holes(self, flat: pa.Array) -> np.ndarray:
        """Mark the rows without a list, or with a null among the elements that remain."""
        if not flat.null_count:
            return self.null
        within = np.bincount(self.rows, mask(flat.is_null())[self.source], len(self.kept)) > 0
        return self.null | within


def cut(array: pa.Array, column: Column) -> Cut:
    """Find which elements of the column's lists remain, by the column's width and `truncate`."""
    null = nulls_of(array)
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    longest = column.width or int(lengths.max(initial=0))
    wrong = (lengths == 0) & ~null if column.inner else np.zeros(len(null), bool)
    if column.truncate == "error":
        wrong = wrong | (lengths > longest)
    kept = np.where(wrong, 0, np.minimum(lengths, longest))
    first = np.cumsum(lengths) - lengths
    if column.truncate == "start":
        first = first + lengths - kept
    found, times = np.unique(lengths[wrong] // column.unit, return_counts=True)
    counts = dict(zip(found.tolist(), times.tolist(), strict=True))
    made = Cut(null, wrong, counts, kept, np.empty(0, np.int64))
    return Cut(null, wrong, counts, kept, np.repeat(first, kept) + made.places)


def padded_numbers(array: pa.Array, column: Column) -> Extracted:
    """Convert lists of numbers, with padding after those that are too short.

    Args:
        array: The lists.
        column: The column, with its width, `pad` and `truncate`.
    """
    chosen, flat = cut(array, column), array.flatten()
    numbers = numbers_of(flat)
    values = np.full(
        (len(array), column.width),
        column.pad,
        np.result_type(numbers.dtype, np.min_scalar_type(np.asarray(column.pad))),
    )
    values[chosen.rows, chosen.places] = numbers[chosen.source]
    return from_numbers(values, chosen.holes(flat), chosen.lengths, chosen.wrong)
