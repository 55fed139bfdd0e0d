"""Who reads which rows: shards and the order of an epoch."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import blocks_of

from spark_dl.data.shards import Segment, Shard, epoch_order, shards

SIZES = st.lists(st.integers(1, 40), max_size=12)
RANKS = st.integers(1, 9)
BATCH = st.integers(1, 17)
SEED = st.none() | st.integers(0, 5)


def rows(segments: tuple[Segment, ...]) -> list[tuple[int, int]]:
    return [(segment.block.block_id, row) for segment in segments for row in range(segment.start, segment.stop)]


@given(SIZES, RANKS, BATCH, SEED)
def test_every_row_is_dealt_exactly_once(sizes: list[int], size: int, batch: int, seed: int | None) -> None:
    dealt = Counter(row for shard in shards(blocks_of(sizes), size, batch, seed) for row in rows(shard.segments))
    assert dealt == Counter((block, row) for block, count in enumerate(sizes) for row in range(count))


@given(SIZES, RANKS, BATCH, SEED)
def test_ranks_get_the_same_number_of_rows_or_one_more(
    sizes: list[int], size: int, batch: int, seed: int | None
) -> None:
    dealt = shards(blocks_of(sizes), size, batch, seed)
    assert len(dealt) == size
    assert [shard.rows for shard in dealt] == [len(rows(shard.segments)) for shard in dealt]
    counts = [shard.rows for shard in dealt]
    assert max(counts) - min(counts) <= 1


@given(SIZES, RANKS, BATCH, SEED)
def test_ranks_take_the_same_steps_just_enough_for_the_longest(
    sizes: list[int], size: int, batch: int, seed: int | None
) -> None:
    dealt = shards(blocks_of(sizes), size, batch, seed)
    assert {shard.steps for shard in dealt} == {math.ceil(max(shard.rows for shard in dealt) / batch)}
    assert all(shard.empty_steps == shard.steps - math.ceil(shard.rows / batch) for shard in dealt)
    assert all(shard.empty_steps in (0, 1) for shard in dealt)


@given(SIZES, RANKS, BATCH, SEED)
def test_the_deal_depends_on_the_seed_alone(sizes: list[int], size: int, batch: int, seed: int | None) -> None:
    assert shards(blocks_of(sizes), size, batch, seed) == shards(blocks_of(sizes), size, batch, seed)


@given(SIZES, RANKS, BATCH)
def test_without_a_seed_the_order_of_the_rows_is_kept(sizes: list[int], size: int, batch: int) -> None:
    dealt = shards(blocks_of(sizes), size, batch, None)
    in_order = [row for shard in dealt for row in rows(epoch_order(shard, 3, None))]
    assert in_order == [(block, row) for block, count in enumerate(sizes) for row in range(count)]


@given(SIZES, RANKS, BATCH, st.integers(0, 5), st.integers(0, 4))
def test_an_epoch_reads_each_segment_once(sizes: list[int], size: int, batch: int, seed: int, epoch: int) -> None:
    for shard in shards(blocks_of(sizes), size, batch, seed):
        order = epoch_order(shard, epoch, seed)
        assert Counter(order) == Counter(shard.segments)
        assert order == epoch_order(shard, epoch, seed)


@given(SIZES, RANKS, BATCH, SEED)
def test_a_shard_is_one_stretch_so_that_few_ranks_read_a_block(
    sizes: list[int], size: int, batch: int, seed: int | None
) -> None:
    dealt = shards(blocks_of(sizes), size, batch, seed)
    assert all(segment.rows > 0 for shard in dealt for segment in shard.segments)
    assert sum(len(shard.segments) for shard in dealt) <= len(sizes) + size - 1


def test_the_seed_the_rank_and_the_epoch_change_the_order() -> None:
    blocks = blocks_of([1] * 60)
    (whole,) = shards(blocks, 1, 4, 0)
    assert whole.segments != shards(blocks, 1, 4, 1)[0].segments
    keys = [replace(whole, key=key) for key in (0, 1)]
    orders = {epoch_order(shard, epoch, seed) for shard in keys for epoch in (0, 1) for seed in (0, 1)}
    assert len(orders) == 8


def test_a_sorted_dataframe_is_mixed_over_the_ranks() -> None:
    blocks = blocks_of([10] * 100)
    halves = [np.mean([b for b, _ in rows(shard.segments)]) for shard in shards(blocks, 2, 8, seed=0)]
    assert halves == pytest.approx([49.5, 49.5], abs=10)


@pytest.mark.parametrize(
    ("count", "size", "batch", "steps", "empty"),
    [
        (8, 2, 4, 1, [0, 0]),
        (9, 2, 4, 2, [1, 0]),
        (10, 2, 4, 2, [0, 0]),
        (2, 3, 4, 1, [1, 0, 0]),
        (0, 2, 4, 0, [0, 0]),
        (1, 1, 100, 1, [0]),
    ],
)
def test_short_ranks_finish_with_empty_steps(count: int, size: int, batch: int, steps: int, empty: list[int]) -> None:
    dealt = shards(blocks_of([count] if count else []), size, batch, None)
    assert [shard.steps for shard in dealt] == [steps] * size
    assert [shard.empty_steps for shard in dealt] == empty


def test_more_ranks_than_rows_leaves_some_ranks_without() -> None:
    dealt = shards(blocks_of([2]), 5, 3, 0)
    assert sorted(shard.rows for shard in dealt) == [0, 0, 0, 1, 1]
    assert [replace(s, key=0) for s in dealt if s.rows == 0] == [Shard((), 0, 1, 3)] * 3
