"""Byte values of varying length, such as texts and encoded images: as objects or in one buffer, and their storage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

__all__ = ["BYTES", "OVERHEAD", "ByteRows", "Values", "as_array", "concatenated", "joined", "lengths", "memory"]
__all__ += ["row_sizes", "split"]

# The dtype name of arrays of bytes objects.
BYTES = "object"
# The approximate overhead of a Python bytes object, in bytes.
OVERHEAD = 50


class ByteRows:
    """Byte values in one buffer, without a Python object for each: as Arrow has them, and as blocks store them.

    Rows are chosen as those of an array, by a slice, a boolean mask or row numbers.

    Args:
        values: The values, without nulls.
    """

    dtype = np.dtype(BYTES)

    def __init__(self, values: pa.LargeBinaryArray) -> None:
        self.values = values

    @staticmethod
    def of(rows: Values) -> ByteRows:
        """Return rows in this form."""
        return rows if isinstance(rows, ByteRows) else ByteRows(pa.array(rows, pa.large_binary()))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | np.ndarray) -> ByteRows:
        if isinstance(rows, slice):
            return ByteRows(self.values[rows])
        if rows.dtype == bool:
            return ByteRows(self.values.filter(pa.array(rows)))
        return ByteRows(self.values.take(pa.array(rows)))

    def __iter__(self) -> Iterator[memoryview]:
        """Yield each value, as a view of the buffer."""
        content = self.content.data
        ends = self.ends - self.ends[0]
        return (content[start:end] for start, end in itertools.pairwise(ends.tolist()))

    @property
    def ends(self) -> np.ndarray:
        """Where each value ends in Arrow's buffer, after the beginning of the first: int64, shape (rows + 1,)."""
        _, offsets, _ = self.values.buffers()
        if not len(self):
            return np.zeros(1, np.int64)
        return np.frombuffer(offsets, np.int64, len(self) + 1, 8 * self.values.offset)

    @property
    def content(self) -> np.ndarray:
        """All values, one after the other: uint8, shape (bytes,)."""
        ends, (_, _, content) = self.ends, self.values.buffers()
        size = int(ends[-1] - ends[0])
        return np.frombuffer(content, np.uint8, size, int(ends[0])) if size else np.zeros(0, np.uint8)

    def objects(self) -> np.ndarray:
        """Return an array of bytes objects, shape (rows,)."""
        return np.asarray(self.values.to_numpy(zero_copy_only=False))


# The rows of a tensor or column: numbers of shape (rows, ...), or byte values.
Values = np.ndarray | ByteRows


def as_array(rows: Values) -> np.ndarray:
    """Return rows as an array, byte values as objects."""
    return rows.objects() if isinstance(rows, ByteRows) else rows


def concatenated(parts: Sequence[Values]) -> Values:
    """Concatenate parts of the rows of one tensor; one part alone is not copied."""
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, ByteRows) for part in parts):
        return ByteRows(pa.concat_arrays([ByteRows.of(part).values for part in parts]))
    joined_parts: np.ndarray = np.concatenate([as_array(part) for part in parts])
    return joined_parts


def memory(array: np.ndarray) -> int:
    """Return an array's size in memory in bytes, including its bytes objects."""
    return array.nbytes + (int(lengths(array).sum()) + OVERHEAD * len(array) if array.dtype == object else 0)


def row_sizes(rows: Values) -> np.ndarray:
    """Return the size of each row's numbers, or of its byte value, in bytes: int64, shape (rows,)."""
    if isinstance(rows, ByteRows) or rows.dtype == object:
        return lengths(rows)
    return np.full(len(rows), rows.itemsize * math.prod(rows.shape[1:]))


def lengths(rows: Values) -> np.ndarray:
    """Return the length of each byte value: int64, shape (rows,)."""
    return np.diff(rows.ends) if isinstance(rows, ByteRows) else np.fromiter(map(len, rows), np.int64, len(rows))


def joined(rows: Values) -> np.ndarray:
    """Concatenate the byte values: uint8, shape (bytes,)."""
    return rows.content if isinstance(rows, ByteRows) else np.frombuffer(b"".join(rows), np.uint8)


def split(content: memoryview, sizes: np.ndarray) -> np.ndarray:
    """Split a buffer into values: the inverse of `joined`, with the lengths from `lengths`."""
    ends = itertools.accumulate(sizes.tolist(), initial=0)
    array = np.empty(len(sizes), object)
    array[:] = [bytes(content[start:end]) for start, end in itertools.pairwise(ends)]
    return array
