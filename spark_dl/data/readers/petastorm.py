"""Reader of blocks with `petastorm.make_batch_reader`."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from spark_dl._compat.petastorm import block_reader
from spark_dl.data.dataset import BLOCK_ID, BLOCK_ROWS, ConvertedDataset
from spark_dl.data.ragged import BYTES, split
from spark_dl.data.shards import Segment

__all__ = ["read"]

# Two threads hide a file's latency; each may hold three blocks, whatever queue size is configured.
_THREADS = 2
# Canonical shards split about one block each, and the parts of a block are read at distant times.
_MOST_KEPT = 8


def read(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[list[np.ndarray]]:
    """Read the rows of each segment, in the segments' order.

    Petastorm's threads deliver blocks in any order; block ids restore it. A few blocks with several segments stay in
    memory until their last segment; the others are read again for each segment.

    Args:
        dataset: The converted dataset.
        segments: The segments to read.

    Yields:
        For each segment one array per tensor, of shape (rows, *tensor.shape) and the stored dtype; read-only if it
        holds numbers.

    Raises:
        StoreError: Petastorm delivered fewer blocks than files.
    """
    if not segments:
        return
    left = collections.Counter(segment.block.block_id for segment in segments)
    keep = set(itertools.islice((block_id for block_id, count in left.items() if count > 1), _MOST_KEPT))
    kept: dict[int, object] = {}
    early: collections.defaultdict[int, list[object]] = collections.defaultdict(list)
    urls = [f"{dataset.store.url}/{name}" for name in _files(segments, keep)]
    with block_reader(urls, _THREADS) as next_block:
        for segment in segments:
            block_id = segment.block.block_id
            if block_id not in kept:
                while not early[block_id]:
                    block = next_block()
                    early[int(getattr(block, BLOCK_ID)[0])].append(block)
                kept[block_id] = early[block_id].pop()
            yield _arrays(dataset, kept[block_id], segment)
            left[block_id] -= 1
            if block_id not in keep or not left[block_id]:
                del kept[block_id]


def _files(segments: Sequence[Segment], once: set[int]) -> Iterator[str]:
    """Yield the segments' file names in order, but only once for the block ids in `once`."""
    seen: set[int] = set()
    for segment in segments:
        if segment.block.block_id not in once & seen:
            yield segment.block.name
        seen.add(segment.block.block_id)


def _arrays(dataset: ConvertedDataset, block: object, segment: Segment) -> list[np.ndarray]:
    rows = int(getattr(block, BLOCK_ROWS)[0])
    result = []
    for tensor in dataset.tensors:
        content = getattr(block, tensor.name)[0]
        if tensor.stored == BYTES:
            sizes = np.frombuffer(getattr(block, tensor.lengths_name)[0], np.int64)
            start, stop = (int(sizes[:row].sum()) for row in (segment.start, segment.stop))
            result.append(split(memoryview(content)[start:stop], sizes[segment.start : segment.stop]))
        else:
            array = np.frombuffer(content, tensor.stored).reshape(rows, *tensor.shape)
            result.append(array[segment.start : segment.stop])
    return result
