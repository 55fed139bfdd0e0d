"""Arrays of bytes objects of varying length, such as texts and encoded images, and their storage as one buffer."""

from __future__ import annotations

import itertools
import math

import numpy as np

__all__ = ["BYTES", "OVERHEAD", "joined", "lengths", "memory", "row_sizes", "split"]

# The dtype name of such arrays.
BYTES = "object"
# The approximate overhead of a Python bytes object, in bytes.
OVERHEAD = 50


def memory(array: np.ndarray) -> int:
    """Return an array's size in memory in bytes, including its bytes objects."""
    return array.nbytes + (int(lengths(array).sum()) + OVERHEAD * len(array) if array.dtype == object else 0)


def row_sizes(array: np.ndarray) -> np.ndarray:
    """Return the size of each row's numbers, or of its bytes value, in bytes: int64, shape (rows,)."""
    if array.dtype == object:
        return lengths(array)
    return np.full(len(array), array.itemsize * math.prod(array.shape[1:]))


def lengths(array: np.ndarray) -> np.ndarray:
    """Return the length of each value: int64, shape (rows,)."""
    return np.fromiter(map(len, array), np.int64, len(array))


def joined(array: np.ndarray) -> np.ndarray:
    """Concatenate the values: uint8, shape (bytes,)."""
    return np.frombuffer(b"".join(array), np.uint8)


def split(content: memoryview, sizes: np.ndarray) -> np.ndarray:
    """Split a buffer into values: the inverse of `joined`, with the lengths from `lengths`."""
    ends = itertools.accumulate(sizes.tolist(), initial=0)
    array = np.empty(len(sizes), object)
    array[:] = [bytes(content[start:end]) for start, end in itertools.pairwise(ends)]
    return array
