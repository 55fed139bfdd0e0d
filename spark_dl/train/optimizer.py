"""Reduction of gradients over ranks: the optimizer's `apply` is wrapped so that it averages gradients first.

N ranks take the step that one process would take on their global batches: each rank's gradient, a mean over its own
rows, is weighted by its number of rows. Clipping, loss scaling and the update come afterwards, in the user's optimizer,
which is saved unwrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from spark_dl.collectives import Collectives
from spark_dl.train.model.parts import leaves
from spark_dl.train.speed import StepClock

__all__ = ["GradientReducer", "distribute"]

# 2**15 is half of float16's maximum, so rounding can't overflow.
_HALF_EXPONENT = 15


class GradientReducer:
    """Weighted mean of gradients over ranks, and over several steps, with one buffer per dtype.

    Args:
        collectives: The collectives of this rank's World.
        clock: The clock of this rank's steps.
        accumulate: The number of steps whose gradients are added up before they are reduced and applied.
        steps: The number of steps in an epoch; accumulated gradients are also applied after the last one.
        fp16: Whether float32 gradients are sent as float16.

    Attributes:
        rows: Graph tensor, float32 (): the weight of the step that is being traced, its rows in general.
        due: Graph tensor, bool (): whether gradients are applied in this step; None if they are in every step.
        wants_stop: float32 variable that a rank sets to 1 to vote for stopping.
        stop_votes: float32 variable: the number of stop votes at the last reduction.
        voted: The value of `stop_votes` after each step.
        step_rows: float32 variable: this rank's rows in its last training step.
        sums: The variables that add up gradients over several steps; they are 0 after each epoch.
        validating: bool variable: whether a validation of all ranks runs.
        test_rows: float32 variable: this rank's rows in its last validation step, if the model has a custom test step
            or this rank has empty batches.
    """

    def __init__(
        self,
        collectives: Collectives,
        clock: StepClock,
        *,
        accumulate: int = 1,
        steps: int = 0,
        fp16: bool = False,
    ) -> None:
        self.rows: Any = None
        self.due: Any = None
        self.wants_stop = tf.Variable(0.0, trainable=False)
        self.stop_votes = tf.Variable(0.0, trainable=False)
        self.voted: Any = self.stop_votes
        self.step_rows = tf.Variable(0.0, trainable=False)
        self.test_rows = tf.Variable(0.0, trainable=False)
        self.validating = tf.Variable(False, trainable=False)
        self.accumulate = accumulate
        self._collectives = collectives
        self._clock = clock
        self._steps = steps
        self._half = fp16
        self.sums: list[tf.Variable] = []
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)

    def skip(self, steps: int) -> None:
        """Start counting after this many steps of the epoch, taken before training was resumed."""
        self._step.assign(steps)

    def restart(self) -> None:
        """Count from the first step of an epoch, without votes: another training begins with the same graphs."""
        for variable in (self.wants_stop, self.stop_votes, self._step):
            variable.assign(tf.zeros_like(variable))
        self.validating.assign(False)
        self.voted = self.stop_votes

    @property
    def variables(self) -> list[Any]:
        """The variables that this reducer has made, for the numbers and the sums of steps."""
        return [*(value for value in vars(self).values() if isinstance(value, tf.Variable)), *self.sums]

    def begin(self, rows: Any) -> None:
        """Record the rows of the step that begins; called in a graph.

        Args:
            rows: The number of rows of the step on this rank, int32 ().
        """
        self.rows = tf.cast(rows, tf.float32)
        self.step_rows.assign(self.rows)
        if self.accumulate > 1:
            step = self._step.assign_add(1)
            last = tf.equal(step, self._steps)
            self.due = tf.logical_or(last, tf.equal(step % self.accumulate, 0))
            self._step.assign(tf.where(last, tf.zeros_like(step), step))

    def reduce(self, gradients: list[Any], name: str, rows: Any = None) -> list[Any]:
        """Return the mean of the ranks' gradients, weighted by their rows.

        Args:
            gradients: The gradients of this rank: tensors, IndexedSlices (which stay sparse), or None.
            name: The name of the collective, the same on every rank and unique per optimizer.
            rows: The number of rows that the gradients are the mean of; default: those of the current step.
        """
        if rows is None:
            rows = tf.ones(()) if self.rows is None else self.rows
        dense = [i for i, g in enumerate(gradients) if isinstance(g, tf.Tensor)]
        halves = [i for i in dense if self._sent_as_half(gradients[i])]
        others = [i for i in dense if i not in halves]
        dtypes = [tf.float32, *sorted({gradients[i].dtype for i in others} - {tf.float32}, key=lambda d: d.name)]
        members = {dtype: [i for i in others if gradients[i].dtype == dtype] for dtype in dtypes}
        greatest = [tf.math.multiply_no_nan(_greatest(gradients[i]), rows) for i in halves]
        header = tf.stack([rows, self.wants_stop, *greatest])
        buffers = []
        for dtype in dtypes:
            flat = [tf.reshape(_weighted(gradients[i], rows), [-1]) for i in members[dtype]]
            buffers.append(tf.concat([header, *flat] if dtype == tf.float32 else flat, axis=0))
        sums = self._summed(buffers, name)
        summed_header, sums[0] = tf.split(sums[0], [2 + len(halves), -1])
        total, votes, *bounds = tf.unstack(summed_header)
        self.stop_votes.assign(votes)
        result = list(gradients)
        for dtype, summed in zip(dtypes, sums, strict=True):
            for i, part in _parts(summed, members[dtype], gradients):
                result[i] = tf.reshape(part / tf.cast(total, dtype), tf.shape(gradients[i]))
        if halves:
            self._reduce_halves(gradients, halves, result, rows / total, tf.stack(bounds) / total, f"{name}.half")
        for i, gradient in enumerate(gradients):
            if isinstance(gradient, tf.IndexedSlices):
                result[i] = self._gathered(gradient, rows, total, f"{name}.sparse.{i}")
        return result

    def sum_exactly(self, numbers: Any, name: str) -> Any:
        """Return the sum over ranks of integers, int64 (n,), and count the stop votes of the step."""
        (sums,) = self._summed([tf.concat([tf.cast(self.wants_stop, tf.int64)[tf.newaxis], numbers], axis=0)], name)
        self.stop_votes.assign(tf.cast(sums[0], tf.float32))
        return sums[1:]

    def _sent_as_half(self, gradient: Any) -> bool:
        return bool(gradient.dtype == tf.float16 or (self._half and gradient.dtype == tf.float32))

    def _reduce_halves(
        self, gradients: list[Any], halves: list[int], result: list[Any], weight: Any, bounds: Any, name: str
    ) -> None:
        """Reduce the gradients that are sent as float16 and store their means in the result.

        Args:
            gradients: The gradients of this rank.
            halves: The indices of the gradients that are sent as float16.
            result: The list that takes the means.
            weight: The share of this rank's rows in all rows.
            bounds: Upper bounds of the absolute value of any sum over ranks, float32 (halves,).
            name: The name of the collective.
        """
        scales = dict(zip(halves, tf.unstack(_half_scales(bounds), num=len(halves)), strict=True))
        flat = []
        for i, scale in scales.items():
            weighted = _weighted(tf.cast(gradients[i], tf.float32), weight)
            flat.append(tf.cast(tf.reshape(weighted * scale, [-1]), tf.float16))
        (summed,) = self._summed([tf.concat(flat, axis=0)], name)
        for i, part in _parts(summed, halves, gradients):
            mean = tf.cast(tf.cast(part, tf.float32) / scales[i], gradients[i].dtype)
            result[i] = tf.reshape(mean, tf.shape(gradients[i]))

    def _summed(self, buffers: list[Any], name: str) -> list[Any]:
        since = self._clock.reducing(buffers)
        sums = list(self._collectives.sum_tensors(buffers, name))
        self._clock.reduced(since, sums)
        return sums

    def _gathered(self, gradient: Any, rows: Any, total: Any, name: str) -> Any:
        weight = tf.cast(rows / total, gradient.dtype)
        values = tf.math.multiply_no_nan(gradient.values, weight)
        since = self._clock.reducing([values, gradient.indices])
        all_values = self._collectives.gather_tensor(values, f"{name}.values")
        all_indices = self._collectives.gather_tensor(gradient.indices, f"{name}.indices")
        self._clock.reduced(since, [all_values, all_indices])
        return tf.IndexedSlices(all_values, all_indices, gradient.dense_shape)


def _weighted(gradient: Any, weight: Any) -> Any:
    # An empty batch's gradient may be NaN; its weight is 0.
    return tf.math.multiply_no_nan(gradient, tf.cast(weight, gradient.dtype))


def _greatest(gradient: Any) -> Any:
    """Return the largest absolute value, float32 (); 0 for an empty gradient."""
    return tf.maximum(tf.reduce_max(tf.abs(tf.cast(gradient, tf.float32))), 0.0)


def _half_scales(bounds: Any) -> Any:
    """Return the factors that scale numbers to the range of float16.

    The factors are powers of two, so multiplying loses no digits. They are computed from the bits of the exponents
    because all ranks must get the same factors, and a logarithm may differ between machines.

    Args:
        bounds: The upper bounds of the numbers, float32; bounds that aren't finite get a finite factor, too.
    """
    exponents = tf.bitwise.right_shift(tf.bitcast(bounds, tf.int32), 23) - 127
    chosen = tf.clip_by_value(_HALF_EXPONENT - 1 - exponents, -120, 120)
    return tf.bitcast(tf.bitwise.left_shift(chosen + 127, 23), tf.float32)


def _parts(summed: Any, members: list[int], gradients: list[Any]) -> Iterator[tuple[int, Any]]:
    """Split a buffer into its members' parts; yield each with the member's index."""
    sizes = [tf.size(gradients[i]) for i in members]
    return zip(members, tf.split(summed, sizes) if sizes else [], strict=True)


def distribute(model: keras.Model, reducer: GradientReducer) -> None:
    """Make every optimizer of the model reduce its gradients over ranks and steps before it applies them."""
    held = leaves([model.optimizer, *vars(model).values()])
    optimizers = {id(o): o for o in held if isinstance(o, keras.optimizers.Optimizer)}
    for index, optimizer in enumerate(optimizers.values()):
        name = f"spark_dl.gradients.{index}"
        accumulated = _Accumulated(optimizer.apply, reducer, name) if reducer.accumulate > 1 else None
        optimizer.apply = accumulated or _reducing(optimizer.apply, reducer, name)


def _reducing(apply: Callable[..., Any], reducer: GradientReducer, name: str) -> Callable[..., Any]:
    def reduced_apply(grads: Any, trainable_variables: Any = None) -> Any:
        return apply(reducer.reduce(list(grads), name), trainable_variables)

    return reduced_apply


class _Accumulated:
    """Replacement of an optimizer's `apply` that adds gradients up, weighted by rows, then reduces and applies them.

    Sparse gradients become dense.
    """

    def __init__(self, apply: Callable[..., Any], reducer: GradientReducer, name: str) -> None:
        self._apply = apply
        self._reducer = reducer
        self._name = name
        self._sums: list[Any] | None = None
        self._rows: Any = None
        self._dtypes: list[Any] = []

    def __call__(self, grads: Any, trainable_variables: Any = None) -> None:
        gradients = [None if g is None else tf.convert_to_tensor(g) for g in grads]
        self._dtypes = [None if g is None else g.dtype for g in gradients]
        if self._sums is None:
            with tf.init_scope():  # variables can't be created in a graph
                # A gradient's own shape may be partly unknown in a graph.
                shapes: list[Any] = [g if g is None else g.shape for g in trainable_variables or gradients]
                self._sums = [
                    None if g is None else tf.Variable(tf.zeros(tuple(shape), _summing(g)))
                    for g, shape in zip(gradients, shapes, strict=True)
                ]
                self._rows = tf.Variable(0.0)
            self._reducer.sums += [self._rows, *(s for s in self._sums if s is not None)]
        rows = self._reducer.rows
        for held, gradient in zip(self._sums, gradients, strict=True):
            if gradient is not None:
                held.assign_add(_weighted(tf.cast(gradient, held.dtype), rows))
        self._rows.assign_add(rows)
        tf.cond(self._reducer.due, lambda: self._update(trainable_variables), lambda: tf.no_op())

    def _update(self, trainable_variables: Any) -> Any:
        held = [s for s in self._sums or [] if s is not None]
        count = tf.identity(self._rows)
        means = [
            None if s is None else tf.cast(tf.math.divide_no_nan(s, tf.cast(count, s.dtype)), dtype)
            for s, dtype in zip(self._sums or [], self._dtypes, strict=True)
        ]
        self._apply(self._reducer.reduce(means, self._name, count), trainable_variables)
        for variable in (*held, self._rows):
            variable.assign(tf.zeros_like(variable))
        return tf.no_op()


def _summing(gradient: Any) -> Any:
    """Return the dtype for sums of a gradient; float16 sums would soon overflow."""
    return tf.float32 if gradient.dtype == tf.float16 else gradient.dtype
