"""Reader of blocks with pyarrow alone, for stacks without Petastorm. It gives the same rows, to the bit."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_dl.data.dataset import BLOCK_ROWS, ConvertedDataset
from spark_dl.data.readers.segments import KeptBlocks, segment_arrays
from spark_dl.data.shards import Segment

__all__ = ["read"]

# As many as of Petastorm's threads, and as many blocks ahead as those may hold.
_THREADS, _AHEAD = 2, 6


def read(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[list[np.ndarray]]:
    """Read the rows of each segment, in the segments' order.

    Threads read ahead. A few blocks with several segments stay in memory until their last segment; the others are read
    again for each segment.

    Args:
        dataset: The converted dataset.
        segments: The segments to read.

    Yields:
        For each segment one array per tensor, of shape (rows, *tensor.shape) and the stored dtype; read-only if it
        holds numbers.

    Raises:
        OSError: A block can't be read.
    """
    if not segments:
        return
    kept = KeptBlocks(segments)
    with _ReadAhead(dataset, kept.files()) as ahead:
        for segment in segments:
            block = kept.block(segment, ahead.next)
            yield segment_arrays(dataset, functools.partial(_value, block), segment)
            del block  # before the next one is read


class _ReadAhead:
    """The files' tables, read in the files' order by threads that are some files ahead."""

    def __init__(self, dataset: ConvertedDataset, names: Iterator[str]) -> None:
        self._filesystem, self._directory = dataset.store.open()
        self._names = names
        self._pool = ThreadPoolExecutor(_THREADS, "block-reader")
        self._ahead: collections.deque[Future[pa.Table]] = collections.deque()

    def __enter__(self) -> _ReadAhead:
        self._submit(_AHEAD)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def next(self) -> pa.Table:
        """Return the next file's table."""
        table = self._ahead.popleft().result()
        self._submit(1)
        return table

    def _submit(self, files: int) -> None:
        self._ahead.extend(self._pool.submit(self._load, name) for name in itertools.islice(self._names, files))

    def _load(self, name: str) -> pa.Table:
        with self._filesystem.open_input_file(f"{self._directory}/{name}") as file:
            return pq.ParquetFile(file).read(use_threads=False)


def _value(block: pa.Table, name: str) -> Any:
    value = block.column(name)[0]
    return value.as_py() if name == BLOCK_ROWS else value.as_buffer()
