"""Reader of blocks with `petastorm.make_batch_reader`."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spark_dl._compat.petastorm import block_reader
from spark_dl.data.dataset import BLOCK_ID, ConvertedDataset
from spark_dl.data.readers.segments import KeptBlocks, segment_arrays
from spark_dl.data.shards import Segment

__all__ = ["read"]

# Two threads hide a file's latency; each may hold three blocks, whatever queue size is configured.
_THREADS = 2


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
    kept = KeptBlocks(segments)
    early: collections.defaultdict[int, list[object]] = collections.defaultdict(list)
    urls = [f"{dataset.store.url}/{name}" for name in kept.files()]
    with block_reader(urls, _THREADS) as next_block:

        def load(block_id: int) -> object:
            while not early[block_id]:
                block = next_block()
                early[int(getattr(block, BLOCK_ID)[0])].append(block)
            return early[block_id].pop()

        for segment in segments:
            block = kept.block(segment, functools.partial(load, segment.block.block_id))
            yield segment_arrays(dataset, functools.partial(_value, block), segment)
            del block  # before the next one is read


def _value(block: object, name: str) -> Any:
    return getattr(block, name)[0]
