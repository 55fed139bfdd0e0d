"""Writing of blocks: Parquet files of one row, with a binary value for each tensor, and a record of each file."""

from __future__ import annotations

import math
import uuid
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_dl.data.dataset import BLOCK_BYTES, BLOCK_ID, BLOCK_ROWS
from spark_dl.data.label_rules import RULES
from spark_dl.data.ragged import BYTES, Values, as_array, concatenated, joined, lengths, row_sizes
from spark_dl.data.specs import ConversionSpec, LabelSpec

__all__ = ["PARTITION_STRIDE", "BlockWriter", "checksum"]

# The range of block ids of a partition; the upper half is for validation blocks.
PARTITION_STRIDE = 1 << 24
# Large odd factors that spread a row's bytes over 64 bits: the golden ratio's and two of SplitMix64 (Steele et al.).
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


class BlockWriter:
    """Writer that collects rows and writes a file whenever a block is full.

    Args:
        conversion: The specification of the conversion.
        partition: The number of the partition, from which the ids of its blocks follow.
        validation: Whether these are validation rows.
    """

    def __init__(self, conversion: ConversionSpec, partition: int, validation: bool) -> None:
        self._conversion = conversion
        self._validation = validation
        self._next_id = partition * PARTITION_STRIDE + (PARTITION_STRIDE // 2 if validation else 0)
        self._waiting: list[list[Values]] = []
        self._sizes: list[np.ndarray] = []  # bytes of each waiting row
        self._bytes = 0

    def add(self, tensors: list[Values]) -> Iterator[dict[str, object]]:
        """Add the tensors of some rows, and yield a record for each file written."""
        self._waiting.append(tensors)
        sizes = np.sum([row_sizes(tensor) for tensor in tensors], axis=0)
        self._sizes.append(sizes)
        self._bytes += int(sizes.sum())
        while self._bytes > BLOCK_BYTES:
            fitting = np.searchsorted(np.cumsum(np.concatenate(self._sizes)), BLOCK_BYTES, side="right")
            yield self._write(max(1, int(fitting)))

    def finish(self) -> Iterator[dict[str, object]]:
        """Write the remaining rows, and yield the record of their file."""
        if rows := sum(map(len, self._sizes)):
            yield self._write(rows)

    def _take(self, rows: int) -> tuple[list[Values], int]:
        """Take the first of the waiting rows: their tensors, and their bytes."""
        parts, size = [], 0
        while rows:
            tensors, sizes = self._waiting.pop(0), self._sizes.pop(0)
            parts.append([tensor[:rows] for tensor in tensors])
            size += int(sizes[:rows].sum())
            if len(sizes) > rows:
                self._waiting.insert(0, [tensor[rows:] for tensor in tensors])
                self._sizes.insert(0, sizes[rows:])
            rows -= min(rows, len(sizes))
        self._bytes -= size
        return [concatenated(of_one) for of_one in zip(*parts, strict=True)], size

    def _write(self, rows: int) -> dict[str, object]:
        written, size = self._take(rows)
        block_id, self._next_id = self._next_id, self._next_id + 1
        name = f"{'validation' if self._validation else 'train'}-{block_id:012d}-{uuid.uuid4().hex[:12]}.parquet"
        columns = {BLOCK_ID: pa.array([block_id]), BLOCK_ROWS: pa.array([rows])}
        for tensor, values in zip(self._conversion.tensors, written, strict=True):
            if tensor.stored == BYTES:
                columns[tensor.lengths_name] = _one_value(lengths(values))
                values = joined(values)
            columns[tensor.name] = _one_value(values)
        filesystem, path = self._conversion.store.open()
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
            "class_rows": self._class_rows(self._conversion.first_label(written)),
            "detail": _exclusive_values(self._conversion.labels, written[len(self._conversion.features) :]),
        }

    def _class_rows(self, labels: Values) -> list[int]:
        specs = self._conversion.labels
        counted = len(specs) == 1 and (not specs[0].shape or self._conversion.counts_positions)
        classes = specs[0].classes if counted else None
        if not classes:
            return []
        indices = np.asarray(labels).astype(np.int64).ravel()
        # Without the index that the loss ignores.
        rows: list[int] = np.bincount(indices[(indices >= 0) & (indices < classes)], minlength=classes).tolist()
        return rows


def _exclusive_values(labels: Sequence[LabelSpec], tensors: Sequence[Values]) -> str:
    """Return which values that exclude each other are in a block, as "label value" in lines."""
    found = []
    for position, (spec, values) in enumerate(zip(labels, tensors, strict=False)):
        exclusive = RULES[spec.loss].exclusive if spec.loss else ()
        found += [f"{position} {value:g}" for value in exclusive if (as_array(values) == value).any()]
    return "\n".join(found)


def checksum(tensors: Sequence[Values]) -> int:
    """Compute a checksum that doesn't depend on the order of rows: the sum of one hash per row."""
    rows = np.zeros(len(tensors[0]), np.uint64)
    for values in tensors:
        rows = rows * _FACTORS[2] + _row_numbers(values)
    rows ^= rows >> np.uint64(29)  # nonlinear, as a linear sum misses values swapped between rows
    rows *= _FACTORS[0]
    rows ^= rows >> np.uint64(32)
    return int(rows.sum(dtype=np.uint64)) % (1 << 63)


def _row_numbers(values: Values) -> np.ndarray:
    """Hash each row's bytes, in words of 8, 4 or 1 bytes; crc32 for byte values: uint64, shape (rows,)."""
    if values.dtype == BYTES:
        return np.fromiter(map(zlib.crc32, values), np.uint64, len(values))
    array = np.asarray(values)
    row_bytes = array.itemsize * math.prod(array.shape[1:])
    if not row_bytes or not len(array):
        return np.zeros(len(array), np.uint64)
    word = next(kind for kind in (np.uint64, np.uint32, np.uint8) if row_bytes % np.dtype(kind).itemsize == 0)
    words: np.ndarray = np.ascontiguousarray(array).reshape(len(array), -1).view(word)
    factors = (np.arange(words.shape[1], dtype=np.uint64) * _FACTORS[1]) | np.uint64(1)
    numbers: np.ndarray = np.einsum("ij,j->i", words, factors, dtype="uint64")
    return numbers


def _one_value(array: Values) -> pa.Array:
    """Create an Arrow array of one binary value that shares the array's memory, if it is contiguous."""
    content = pa.py_buffer(np.ascontiguousarray(array))
    offsets = pa.py_buffer(np.array([0, content.size], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, content])
