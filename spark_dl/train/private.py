"""Differentially private training steps (DP-SGD): rows sampled one by one, gradients clipped by row, noise added once.

Source: Abadi et al.: Deep Learning with Differential Privacy, CCS 2016. A step samples each training row with the same
probability, independently of the others (Poisson sampling), so that batches vary in size. The gradient of each row is
clipped to a norm of at most `clip`; Gaussian noise is added to the sum over the rows of all ranks, which is divided by
the expected number of rows. All ranks draw the same noise from the same seed, so that it is added once, and weights
stay equal. The sums are of integers, so that they are bit-identical for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl.data.batches import keras_batch
from spark_dl.data.ragged import BYTES
from spark_dl.data.shards import Segment
from spark_dl.train.feed import Feed
from spark_dl.train.model.parts import seed_states
from spark_dl.train.optimizer import GradientReducer
from spark_dl.train.plan import PrivateSteps

__all__ = ["PoissonFeed", "ReportEpsilon", "private_steps"]

# Rows whose gradients are computed together: the bits of a row's gradient depend on how many there are.
_PART_ROWS = 32
# Units of the norm to which gradients are clipped. Sums of a part's rows are below the limit of int32.
_UNITS = 2.0**25


@dataclass(frozen=True)
class PoissonFeed(Feed):
    """Feed whose training batches are Poisson samples of the rows; a rank holds its rows in memory.

    Attributes:
        chance: The probability with which a step samples a row.
    """

    chance: float = 0.0
    _seed: int = field(default=0, repr=False)

    @staticmethod
    def over(feed: Feed, privacy: PrivateSteps) -> PoissonFeed:
        """Return a feed over the same rows; each of its steps may be empty."""
        others = {name: getattr(feed, name) for name in Feed.__dataclass_fields__}
        made = PoissonFeed(**others, chance=privacy.chance, _seed=privacy.seed)
        return replace(made, steps=privacy.steps, empty_steps=privacy.steps)

    def keep_rows(self) -> bool:
        """Return False: the rows are in memory already."""
        return False

    def training(self, first_epoch: int = 0, epochs: int | None = None, skip_steps: int = 0) -> Any:
        """Return a dataset of training batches, each with its creation time; the last steps of an epoch aren't special.

        Args:
            first_epoch: The epoch to start with, from 0.
            epochs: The number after the last epoch; None repeats forever.
            skip_steps: The number of that epoch's steps to skip.
        """
        tensors = self._plan.dataset.tensors
        kinds = {BYTES: "string"}
        signature = tuple(tf.TensorSpec((None, *t.shape), kinds.get(t.stored, t.stored)) for t in tensors)

        def batch(*arrays: Any) -> Any:
            made = keras_batch(tensors, arrays)
            whole = made if isinstance(made, tuple) else (made,)
            with tf.control_dependencies(tf.nest.flatten(made)):
                return (*whole, tf.timestamp())

        def generate() -> Iterator[tuple[np.ndarray, ...]]:
            last = None if epochs is None else epochs * self.steps
            return self._samples(first_epoch * self.steps + skip_steps, last)

        source = tf.data.Dataset.from_generator(generate, output_signature=signature)
        return source.map(tf.autograph.experimental.do_not_convert(batch)).prefetch(2)

    def _samples(self, first: int, last: int | None) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield this rank's part of the sample of each step."""
        numbers, arrays, total = self._rows()
        step = first
        while last is None or step < last:
            draws = np.random.Generator(np.random.Philox(key=[self._seed, step])).random(total)
            taken = draws[numbers] < self.chance
            yield tuple(array[taken] for array in arrays)
            step += 1

    def _rows(self) -> tuple[np.ndarray, list[np.ndarray], int]:
        """Read this rank's rows; return their numbers among those of all ranks, the rows, and how many all are."""
        blocks = sorted(self._plan.dataset.part(validation=False), key=lambda block: block.block_id)
        starts, total = {}, 0
        for block in blocks:
            starts[block.block_id], total = total, total + block.rows
        segments: list[Segment] = [segment for shard in self._shards for segment in shard.segments]
        parts = list(self._read(self._plan.dataset, segments))
        numbers = [np.arange(s.start, s.stop) + starts[s.block.block_id] for s in segments]
        if not segments:
            return np.empty(0, np.int64), [np.zeros((0, *t.shape), t.stored) for t in self._plan.dataset.tensors], total
        return np.concatenate(numbers), [np.concatenate(same) for same in zip(*parts, strict=True)], total


