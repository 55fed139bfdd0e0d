"""Who reads which rows, and in how many steps: pure functions of the blocks, the World and the seed.

Every rank takes the same number of steps and every row is read exactly once an epoch. A rank that has no rows
left takes its last steps with empty batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spark_dl.data.dataset import Block, rows_of

__all__ = ["Segment", "Shard", "canonical_count", "canonical_shards", "epoch_order", "shards"]

# Canonical shards: at least, at most, and how many blocks each should have at least before there are more of them.
_LEAST_CANONICAL, _MOST_CANONICAL, _BLOCKS_A_CANONICAL = 8, 64, 8


@dataclass(frozen=True)
class Segment:
    """A range of rows, start to stop, within one block."""

    block: Block
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


@dataclass(frozen=True)
class Shard:
    """Rows that are read as one stream in an epoch: by a rank that has this shard alone, or several.

    Attributes:
        segments: its rows.
        rows: how many they are.
        steps: how many batches are made of it, the same number for every shard.
        batch_size: rows in a full batch.
        key: its number, part of the seeds of its order: the rank's, or the canonical shard's.
    """

    segments: tuple[Segment, ...]
    rows: int
    steps: int
    batch_size: int
    key: int = 0

    @property
    def empty_steps(self) -> int:
        """How many of its last steps have no rows."""
        return self.steps - -(-self.rows // self.batch_size)


def shards(blocks: Sequence[Block], size: int, batch_size: int, seed: int | None) -> list[Shard]:
    """Deal the rows of the blocks to the ranks, at most one row more to one than to another.

    Args:
        blocks: what to deal out.
        size: number of ranks.
        batch_size: rows in a full batch of one rank.
        seed: of the order of the blocks; None keeps their order.

    Returns:
        one shard for each rank.
    """
    return _dealt(blocks, [batch_size] * size, seed)


def canonical_shards(blocks: Sequence[Block], size: int, batch_size: int, seed: int | None) -> list[list[Shard]]:
    """Deal the rows to shards whose number doesn't depend on that of the ranks, and the shards to the ranks.

    Each batch of all ranks takes a fixed number of rows from every shard: so it has the same rows, whoever reads them.

    Args:
        blocks: what to deal out.
        size: number of ranks, at most `canonical_count`.
        batch_size: rows in a full batch of all ranks.
        seed: of the order of the blocks; None keeps their order.

    Returns:
        for each rank its shards, neighbours.
    """
    count = canonical_count(len(blocks), batch_size)
    bounds = [batch_size * index // count for index in range(count + 1)]
    all_shards = _dealt(blocks, [b - a for a, b in itertools.pairwise(bounds)], seed)
    return [all_shards[count * rank // size : count * (rank + 1) // size] for rank in range(size)]


def canonical_count(blocks: int, batch_size: int) -> int:
    """The number of canonical shards: enough for many ranks, few enough to be of many blocks each.

    >>> canonical_count(blocks=3, batch_size=32), canonical_count(blocks=1000, batch_size=4096)
    (8, 64)
    """
    count = _LEAST_CANONICAL
    while count < _MOST_CANONICAL and blocks // (2 * count) >= _BLOCKS_A_CANONICAL:
        count *= 2
    return min(count, batch_size)


def _dealt(blocks: Sequence[Block], quotas: Sequence[int], seed: int | None) -> list[Shard]:
    """One shard for each quota, with so many rows in a batch, and rows in proportion to it.

    Each gets a contiguous range of the rows, so that a block is read for few shards. The blocks are put in random
    order before, so that a sorted DataFrame doesn't give each rank another kind of rows.
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
    """The order in which a shard's segments are read in one epoch; None keeps their order."""
    if seed is None:
        return shard.segments
    order = np.random.default_rng([seed, 1, shard.key, epoch]).permutation(len(shard.segments))
    return tuple(shard.segments[i] for i in order)
