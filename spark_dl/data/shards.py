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

__all__ = ["Segment", "Shard", "epoch_order", "shards"]


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
    """What one rank reads in an epoch.

    Attributes:
        segments: its rows.
        rows: how many they are.
        steps: how many batches it takes, the same number on every rank.
        batch_size: rows in a full batch.
    """

    segments: tuple[Segment, ...]
    rows: int
    steps: int
    batch_size: int

    @property
    def empty_steps(self) -> int:
        """How many of its last steps have no rows."""
        return self.steps - -(-self.rows // self.batch_size)


def shards(blocks: Sequence[Block], size: int, batch_size: int, seed: int | None) -> list[Shard]:
    """Deal the rows of the blocks to the ranks, at most one row more to one than to another.

    Each rank gets a contiguous range of the rows, so that a block is read by few ranks. The blocks are put in
    random order before, so that a sorted DataFrame doesn't give each rank another kind of rows.

    Args:
        blocks: what to deal out.
        size: number of ranks.
        batch_size: rows in a full batch of one rank.
        seed: of the order of the blocks; None keeps their order.

    Returns:
        one shard for each rank.
    """
    ordered = list(blocks)
    if seed is not None:
        ordered = [ordered[i] for i in np.random.default_rng([seed, 0]).permutation(len(ordered))]
    total = rows_of(ordered)
    bounds = [total * rank // size for rank in range(size + 1)]
    steps = -(-max((b - a for a, b in itertools.pairwise(bounds)), default=0) // batch_size)
    dealt: list[list[Segment]] = [[] for _ in range(size)]
    rank, offset = 0, 0
    for block in ordered:
        start = 0
        while start < block.rows:
            while offset + start >= bounds[rank + 1]:
                rank += 1
            stop = min(block.rows, bounds[rank + 1] - offset)
            dealt[rank].append(Segment(block, start, stop))
            start = stop
        offset += block.rows
    return [
        Shard(tuple(segments), bounds[rank + 1] - bounds[rank], steps, batch_size)
        for rank, segments in enumerate(dealt)
    ]


def epoch_order(shard: Shard, rank: int, epoch: int, seed: int | None) -> tuple[Segment, ...]:
    """The order in which a rank reads its segments in one epoch; None keeps their order."""
    if seed is None:
        return shard.segments
    order = np.random.default_rng([seed, 1, rank, epoch]).permutation(len(shard.segments))
    return tuple(shard.segments[i] for i in order)
