"""Blocks through `petastorm.make_batch_reader`: the only file that imports Petastorm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from petastorm import make_batch_reader

from spark_dl.data.dataset import BLOCK_ID, BLOCK_ROWS, ConvertedDataset
from spark_dl.data.shards import Segment

__all__ = ["read"]

# Two threads hide a file's latency; more would only hold more blocks in memory.
_THREADS = 2
_BLOCKS_AHEAD = 2


def read(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[list[np.ndarray]]:
    """The rows of each segment, in the segments' order.

    Petastorm's threads hand blocks over in any order; their numbers put them back.

    Returns:
        for each segment an array for each tensor, of shape (rows, *tensor.shape) and the stored dtype,
        read-only.
    """
    if not segments:
        return
    urls = [f"{dataset.store.url}/{segment.block.name}" for segment in segments]
    early: dict[int, object] = {}
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
            while segment.block.block_id not in early:
                block = next(reader)
                early[int(getattr(block, BLOCK_ID)[0])] = block
            yield _arrays(dataset, early.pop(segment.block.block_id), segment)
    finally:
        reader.stop()
        reader.join()


def _arrays(dataset: ConvertedDataset, block: object, segment: Segment) -> list[np.ndarray]:
    rows = int(getattr(block, BLOCK_ROWS)[0])
    result = []
    for tensor in dataset.tensors:
        content = getattr(block, tensor.name)[0]
        array = np.frombuffer(content, tensor.stored).reshape(rows, *tensor.shape)
        result.append(array[segment.start : segment.stop])
    return result