def private_steps(model: keras.Model, privacy: PrivateSteps, reducer: GradientReducer) -> None:
    """Replace the model's train step by one with clipped and noisy gradients.

    Args:
        model: The compiled model, with Keras's own train step.
        privacy: The settings of the steps.
        reducer: The reducer, which joins the sums of the ranks; the optimizer doesn't reduce them again.
    """
    loss_of_epoch = next(metric for metric in model.metrics if metric.name == "loss")

    def step(data: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = model.trainable_variables
        # A rank without rows takes the step on a synthetic one, which doesn't count.
        sums, losses = _clipped_sums(model, data, reducer.rows, privacy.clip)
        flat = reducer.sum_exactly(tf.concat([tf.reshape(one, [-1]) for one in sums], axis=0), "spark_dl.private")
        parts = tf.split(flat, [tf.size(one) for one in sums])
        number = tf.cast(tf.convert_to_tensor(model.optimizer.iterations), tf.int64)
        noisy = [
            _noisy(_from_units(tf.reshape(part, tuple(v.shape)), privacy.clip), privacy, number, index)
            for index, (part, v) in enumerate(zip(parts, variables, strict=True))
        ]
        outputs = model(x, training=False)  # before the step, as Keras's metrics
        model.optimizer.apply([one / privacy.batch for one in noisy], variables)
        loss_of_epoch.update_state(losses)
        return model.compute_metrics(x, y, outputs, sample_weight=weight)

    model.train_step = step


def _clipped_sums(model: keras.Model, batch: Any, counted: Any, clip: float) -> tuple[list[Any], Any]:
    """Return the sums over rows of the clipped gradients, by variable, and each row's loss.

    Gradients are rounded to whole units of clip * 2**-25, whose sums are exact in any order: the same bits however the
    rows are spread over ranks.

    Args:
        model: The model.
        batch: The rows, at least one: (features, label[, weight]).
        counted: How many rows count, float32 ().
        clip: The norm to which the gradient of each row is clipped; a gradient that isn't finite counts as zero.

    Returns:
        Units, int64, in the shape of each variable; losses, float32 (rows,).
    """
    variables = model.trainable_variables

    def of_row(given: tuple[Any, Any]) -> tuple[list[Any], Any]:
        row, counts = given
        x, y, weight = keras.utils.unpack_x_y_sample_weight(tf.nest.map_structure(lambda part: part[tf.newaxis], row))
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight, training=True)
        found = tape.gradient(loss, [variable.value for variable in variables])
        dense = [
            tf.zeros(tuple(v.shape), tf.float32) if g is None else tf.cast(tf.convert_to_tensor(g), tf.float32)
            for g, v in zip(found, variables, strict=True)
        ]
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(one)) for one in dense]))  # global_norm isn't vectorized
        clipped = tf.minimum(_UNITS / clip, _UNITS / tf.maximum(norm, 1e-12))
        scale = tf.where(counts & tf.math.is_finite(norm), clipped, 0.0)
        # Towards zero, so that no norm grows.
        return [tf.cast(tf.math.multiply_no_nan(one, scale), tf.int32) for one in dense], tf.cast(loss, tf.float32)

    # Random layers and the metrics of several outputs change variables, which is done row by row.
    size = 1 if seed_states(model) or len(model.outputs) > 1 else _PART_ROWS
    rows = tf.shape(tf.nest.flatten(batch)[0])[0]

    def add(part: Any, sums: list[Any], losses: Any) -> tuple[Any, list[Any], Any]:
        places = part * size + tf.range(size)
        chosen = tf.nest.map_structure(lambda whole: tf.gather(whole, tf.minimum(places, rows - 1)), batch)
        given = (chosen, tf.cast(places, tf.float32) < counted)
        if size == 1:
            one = of_row(tf.nest.map_structure(lambda taken: taken[0], given))
            units, loss = tf.nest.map_structure(lambda made: made[tf.newaxis], one)
        else:
            units, loss = tf.vectorized_map(of_row, given)
        added = [total + tf.cast(tf.reduce_sum(one, axis=0), tf.int64) for total, one in zip(sums, units, strict=True)]
        return part + 1, added, losses.write(part, loss)

    parts = -(-rows // size)
    zeros = [tf.zeros(tuple(variable.shape), tf.int64) for variable in variables]
    losses = tf.TensorArray(tf.float32, size=parts, element_shape=(size,))
    _, sums, losses = tf.while_loop(
        lambda part, *_: part < parts, add, (tf.constant(0), zeros, losses), parallel_iterations=1
    )
    return sums, losses.concat()[:rows]


def _from_units(total: Any, clip: float) -> Any:
    """Return a sum of gradients, float32, from its units, int64."""
    return tf.cast(tf.cast(total, tf.float64) * (clip / _UNITS), tf.float32)


def _noisy(total: Any, privacy: PrivateSteps, step: Any, index: int) -> Any:
    """Add the noise of a step to the sum of a variable's gradients; the same on all ranks."""
    seed = tf.stack([tf.constant(privacy.seed, tf.int64), step * 65_537 + index])
    noise = tf.random.stateless_normal(tf.shape(total), seed, dtype=total.dtype)
    return total + noise * tf.cast(privacy.clip * privacy.noise, total.dtype)


class ReportEpsilon(keras.callbacks.Callback):
    """Callback that adds the privacy loss so far to the logs of each epoch.

    Args:
        epsilons: The epsilon after each epoch.
    """

    def __init__(self, epsilons: Sequence[float]) -> None:
        super().__init__()
        self._epsilons = epsilons

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add the epsilon."""
        if logs is not None:
            logs["epsilon"] = self._epsilons[epoch]
