"""From blocks to batches: pools of rows, and the tf.data pipeline that cuts them."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import blocks_of, numbered

from spark_dl.data.batches import pools, tensorflow_batches
from spark_dl.data.dataset import ConvertedDataset, Tensor
from spark_dl.data.shards import Shard, canonical_shards, shards
from spark_dl.io.store import Store

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=8)
RANKS = st.integers(1, 4)
BATCH = st.integers(1, 9)
SEED = st.none() | st.integers(0, 3)
POOL = st.sampled_from([1, 100, 400, 1 << 20])


def one_epoch(
    sizes: list[int], size: int, batch: int, seed: int | None, pool_bytes: int, epoch: int = 0
) -> list[tuple[Shard, list[tuple[np.ndarray, int]]]]:
    """Each rank's shard and its pools."""
    dataset, read = numbered(sizes)
    result = []
    for shard in shards(dataset.blocks, size, batch, seed):
        made = pools(dataset, [shard], read, epoch=epoch, seed=seed, pool_bytes=pool_bytes)
        result.append((shard, [(arrays[0], batches) for arrays, batches in made]))
    return result


@given(SIZES, RANKS, BATCH, SEED, POOL)
def test_pools_hold_every_row_exactly_once(
    sizes: list[int], size: int, batch: int, seed: int | None, pool: int
) -> None:
    made = [rows for _, ranks_pools in one_epoch(sizes, size, batch, seed, pool) for rows, _ in ranks_pools]
    assert Counter(np.concatenate(made).tolist()) == Counter(range(sum(sizes)))


