"""Files of blocks: rows of tensors, written with Arrow, and a checksum of what was written."""

from __future__ import annotations

import math
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_dl.data.dataset import BLOCK_BYTES, BLOCK_ID, BLOCK_ROWS, Tensor
from spark_dl.data.ragged import BYTES, joined, lengths, row_sizes
from spark_dl.io.store import Store

__all__ = ["PARTITION_STRIDE", "BlockWriter", "checksum"]

# The range of block ids of a partition; the upper half is for validation blocks.
PARTITION_STRIDE = 1 << 24

# Large odd factors that spread a row's bytes over 64 bits: the golden ratio's and two of SplitMix64 (Steele et al.).
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


class BlockWriter:
    """Writer that collects rows and writes a file whenever a block is full.

    Args:
        store: The directory for the blocks.
        tensors: The tensors of a row, in order.
        partition: The number of the partition, which no other writer of the directory has.
        validation: Whether the rows are validation rows.
        describe: Returns further fields of a block's record from its tensors.
    """

    def __init__(
        self,
        store: Store,
        tensors: Sequence[Tensor],
        partition: int,
        validation: bool,
        describe: Callable[[list[np.ndarray]], Mapping[str, object]],
    ) -> None:
        self._store, self._tensors = store, tensors
        self._validation = validation
        self._describe = describe
        self._next_id = partition * PARTITION_STRIDE + (PARTITION_STRIDE // 2 if validation else 0)
        self._waiting: list[list[np.ndarray]] = []
        self._sizes: list[np.ndarray] = []  # bytes of each waiting row
        self._bytes = 0

    def add(self, arrays: list[np.ndarray]) -> Iterator[dict[str, object]]:
        """Add the tensors of some rows, and yield a record for each file written."""
        self._waiting.append(arrays)
        sizes = np.sum([row_sizes(array) for array in arrays], axis=0)
        self._sizes.append(sizes)
        self._bytes += int(sizes.sum())
        while self._bytes > BLOCK_BYTES:
            fitting = np.searchsorted(np.cumsum(np.concatenate(self._sizes)), BLOCK_BYTES, side="right")
            yield self._write(max(1, int(fitting)))

    def finish(self) -> Iterator[dict[str, object]]:
        """Write the remaining rows, and yield the record of their file."""
        if rows := sum(map(len, self._sizes)):
            yield self._write(rows)

    def _write(self, rows: int) -> dict[str, object]:
        whole = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*self._waiting, strict=True)]
        written = [array[:rows] for array in whole]
        sizes = np.concatenate(self._sizes)
        size, left = int(sizes[:rows].sum()), sizes[rows:]
        self._bytes -= size
        self._sizes = [left] if len(left) else []
        self._waiting = [[array[rows:] for array in whole]] if len(left) else []
        block_id, self._next_id = self._next_id, self._next_id + 1
        name = f"{'validation' if self._validation else 'train'}-{block_id:012d}-{uuid.uuid4().hex[:12]}.parquet"
        columns = {BLOCK_ID: pa.array([block_id]), BLOCK_ROWS: pa.array([rows])}
        for tensor, array in zip(self._tensors, written, strict=True):
            if tensor.stored == BYTES:
                columns[tensor.lengths_name] = _one_value(lengths(array))
            columns[tensor.name] = _one_value(joined(array) if tensor.stored == BYTES else array)
        filesystem, path = self._store.open()
        # Statistics or a dictionary would store a second copy of the only value.
        pq.write_table(
            pa.table(columns),
            f"{path}/{name}",
            filesystem=filesystem,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
        return {
            "kind": "block",
            "name": name,
            "block_id": block_id,
            "rows": rows,
            "bytes": size,
            "validation": self._validation,
            "checksum": checksum(written),
            **self._describe(written),
        }


def checksum(arrays: Sequence[np.ndarray]) -> int:
    """Compute a checksum that doesn't depend on the order of rows: the sum of one hash per row."""
    rows = np.zeros(len(arrays[0]), np.uint64)
    for array in arrays:
        rows = rows * _FACTORS[2] + _row_numbers(array)
    rows ^= rows >> np.uint64(29)  # nonlinear, as a linear sum misses values swapped between rows
    rows *= _FACTORS[0]
    rows ^= rows >> np.uint64(32)
    return int(rows.sum(dtype=np.uint64)) % (1 << 63)


def _row_numbers(array: np.ndarray) -> np.ndarray:
    """Hash each row's bytes, in words of 8, 4 or 1 bytes; crc32 for byte values: uint64, shape (rows,)."""
    if array.dtype == BYTES:
        return np.fromiter(map(zlib.crc32, array), np.uint64, len(array))
    row_bytes = array.itemsize * math.prod(array.shape[1:])
    if not row_bytes or not len(array):
        return np.zeros(len(array), np.uint64)
    word = next(kind for kind in (np.uint64, np.uint32, np.uint8) if row_bytes % np.dtype(kind).itemsize == 0)
    words: np.ndarray = np.ascontiguousarray(array).reshape(len(array), -1).view(word)
    factors = (np.arange(words.shape[1], dtype=np.uint64) * _FACTORS[1]) | np.uint64(1)
    numbers: np.ndarray = np.einsum("ij,j->i", words, factors, dtype="uint64")
    return numbers


def _one_value(array: np.ndarray) -> pa.Array:
    """Create an Arrow array of one binary value that shares the array's memory, if it is contiguous."""
    content = pa.py_buffer(np.ascontiguousarray(array))
    offsets = pa.py_buffer(np.array([0, content.size], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, content])
