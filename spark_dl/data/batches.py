"""Conversion of blocks to `tf.data` batches, without a Python loop over rows.

A pool of blocks is concatenated, shuffled with one permutation and passed to TensorFlow as one element that holds many
batches, which TensorFlow slices. Python code runs once for each pool, not once for each batch.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spark_dl.data.columns import decode_tensor
from spark_dl.data.dataset import BLOCK_BYTES, FEATURES, LABEL, ONE_HOT, WEIGHT, ConvertedDataset, Tensor
from spark_dl.data.ragged import BYTES, memory
from spark_dl.data.readers import Reader
from spark_dl.data.shards import Shard, epoch_order

__all__ = ["keras_batch", "pools", "tensorflow_batches"]

# Rows are shuffled within a pool of at least this many bytes: eight blocks, as blocks are rarely full. The order of
# the blocks is shuffled over the whole shard.
POOL_BYTES = 7 * BLOCK_BYTES + 1
# Batches that are prefetched, if they are no larger than a pool.
_READY = 4
# Alignment in bytes that TensorFlow requires to use a NumPy array without a copy.
_ALIGNMENT = 64


# One array for each tensor with the rows of several batches, and the number of batches.
Pool = tuple[list[np.ndarray], int]


class _Stream:
    """Rows of one shard in one epoch, collected into pools that are shuffled independently."""

    def __init__(self, shard: Shard, epoch: int, seed: int | None, pool_bytes: int) -> None:
        self.shard = shard
        self.order = epoch_order(shard, epoch, seed)
        self._random = None if seed is None else np.random.default_rng([seed, 2, shard.key, epoch])
        self._pool_bytes = pool_bytes
        self._waiting: list[list[np.ndarray]] = []
        self._rows = self._size = 0

    def add(self, arrays: list[np.ndarray]) -> list[Pool]:
        """Add a segment's rows, and return a pool of whole batches once enough rows wait."""
        self._waiting.append(arrays)
        self._rows += len(arrays[0])
        self._size += sum(map(memory, arrays))
        full = self._size >= self._pool_bytes and self._rows >= self.shard.batch_size
        return [self._take(self._rows // self.shard.batch_size * self.shard.batch_size)] if full else []

    def rest(self) -> list[Pool]:
        """Return the remaining rows as the last pool, whose last batch may be short."""
        return [self._take(self._rows)] if self._rows else []

    def _take(self, count: int) -> Pool:
        place = None if self._random is None else self._random.permutation(self._rows)
        whole = [_joined(parts, place) for parts in zip(*self._waiting, strict=True)]
        # Copied, as a view would keep the whole pool in memory.
        self._waiting = [[array[count:].copy() for array in whole]] if count < self._rows else []
        self._rows, self._size = self._rows - count, 0
        return [array[:count] for array in whole], -(-count // self.shard.batch_size)


def _joined(parts: Sequence[np.ndarray], place: np.ndarray | None) -> np.ndarray:
    """Concatenate arrays along the first axis, copying every row once at most.

    Args:
        parts: The arrays.
        place: The target row of each row of the concatenation; None preserves the order.
    """
    if place is None and len(parts) == 1:
        return parts[0]
    rows = sum(map(len, parts))
    whole = _aligned_empty((rows, *parts[0].shape[1:]), parts[0].dtype)
    targets, done = _as_rows(whole), 0
    for part in parts:
        there = slice(done, done + len(part))
        targets[there if place is None else place[there]] = _as_rows(np.ascontiguousarray(part))
        done += len(part)
    return whole


def _as_rows(array: np.ndarray) -> np.ndarray:
    """View an array as shape (rows,) of void, as NumPy moves such rows faster than rows of numbers."""
    if array.dtype == BYTES:
        return array
    size = math.prod(array.shape[1:]) * array.itemsize
    return array.reshape(-1).view(np.dtype((np.void, size)))


def _aligned_empty(shape: Sequence[int], dtype: np.dtype | str) -> np.ndarray:
    """Allocate an array at an alignment that TensorFlow uses without a copy; object arrays it always copies."""
    if dtype == BYTES:
        return np.empty(shape, dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    place = np.empty(size + _ALIGNMENT, np.uint8)
    start = -place.ctypes.data % _ALIGNMENT
    return place[start : start + size].view(dtype).reshape(shape)


def pools(
    dataset: ConvertedDataset,
    shards: Sequence[Shard],
    read: Reader,
    *,
    epoch: int,
    seed: int | None,
    pool_bytes: int = POOL_BYTES,
) -> Iterator[Pool]:
    """Read the rows of a rank's shards in one epoch, as pools.

    Args:
        dataset: The converted dataset.
        shards: The rank's shards; with several, each batch has rows from every shard.
        read: The reader of blocks.
        epoch: The epoch's number, which is part of the shuffle's seed.
        seed: The seed of the shuffle; None preserves the order.
        pool_bytes: The size of a shard's pool in memory.

    Yields:
        The arrays of a pool and the number of batches in it. All pools but the last consist of whole batches. If a
        rank's rows end before its steps do, the last pools have no rows.
    """
    streams = [_Stream(shard, epoch, seed, pool_bytes) for shard in shards]
    if len(streams) == 1:
        (stream,) = streams
        for arrays in read(dataset, stream.order):
            yield from stream.add(arrays)
        yield from stream.rest()
        if stream.shard.empty_steps:
            yield _nothing(dataset), stream.shard.empty_steps
    else:
        yield from _woven(dataset, streams, read)


def _woven(dataset: ConvertedDataset, streams: list[_Stream], read: Reader) -> Iterator[Pool]:
    """Build batches that have rows from every stream."""
    # Segments are read in the order in which batches need them, so that all streams end together.
    progress = [
        (before / stream.shard.rows, index, segment)
        for index, stream in enumerate(streams)
        for before, segment in zip(
            itertools.accumulate((s.rows for s in stream.order), initial=0), stream.order, strict=False
        )
    ]
    progress.sort(key=lambda item: item[:2])
    loom = _Interleaver(dataset, [stream.shard.batch_size for stream in streams])
    for (_, index, _), arrays in zip(progress, read(dataset, [segment for *_, segment in progress]), strict=True):
        for made, batches in streams[index].add(arrays):
            loom.add(index, made, batches)
            yield from loom.woven()
    for index, stream in enumerate(streams):
        for made, _ in stream.rest():
            loom.add(index, made, len(made[0]) // stream.shard.batch_size)
    yield from loom.woven()
    yield from loom.rest(streams[0].shard.steps)


class _Interleaver:
    """Builder of batches from several streams, as their rows arrive.

    Args:
        dataset: The converted dataset, which has the tensors' shapes.
        quotas: The number of rows in a batch from each stream.
    """

    def __init__(self, dataset: ConvertedDataset, quotas: Sequence[int]) -> None:
        self._dataset = dataset
        self._quotas = quotas
        self._bounds = list(itertools.accumulate(quotas, initial=0))
        self._waiting: list[collections.deque[list[np.ndarray]]] = [collections.deque() for _ in quotas]
        self._batches = [0] * len(quotas)
        self._done = 0

    def add(self, index: int, arrays: list[np.ndarray], batches: int) -> None:
        """Add rows of a stream, with the number of whole batches that they fill."""
        self._waiting[index].append(arrays)
        self._batches[index] += batches

    def woven(self) -> Iterator[Pool]:
        """Yield a pool of the batches for which all streams have rows."""
        count = min(self._batches)
        if count:
            shapes = [(count, self._bounds[-1], *tensor.shape) for tensor in self._dataset.tensors]
            whole = [_aligned_empty(s, t.stored) for s, t in zip(shapes, self._dataset.tensors, strict=True)]
            for index in range(len(self._quotas)):
                self._fill(whole, index, count)
            self._done += count
            yield [array.reshape(-1, *array.shape[2:]) for array in whole], count

    def _fill(self, whole: list[np.ndarray], index: int, count: int) -> None:
        quota, columns = self._quotas[index], slice(self._bounds[index], self._bounds[index + 1])
        self._batches[index] -= count
        done = 0
        while done < count:
            arrays = self._waiting[index].popleft()
            batches = min(len(arrays[0]) // quota, count - done)
            for array, target in zip(arrays, whole, strict=True):
                target[done : done + batches, columns] = array[: batches * quota].reshape(
                    batches, quota, *array.shape[1:]
                )
            done += batches
            if len(arrays[0]) > batches * quota:
                self._waiting[index].appendleft([array[batches * quota :] for array in arrays])

    def rest(self, steps: int) -> Iterator[Pool]:
        """Yield the remaining batches, one by one, up to `steps` in all; a stream may lack rows for them."""
        for step in range(steps - self._done):
            parts = []
            for quota, waiting in zip(self._quotas, self._waiting, strict=True):
                left = [np.concatenate(same) for same in zip(*waiting, strict=True)] or _nothing(self._dataset)
                parts.append([array[step * quota : (step + 1) * quota] for array in left])
            yield [np.concatenate(same) for same in zip(*parts, strict=True)], 1


def _nothing(dataset: ConvertedDataset) -> list[np.ndarray]:
    return [np.zeros((0, *tensor.shape), tensor.stored) for tensor in dataset.tensors]


def _skip_batches(made: Iterator[Pool], steps: int, batch_size: int) -> Iterator[Pool]:
    """Drop the first `steps` batches of the pools."""
    for arrays, batches in made:
        skipped = min(steps, batches)
        steps -= skipped
        if batches > skipped:
            yield [array[skipped * batch_size :] for array in arrays], batches - skipped


def _ready(tensors: Sequence[Tensor], batch_size: int) -> int:
    """Return the number of batches to prefetch: fewer for images and sparse Vectors, which decoding enlarges."""
    decoded = sum(4 * abs(math.prod(tensor.fed)) for tensor in tensors if tensor.coding)  # OPEN is -1
    return max(1, min(_READY, POOL_BYTES // max(1, decoded * batch_size)))


def keras_batch(tensors: Sequence[Tensor], parts: Sequence[Any]) -> Any:
    """Build a Keras batch: x, y and, if the dataset has weights, sample_weight.

    Args:
        tensors: The tensors of features and labels, and the optional weight.
        parts: The stored rows of each tensor.

    Returns:
        A tuple of tensors, decoded and cast for the model; dicts by name where the model has several inputs or
        outputs. Without labels, x alone and not in a tuple, as Keras passes it to a train step.
    """
    roles: dict[str, Any] = {}
    for tensor, part in zip(tensors, parts, strict=True):
        fed = _fed(tensor, part)
        if tensor.key:
            roles.setdefault(tensor.role, {})[tensor.key] = fed
        else:
            roles[tensor.role] = fed
        if tensor.target:
            roles.setdefault(LABEL, {})[tensor.target] = fed
        elif tensor.target is not None:
            roles[LABEL] = fed
    if LABEL not in roles:
        return roles[FEATURES]
    return tuple(roles[role] for role in (FEATURES, LABEL, WEIGHT) if role in roles)


def _fed(tensor: Tensor, part: Any) -> Any:
    """Convert the stored rows of a tensor to what the model receives."""
    if tensor.coding != ONE_HOT:
        return decode_tensor(part, tensor.coding, tensor.fed, tensor.dtype)
    import tensorflow as tf

    return tf.one_hot(part, tensor.fed[-1], dtype=tensor.dtype)


def _cutter(tensors: Sequence[Tensor], batch_size: int, class_weights: Sequence[float], stamped: bool) -> Any:
    """Build the function that slices a pool into a tf.data.Dataset of batches."""
    import tensorflow as tf

    label = next((index for index, tensor in enumerate(tensors) if tensor.role == LABEL), 0)

    @tf.autograph.experimental.do_not_convert
    def cut(*pool: Any) -> Any:
        *arrays, batches = pool

        @tf.autograph.experimental.do_not_convert
        def batch(index: Any) -> Any:
            start = index * batch_size
            parts = [array[start : start + batch_size] for array in arrays]
            made = keras_batch(tensors, parts)
            if class_weights:
                # A label that the loss ignores may be beyond the classes; its loss is 0 whatever its weight is.
                index = tf.clip_by_value(tf.cast(parts[label], tf.int32), 0, len(class_weights) - 1)
                by_class = tf.gather(tf.constant(class_weights, tf.float32), index)
                made = (*made[:2], *([by_class * weight for weight in made[2:]] or [by_class]))
            if stamped:
                whole = made if isinstance(made, tuple) else (made,)
                with tf.control_dependencies(tf.nest.flatten(made)):
                    made = (*whole, tf.timestamp())
            return made

        return tf.data.Dataset.range(batches).map(batch)

    return cut


def tensorflow_batches(  # noqa: PLR0913
    dataset: ConvertedDataset,
    shards: Sequence[Shard],
    read: Reader,
    *,
    seed: int | None,
    pool_bytes: int = POOL_BYTES,
    first_epoch: int = 0,
    epochs: int | None = None,
    skip_steps: int = 0,
    one_pass: bool = False,
    class_weights: Sequence[float] = (),
    stamped: bool = False,
) -> Any:
    """Create the tf.data.Dataset of (features, label[, weight][, timestamp]) batches of a rank.

    Features and labels are dicts by name where the model has several inputs or outputs.

    Args:
        dataset: The converted dataset.
        shards: The rank's shards; an epoch has `shard.steps` batches, of which the last may be short or empty.
        read: The reader of blocks.
        seed: The seed of the shuffle; None preserves the order.
        pool_bytes: The size of a shard's pool in memory.
        first_epoch: The number of the first epoch.
        epochs: The number after the last epoch, beyond which nothing is read ahead; None to repeat forever.
        skip_steps: The number of batches to skip in the first epoch.
        one_pass: Whether to end after one epoch, for validation.
        class_weights: The weight of each class, which multiplies the sample weights or replaces absent ones.
        stamped: Whether each batch ends with its creation time: a float64 scalar from `tf.timestamp`.
    """
    import tensorflow as tf

    batch_size = sum(shard.batch_size for shard in shards)

    def generate() -> Iterator[tuple[Any, ...]]:
        numbers = itertools.count(first_epoch) if epochs is None else range(first_epoch, epochs)
        for epoch in [0] if one_pass else numbers:
            made = pools(dataset, shards, read, epoch=epoch, seed=seed, pool_bytes=pool_bytes)
            for arrays, batches in _skip_batches(made, skip_steps if epoch == first_epoch else 0, batch_size):
                yield (*arrays, np.int64(batches))

    kinds = {BYTES: "string"}
    signature = tuple(tf.TensorSpec((None, *t.shape), kinds.get(t.stored, t.stored)) for t in dataset.tensors)
    source = tf.data.Dataset.from_generator(generate, output_signature=(*signature, tf.TensorSpec((), tf.int64)))
    # One pool is built while the previous one is sliced.
    batches = (
        source.prefetch(1)
        .flat_map(_cutter(dataset.tensors, batch_size, class_weights, stamped))
        .prefetch(_ready(dataset.tensors, batch_size))
    )
    if one_pass:
        batches = batches.apply(tf.data.experimental.assert_cardinality(shards[0].steps))
    options = tf.data.Options()
    options.deterministic = True
    # No stage has a tunable setting, and the tuner's thread may take five seconds to end.
    options.autotune.enabled = False
    # Reading is a single generator, and more threads would take cores from the model.
    options.threading.private_threadpool_size = 2
    return batches.with_options(options)
