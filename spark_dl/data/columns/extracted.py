"""Values of an Arrow column as a NumPy array, with the rows that can't be used, and steps that several kinds share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_dl.data.limits import all_finite
from spark_dl.data.ragged import ByteRows, Values, as_array

__all__ = [
    "Extracted",
    "byte_rows",
    "filled",
    "from_bytes",
    "from_lists",
    "from_numbers",
    "mask",
    "nulls_of",
    "numbers_of",
]


@dataclass
class Extracted:
    """Values of one column in one batch, and its unusable rows.

    Attributes:
        values: Numbers of shape (rows, width), not usable in the rows that `missing` marks. For bytes, objects of
            shape (rows,), or byte rows.
        missing: Boolean, shape (rows,): rows with a null, a null element, a NaN or a wrong number of elements.
        nulls: The number of rows with a null or a null element.
        nans: The number of rows with a NaN and no null.
        lengths: The number of rows of each wrong length, as {length: count}.
        beyond: Boolean, shape (rows,): rows with a number outside the range of the model's input dtype; None where a
            later step checks this.
        infinite: Boolean, shape (rows,): rows with an infinite number that aren't missing; None where no infinite
            number was found.
        undecodable: By reason a boolean mask, shape (rows,), of the rows whose bytes can't be decoded.
    """

    values: Values
    missing: np.ndarray
    nulls: int = 0
    nans: int = 0
    lengths: dict[int, int] = field(default_factory=dict)
    beyond: np.ndarray | None = None
    infinite: np.ndarray | None = None
    undecodable: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def array(self) -> np.ndarray:
        """The values as an array: bytes as objects."""
        return as_array(self.values)

    @property
    def usable(self) -> np.ndarray:
        """Rows whose values are all present and finite: boolean, shape (rows,)."""
        usable: np.ndarray = ~self.missing if self.infinite is None else ~(self.missing | self.infinite)
        return usable


def from_numbers(
    values: np.ndarray, null: np.ndarray, lengths: dict[int, int] | None = None, wrong: np.ndarray | None = None
) -> Extracted:
    """Create the result for numbers, after marking rows with NaN or infinite numbers.

    Args:
        values: The numbers, shape (rows, width).
        null: Boolean, shape (rows,): rows with a null or a null element.
        lengths: The number of rows of each wrong length.
        wrong: Boolean, shape (rows,): rows of a wrong length; None for none.
    """
    missing = null if wrong is None else null | wrong
    nans, infinite = 0, None
    if values.dtype.kind == "f" and not all_finite(values):
        nan = np.isnan(values).any(axis=1) & ~null
        nans, missing = int(nan.sum()), missing | nan
        infinite = np.isinf(values).any(axis=1) & ~missing
    return Extracted(values, missing, int(null.sum()), nans, lengths or {}, infinite=infinite)


def from_lists(array: pa.Array, width: int, dtype: str) -> Extracted:
    """Convert lists of numbers.

    Args:
        array: The lists.
        width: The required length of each list.
        dtype: The dtype of the result where a list has another length.
    """
    null = nulls_of(array)
    lengths = np.where(null, width, pc.list_value_length(array).fill_null(width).to_numpy(zero_copy_only=False))
    wrong = lengths != width
    if wrong.any():
        found, counts = np.unique(lengths[wrong], return_counts=True)
        extracted = Extracted(np.zeros((len(array), width), dtype), null | wrong, nulls=int(null.sum()))
        extracted.lengths = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return extracted
    flat = array.flatten()  # only the elements of rows that aren't null
    elements = numbers_of(flat).reshape(-1, width)
    if not null.any():
        holes = mask(flat.is_null()).reshape(-1, width).any(axis=1) if flat.null_count else null
        return from_numbers(elements, holes)
    values = np.zeros((len(array), width), elements.dtype)
    values[~null] = elements
    holes = null.copy()
    if flat.null_count:
        holes[~null] = mask(flat.is_null()).reshape(-1, width).any(axis=1)
    return from_numbers(values, holes)


def from_bytes(array: pa.Array) -> Extracted:
    """Convert strings or binary values to bytes objects."""
    null = nulls_of(array)
    values = array.cast(pa.large_binary()).fill_null(b"").to_numpy(zero_copy_only=False)
    return Extracted(values, null, int(null.sum()))


def byte_rows(array: pa.Array) -> Extracted:
    """Take binary values as they are in Arrow, without an object for each."""
    null = nulls_of(array)
    values = array.cast(pa.large_binary())
    return Extracted(ByteRows(values.fill_null(b"") if null.any() else values), null, int(null.sum()))


def filled(extracted: Extracted, fill: float | bytes | None) -> Extracted:
    """Replace missing and infinite values; None replaces none."""
    if fill is None or extracted.usable.all():
        return extracted
    values = extracted.array.copy()
    values[~extracted.usable] = fill
    return Extracted(values, np.zeros_like(extracted.missing))


def numbers_of(array: pa.Array) -> np.ndarray:
    """Convert numbers to NumPy: nulls to 0, booleans to int8."""
    if array.null_count:
        array = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    numbers = array.to_numpy(zero_copy_only=False)
    return np.asarray(numbers.view(np.int8) if numbers.dtype == bool else numbers)


def nulls_of(array: pa.Array) -> np.ndarray:
    """Mark the nulls: boolean, shape (rows,)."""
    return mask(array.is_null()) if array.null_count else np.zeros(len(array), bool)


def mask(array: pa.Array) -> np.ndarray:
    """Convert an Arrow boolean array to NumPy."""
    return np.asarray(array.to_numpy(zero_copy_only=False)).astype(bool)
