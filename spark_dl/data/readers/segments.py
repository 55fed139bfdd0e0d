"""What readers of blocks share: which blocks to keep, and the rows of a segment."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from spark_dl.data.dataset import BLOCK_ROWS, ConvertedDataset
from spark_dl.data.ragged import BYTES, split
from spark_dl.data.shards import Segment

__all__ = ["KeptBlocks", "segment_arrays"]

# Canonical shards split about one block each, and the parts of a block are read at distant times.
_MOST_KEPT = 8


class KeptBlocks:
    """Blocks in memory: a few of those with several segments until their last segment, others for one segment.

    Args:
        segments: The segments that will be read, in order.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._left = collections.Counter(segment.block.block_id for segment in segments)
        several = (block_id for block_id, count in self._left.items() if count > 1)
        self._keep = set(itertools.islice(several, _MOST_KEPT))
        self._kept: dict[int, Any] = {}

    def files(self) -> Iterator[str]:
        """Yield the names of the files to read, in order; those of other blocks again for each segment."""
        seen: set[int] = set()
        for segment in self._segments:
            if segment.block.block_id not in self._keep & seen:
                yield segment.block.name
            seen.add(segment.block.block_id)

    def block(self, segment: Segment, load: Callable[[], Any]) -> Any:
        """Return the segment's block, which `load` reads unless it is kept. Segments come in their order."""
        block_id = segment.block.block_id
        block = self._kept.pop(block_id) if block_id in self._kept else load()
        self._left[block_id] -= 1
        if block_id in self._keep and self._left[block_id]:
            self._kept[block_id] = block
        return block


def segment_arrays(dataset: ConvertedDataset, value: Callable[[str], Any], segment: Segment) -> list[np.ndarray]:
    """Cut a segment's rows out of its block.

    Args:
        dataset: The converted dataset.
        value: Returns the block's value in a column, by its name: an integer, or bytes as a buffer.
        segment: The segment.

    Returns:
        One array per tensor, of shape (rows, *tensor.shape) and the stored dtype; read-only if it holds numbers.
    """
    rows = int(value(BLOCK_ROWS))
    result = []
    for tensor in dataset.tensors:
        content = value(tensor.name)
        if tensor.stored == BYTES:
            sizes = np.frombuffer(value(tensor.lengths_name), np.int64)
            start, stop = (int(sizes[:row].sum()) for row in (segment.start, segment.stop))
            result.append(split(memoryview(content)[start:stop], sizes[segment.start : segment.stop]))
        else:
            array = np.frombuffer(content, tensor.stored).reshape(rows, *tensor.shape)
            result.append(array[segment.start : segment.stop])
    return result