@given(SIZES, RANKS, BATCH, SEED, POOL)
def test_pools_are_whole_batches_but_for_the_end(
    sizes: list[int], size: int, batch: int, seed: int | None, pool: int
) -> None:
    for shard, made in one_epoch(sizes, size, batch, seed, pool):
        filled = [(rows, batches) for rows, batches in made if len(rows)]
        assert all(len(rows) == batches * batch for rows, batches in filled[:-1])
        assert all(-(-len(rows) // batch) == batches for rows, batches in filled)
        assert sum(batches for _, batches in made) == shard.steps
        assert [batches for rows, batches in made if not len(rows)] == [shard.empty_steps] * (shard.empty_steps > 0)


@given(SIZES, RANKS, BATCH, POOL)
def test_without_a_seed_pools_keep_the_order(sizes: list[int], size: int, batch: int, pool: int) -> None:
    made = [rows for _, ranks_pools in one_epoch(sizes, size, batch, None, pool) for rows, _ in ranks_pools]
    assert np.concatenate(made).tolist() == list(range(sum(sizes)))


def test_a_pool_is_shuffled_anew_in_each_epoch_and_alike_in_each_run() -> None:
    def order(epoch: int) -> list[int]:
        ((_, made),) = one_epoch([200], 1, 10, 0, 1 << 20, epoch)
        return np.concatenate([rows for rows, _ in made]).tolist()

    assert order(0) == order(0)
    assert len({tuple(order(epoch)) for epoch in range(3)} | {tuple(range(200))}) == 4


def test_the_tensors_of_a_row_stay_together_when_shuffled() -> None:
    dataset, ids = numbered([50, 50])
    tensors = (*dataset.tensors, Tensor("label", (2,), "float32", "float32"))
    dataset = ConvertedDataset(dataset.store, tensors, dataset.blocks, 0)

    def read(dataset: ConvertedDataset, segments: Any) -> Any:
        for (rows,) in ids(dataset, segments):
            yield [rows, np.stack([rows, -rows], axis=1).astype(np.float32)]

    (shard,) = shards(dataset.blocks, 1, 7, 1)
    for (rows, labels), _ in pools(dataset, [shard], read, epoch=0, seed=1, pool_bytes=200):
        assert labels.tolist() == [[row, -row] for row in rows.tolist()]


def test_a_large_shard_is_read_a_pool_at_a_time() -> None:
    dataset, ids = numbered([10] * 100)
    read: list[int] = []

    def counting(dataset: ConvertedDataset, segments: Any) -> Any:
        for (rows,) in ids(dataset, segments):
            read.append(len(rows))
            yield [rows]

    (shard,) = shards(dataset.blocks, 1, 5, None)
    next(pools(dataset, [shard], counting, epoch=0, seed=0, pool_bytes=240))
    assert sum(read) == 30  # 240 bytes of 8-byte rows


def test_a_pool_keeps_no_memory_of_another_and_lies_where_tensorflow_takes_it_as_it_is() -> None:
    dataset, read = numbered([10] * 6)
    (shard,) = shards(dataset.blocks, 1, 7, 1)
    made = [rows for (rows,), _ in pools(dataset, [shard], read, epoch=0, seed=1, pool_bytes=200)]
    assert len(made) > 1
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(made, 2))
    assert all(rows.ctypes.data % 64 == 0 for rows in made)


@settings(max_examples=6)
@given(SIZES, RANKS, BATCH, SEED)
def test_tensorflow_gets_every_row_once_in_as_many_batches_as_steps(
    sizes: list[int], size: int, batch: int, seed: int | None
) -> None:
    dataset, read = numbered(sizes)
    rows: list[int] = []
    for shard in shards(dataset.blocks, size, batch, seed):
        made = tensorflow_batches(dataset, [shard], read, seed=seed, one_pass=True)
        lengths = [len(ids) for ids in made.as_numpy_iterator()]
        assert len(lengths) == shard.steps == made.cardinality().numpy()
        assert lengths == sorted(lengths, reverse=True)  # full, then short, then empty
        assert lengths[:-2] == [batch] * len(lengths[:-2])
        rows += [row for ids in made.as_numpy_iterator() for row in ids.tolist()]
    assert Counter(rows) == Counter(range(sum(sizes)))


def test_training_batches_go_on_epoch_after_epoch() -> None:
    dataset, read = numbered([5, 6])
    (shard,) = shards(dataset.blocks, 1, 4, 0)
    made = tensorflow_batches(dataset, [shard], read, seed=0, first_epoch=2)
    assert shard.steps == 3
    stream = made.as_numpy_iterator()
    epochs = [[next(stream).tolist() for _ in range(shard.steps)] for _ in range(3)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[4, 4, 3]] * 3
    assert [sorted(itertools.chain(*epoch)) for epoch in epochs] == [list(range(11))] * 3
    for number, epoch in enumerate(epochs, start=2):
        expected = [a[0] for a, _ in pools(dataset, [shard], read, epoch=number, seed=0)]
        assert list(itertools.chain(*epoch)) == np.concatenate(expected).tolist()


def test_batches_have_the_models_dtypes_and_shapes_even_when_empty() -> None:
    tensors = (
        Tensor("features", (2, 3), "int8", "float32"),
        Tensor("label", (), "int32", "int32"),
        Tensor("weight", (), "float32", "float32"),
    )
    dataset = ConvertedDataset(Store("memory://"), tensors, tuple(blocks_of([3])), 0)

    def read(dataset: ConvertedDataset, segments: Any) -> Any:
        for segment in segments:
            count = segment.rows
            yield [np.ones((count, 2, 3), np.int8), np.arange(count, dtype=np.int32), np.ones(count, np.float32)]

    shard = Shard(shards(dataset.blocks, 1, 2, None)[0].segments, rows=3, steps=4, batch_size=2)
    made = tensorflow_batches(dataset, [shard], read, seed=None, one_pass=True)
    assert [str(spec.dtype.name) for spec in made.element_spec] == ["float32", "int32", "float32"]
    assert [tuple(spec.shape) for spec in made.element_spec] == [(None, 2, 3), (None,), (None,)]
    shapes = [tuple(part.shape for part in batch) for batch in made.as_numpy_iterator()]
    assert shapes == [((n, 2, 3), (n,), (n,)) for n in (2, 1, 0, 0)]


@pytest.mark.parametrize("one_pass", [True, False])
def test_a_fault_of_the_reader_reaches_the_trainer(one_pass: bool) -> None:
    dataset, _ = numbered([4])
    (shard,) = shards(dataset.blocks, 1, 2, None)

    def read(dataset: ConvertedDataset, segments: Any) -> Any:
        raise OSError("the disk is gone")
        yield

    made = tensorflow_batches(dataset, [shard], read, seed=None, one_pass=one_pass)
    with pytest.raises(Exception, match="the disk is gone"):
        next(iter(made))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.integers(1, 24),
    st.none() | st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from([8, 100, 4000]),
)
def test_batches_of_all_ranks_have_the_same_rows_however_many_ranks_there_are(
    sizes: list[int], batch: int, seed: int | None, epoch: int, pool: int
) -> None:
    dataset, read = numbered(sizes)

    def batches(size: int) -> list[list[int]]:
        """The rows of each step, over all ranks, in rank order."""
        steps: list[list[int]] = []
        for dealt in canonical_shards(dataset.blocks, size, batch, seed):
            rank_batch = sum(shard.batch_size for shard in dealt)
            step = 0
            for (ids,), count in pools(dataset, dealt, read, epoch=epoch, seed=seed, pool_bytes=pool):
                for index in range(count):
                    steps += [[]] * (step + 1 - len(steps))
                    steps[step] = steps[step] + ids[index * rank_batch : (index + 1) * rank_batch].tolist()
                    step += 1
            assert step == dealt[0].steps
        return steps

    alone = batches(1)
    assert sorted(row for rows in alone for row in rows) == list(range(sum(sizes)))
    assert all(len(rows) == batch for rows in alone[:-2])
    for size in (2, 3, 4):
        if size <= min(batch, 8):
            assert batches(size) == alone
