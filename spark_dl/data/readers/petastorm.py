"""Blocks through `petastorm.make_batch_reader`: the only file that imports Petastorm."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from petastorm import make_batch_reader

from spark_dl.data.dataset import BLOCK_ID, BLOCK_ROWS, ConvertedDataset
from spark_dl.data.shards import Segment
from spark_dl.errors import StoreError, explain

__all__ = ["read"]

# Two threads hide a file's latency; more would only hold more blocks in memory.
_THREADS = 2
_BLOCKS_AHEAD = 2


def read(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[list[np.ndarray]]:
    """The rows of each segment, in the segments' order.

    Petastorm's threads hand blocks over in any order; their numbers put them back. A block of which several segments
    are wanted is read for each of them: they may be far apart.

    Returns:
        for each segment an array for each tensor, of shape (rows, *tensor.shape) and the stored dtype,
        read-only.
    """
    if not segments:
        return
    urls = [f"{dataset.store.url}/{segment.block.name}" for segment in segments]
    early: collections.defaultdict[int, list[object]] = collections.defaultdict(list)
    reader = make_batch_reader(
        urls,
        reader_pool_type="thread",
        workers_count=_THREADS,
        results_queue_size=_BLOCKS_AHEAD,
        shuffle_row_groups=False,
        num_epochs=1,
    )
    try:  # the reader's own `with` prints a line at its end
        for segment in segments:
            while not early[segment.block.block_id]:
                block = _next(reader)
                early[int(getattr(block, BLOCK_ID)[0])].append(block)
            yield _arrays(dataset, early[segment.block.block_id].pop(), segment)
    finally:
        reader.stop()
        reader.join()


def _next(reader: Iterator[object]) -> object:
    """The next block; it is there.

    Petastorm's pool asks first whether all that was handed out is done, and then whether all is handed out: when the
    last files are handed out in between, it calls that the end. It can do so only once.

    Raises:
        StoreError: there are fewer blocks than files.
    """
    for _ in range(2):
        with contextlib.suppress(StopIteration):
            return next(reader)
    raise StoreError(explain("Petastorm gave fewer blocks than files.", expected="one for each file"))


def _arrays(dataset: ConvertedDataset, block: object, segment: Segment) -> list[np.ndarray]:
    rows = int(getattr(block, BLOCK_ROWS)[0])
    result = []
    for tensor in dataset.tensors:
        content = getattr(block, tensor.name)[0]
        array = np.frombuffer(content, tensor.stored).reshape(rows, *tensor.shape)
        result.append(array[segment.start : segment.stop])
    return result
