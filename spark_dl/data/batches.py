"""Blocks to `tf.data` batches, without touching a row.

A pool of blocks is joined, shuffled by one index and handed to TensorFlow as one element of many batches, which
TensorFlow then slices. So Python works once for each pool and not once for each batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.readers import Reader
from spark_dl.data.shards import Shard, epoch_order

__all__ = ["pools", "tensorflow_batches"]

# Rows are shuffled within a pool of this many bytes; the order of the blocks is shuffled over the whole shard.
POOL_BYTES = 64 << 20


def pools(
    dataset: ConvertedDataset,
    shard: Shard,
    read: Reader,
    *,
    rank: int,
    epoch: int,
    seed: int | None,
    pool_bytes: int = POOL_BYTES,
) -> Iterator[tuple[list[np.ndarray], int]]:
    """The rows of a rank's shard in one epoch, in pools.

    Args:
        dataset: what is read.
        shard: which rows.
        read: the reader.
        rank: the rank, part of the seed.
        epoch: the epoch, part of the seed.
        seed: of the shuffle; None keeps the order.
        pool_bytes: size of a pool in memory.

    Returns:
        the arrays of a pool and the number of batches to cut it into. All pools but the last are whole
        batches. Where steps are left for which there are no rows, a last pool has none.
    """
    random = None if seed is None else np.random.default_rng([seed, 2, rank, epoch])
    batch = shard.batch_size
    waiting: list[list[np.ndarray]] = []
    rows = size = 0

    def emit(all_rows: bool) -> tuple[list[np.ndarray], int]:
        nonlocal waiting, rows, size
        whole = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*waiting, strict=True)]
        count = rows if all_rows else rows // batch * batch
        if random is not None:
            order = random.permutation(rows)
            whole = [np.take(array, order, axis=0) for array in whole]
        waiting = [[array[count:] for array in whole]] if count < rows else []
        rows, size = rows - count, 0
        return [array[:count] for array in whole], -(-count // batch)

    for arrays in read(dataset, epoch_order(shard, rank, epoch, seed)):
        waiting.append(arrays)
        rows += len(arrays[0])
        size += sum(array.nbytes for array in arrays)
        if size >= pool_bytes and rows >= batch:
            yield emit(all_rows=False)
    if rows:
        yield emit(all_rows=True)
    if shard.empty_steps:
        yield [np.zeros((0, *tensor.shape), tensor.stored) for tensor in dataset.tensors], shard.empty_steps


def tensorflow_batches(
    dataset: ConvertedDataset,
    shard: Shard,
    read: Reader,
    *,
    rank: int,
    seed: int | None,
    first_epoch: int = 0,
    one_pass: bool = False,
) -> Any:
    """A tf.data.Dataset of (features, label[, weight]) batches.

    Args:
        dataset: what is read.
        shard: which rows; each epoch has `shard.steps` batches, the last of them perhaps short or empty.
        read: the reader.
        rank: the rank.
        seed: of the shuffle; None keeps the order.
        first_epoch: the epoch to begin with.
        one_pass: end after one epoch, for validation, instead of going on for ever.
    """
    import tensorflow as tf

    def generate() -> Iterator[tuple[Any, ...]]:
        for epoch in [first_epoch] if one_pass else itertools.count(first_epoch):
            for arrays, batches in pools(dataset, shard, read, rank=rank, epoch=epoch, seed=seed):
                yield (*arrays, np.int64(batches))

    def cut(*pool: Any) -> Any:
        *arrays, batches = pool

        def batch(index: Any) -> Any:
            start = index * shard.batch_size
            parts = [array[start : start + shard.batch_size] for array in arrays]
            return tuple(tf.cast(part, t.dtype) for part, t in zip(parts, dataset.tensors, strict=True))

        return tf.data.Dataset.range(batches).map(batch)

    signature = tuple(tf.TensorSpec((None, *t.shape), t.stored) for t in dataset.tensors)
    source = tf.data.Dataset.from_generator(generate, output_signature=(*signature, tf.TensorSpec((), tf.int64)))
    # One pool is made while another is being cut.
    batches = source.prefetch(1).flat_map(cut).prefetch(4)
    if one_pass:
        batches = batches.apply(tf.data.experimental.assert_cardinality(shard.steps))
    options = tf.data.Options()
    options.deterministic = True
    # Reading is one generator: more threads would take cores from the model.
    options.threading.private_threadpool_size = 2
    return batches.with_options(options)
