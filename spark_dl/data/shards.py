"""Assignment of rows to ranks, as pure functions of the blocks, the number of ranks and the seed.

Every rank takes the same number of steps, and every row is read exactly once in an epoch. A rank without rows left
takes its last steps with empty batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spark_dl.data.dataset import Block, rows_of

__all__ = ["Segment", "Shard", "canonical_count", "canonical_shards", "epoch_order", "shards"]

# Canonical shards: the minimum, the maximum, and the number of blocks per shard from which the number is doubled.
_LEAST_CANONICAL, _MOST_CANONICAL, _BLOCKS_A_CANONICAL = 8, 64, 8


@dataclass(frozen=True)
class Segment:
    """Half-open range of rows, [start, stop), of one block."""

    block: Block
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Shard:
    """Rows that a rank reads as one stream in an epoch; a rank has one shard or several canonical ones.

    Attributes:
        segments: The shard's rows, as ranges of blocks.
        rows: The number of rows.
        steps: The number of batches in an epoch, the same for every shard.
        batch_size: The number of rows in a full batch.
        key: The shard's number, which is part of the seeds of its shuffles: the rank's or the canonical shard's.
    """

    segments: tuple[Segment, ...]
    rows: int
    steps: int
    batch_size: int
    key: int = 0

    @property
    def empty_steps(self) -> int:
        """Number of steps without rows, which are the last ones of an epoch."""
        return self.steps - -(-self.rows // self.batch_size)


def shards(blocks: Sequence[Block], size: int, batch_size: int, seed: int | None) -> list[Shard]:
    """Assign the rows of the blocks to the ranks; the numbers of rows differ by one at most.

    Args:
        blocks: The blocks.
        size: The number of ranks.
        batch_size: The number of rows in a full batch of one rank.
        seed: The seed of the blocks' shuffle; None preserves their order.

    Returns:
        One shard for each rank.
    """
    return _dealt(blocks, [batch_size] * size, seed)


def canonical_shards(blocks: Sequence[Block], size: int, batch_size: int, seed: int | None) -> list[list[Shard]]:
    """Assign the rows to canonical shards, whose number doesn't depend on the number of ranks, and these to the ranks.

    Each global batch has a fixed number of rows from every canonical shard, so that it has the same rows for any number
    of ranks.

    Args:
        blocks: The blocks.
        size: The number of ranks, at most `canonical_count`.
        batch_size: The number of rows in a full global batch, of all ranks together.
        seed: The seed of the blocks' shuffle; None preserves their order.

    Returns:
        For each rank its consecutive canonical shards.
    """
    count = canonical_count(len(blocks), batch_size)
    bounds = [batch_size * index // count for index in range(count + 1)]
    all_shards = _dealt(blocks, [b - a for a, b in itertools.pairwise(bounds)], seed)
    return [all_shards[count * rank // size : count * (rank + 1) // size] for rank in range(size)]


def canonical_count(blocks: int, batch_size: int) -> int:
    """Return the number of canonical shards: enough for many ranks, few enough to have many blocks each.

    >>> canonical_count(blocks=3, batch_size=32), canonical_count(blocks=1000, batch_size=4096)
    (8, 64)
    """
    count = _LEAST_CANONICAL
    while count < _MOST_CANONICAL and blocks // (2 * count) >= _BLOCKS_A_CANONICAL:
        count *= 2
    return min(count, batch_size)


def _dealt(blocks: Sequence[Block], quotas: Sequence[int], seed: int | None) -> list[Shard]:
    """Create one shard for each quota, its number of rows in a full batch, with rows in proportion to the quota.

    Each shard is a contiguous range of the rows, so that few shards share a block. The blocks are shuffled before, so
    that a sorted DataFrame doesn't give the ranks different kinds of rows.
    """
    ordered = list(blocks)
    if seed is not None:
        ordered = [ordered[i] for i in np.random.default_rng([seed, 0]).permutation(len(ordered))]
    total, parts = rows_of(ordered), sum(quotas)
    bounds = [total * before // parts for before in itertools.accumulate(quotas, initial=0)]
    counts = [b - a for a, b in itertools.pairwise(bounds)]
    steps = max((-(-count // quota) for count, quota in zip(counts, quotas, strict=True)), default=0)
    dealt: list[list[Segment]] = [[] for _ in quotas]
    index, offset = 0, 0
    for block in ordered:
        start = 0
        while start < block.rows:
            while offset + start >= bounds[index + 1]:
                index += 1
            stop = min(block.rows, bounds[index + 1] - offset)
            dealt[index].append(Segment(block, start, stop))
            start = stop
        offset += block.rows
    whole = zip(dealt, counts, quotas, strict=True)
    return [Shard(tuple(segments), rows, steps, quota, key) for key, (segments, rows, quota) in enumerate(whole)]


def epoch_order(shard: Shard, epoch: int, seed: int | None) -> tuple[Segment, ...]:
    """Shuffle a shard's segments for one epoch; the seed None preserves their order."""
    if seed is None:
        return shard.segments
    order = np.random.default_rng([seed, 1, shard.key, epoch]).permutation(len(shard.segments))
    return tuple(shard.segments[i] for i in order)
