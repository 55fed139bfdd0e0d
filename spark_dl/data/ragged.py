"""Values of different lengths, such as texts and encoded images: arrays of bytes objects, and how they are stored."""

from __future__ import annotations

import itertools
import math

import numpy as np

__all__ = ["BYTES", "OVERHEAD", "joined", "lengths", "memory", "row_sizes", "split"]

# What stands for the dtype of such an array.
BYTES = "object"
# What Python adds to each value in memory, about.
OVERHEAD = 50


def memory(array: np.ndarray) -> int:
    """Bytes that an array takes in memory, those of its values included."""
    return array.nbytes + (int(lengths(array).sum()) + OVERHEAD * len(array) if array.dtype == object else 0)


def row_sizes(array: np.ndarray) -> np.ndarray:
    """Bytes of each row's numbers, or of its value: int64, shape (rows,)."""
    if array.dtype == object:
        return lengths(array)
    return np.full(len(array), array.itemsize * math.prod(array.shape[1:]))


def lengths(array: np.ndarray) -> np.ndarray:
    """The length of each value: int64, shape (rows,)."""
    return np.fromiter(map(len, array), np.int64, len(array))


def joined(array: np.ndarray) -> np.ndarray:
    """The values one after the other: uint8, shape (bytes,)."""
    return np.frombuffer(b"".join(array), np.uint8)


def split(content: memoryview, sizes: np.ndarray) -> np.ndarray:
    """The values, from what `joined` and `lengths` gave."""
    ends = itertools.accumulate(sizes.tolist(), initial=0)
    array = np.empty(len(sizes), object)
    array[:] = [bytes(content[start:end]) for start, end in itertools.pairwise(ends)]
    return array
