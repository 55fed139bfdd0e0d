"""Gradients over ranks: the distributed optimizer is a Keras optimizer whose `apply` sums gradients first.

N ranks take the step that one process would take with their batches joined: each rank's gradient, a mean over
its own rows, is weighted by how many rows it saw. Clipping, loss scaling and the update itself come after, in
the optimizer as the user made it; it is saved as what it is.
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

# Numbers below 2**15 are half of what float16 holds: rounding doesn't lead beyond it.
_HALF_EXPONENT = 15


class GradientReducer:
    """Joins the gradients of ranks, and of several steps, in one buffer for each dtype.

    Args:
        collectives: of this rank's World.
        clock: of this rank's steps.
        accumulate: gradients of so many steps are added up before they are joined and applied.
        steps: steps in an epoch: what was added up is applied after the last, too.
        fp16: whether float32 gradients travel as float16.

    Attributes:
        rows: graph tensor, float32 (): the rows of the step that is being traced.
        due: graph tensor, bool (): whether gradients are applied in this step; None where they always are.
        wants_stop: float32 variable, set to 1 by a rank that wants to stop.
        stop_votes: float32 variable: how many ranks wanted to stop when gradients were joined last.
        voted: the same as a plain value, after each step.
        step_rows: float32 variable: this rank's rows in its last step of training.
        test_rows: float32 variable: those in its last step of validation, where the model has a test step of its own.
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
        self.accumulate = accumulate
        self._collectives = collectives
        self._clock = clock
        self._steps = steps
        self._half = fp16
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)

    def skip(self, steps: int) -> None:
        """So many steps of the epoch have been taken before."""
        self._step.assign(steps)

    def begin(self, rows: Any) -> None:
        """A step begins. In a graph.

        Args:
            rows: int32 (), its rows on this rank.
        """
        self.rows = tf.cast(rows, tf.float32)
        self.step_rows.assign(self.rows)
        if self.accumulate > 1:
            step = self._step.assign_add(1)
            last = tf.equal(step, self._steps)
            self.due = tf.logical_or(last, tf.equal(step % self.accumulate, 0))
            self._step.assign(tf.where(last, tf.zeros_like(step), step))

    def reduce(self, gradients: list[Any], name: str, rows: Any = None) -> list[Any]:
        """The mean of the ranks' gradients, weighted by their rows.

        Args:
            gradients: tensors, IndexedSlices (which stay sparse), or None.
            name: the same on every rank, and another for each optimizer.
            rows: that they are the mean of; the step's where not given.
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
        agreed, sums[0] = sums[0][: 2 + len(halves)], sums[0][2 + len(halves) :]
        total = agreed[0]
        self.stop_votes.assign(agreed[1])
        result = list(gradients)
        for dtype, summed in zip(dtypes, sums, strict=True):
            for i, part in _parts(summed, members[dtype], gradients):
                result[i] = tf.reshape(part / tf.cast(total, dtype), tf.shape(gradients[i]))
        if halves:
            self._reduce_halves(gradients, halves, result, rows / total, agreed[2:] / total, f"{name}.half")
        for i, gradient in enumerate(gradients):
            if isinstance(gradient, tf.IndexedSlices):
                result[i] = self._gathered(gradient, rows, total, f"{name}.sparse.{i}")
        return result

    def _sent_as_half(self, gradient: Any) -> bool:
        return bool(gradient.dtype == tf.float16 or (self._half and gradient.dtype == tf.float32))

    def _reduce_halves(
        self, gradients: list[Any], halves: list[int], result: list[Any], weight: Any, bounds: Any, name: str
    ) -> None:
        """Put the means of those that travel as float16 into the result.

        Args:
            gradients: of this rank.
            halves: the indices of those that travel as float16.
            result: takes the means.
            weight: of this rank's rows among all.
            bounds: what no sum over any of the ranks exceeds, float32 (halves,).
            name: of the collective.
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
    # An empty batch's gradient may be NaN; it counts as nothing.
    return tf.math.multiply_no_nan(gradient, tf.cast(weight, gradient.dtype))


def _greatest(gradient: Any) -> Any:
    """The greatest absolute value, float32 (); 0 where there is none."""
    return tf.maximum(tf.reduce_max(tf.abs(tf.cast(gradient, tf.float32))), 0.0)


def _half_scales(bounds: Any) -> Any:
    """What numbers are multiplied by so that they fill the range of float16, however great or small they are.

    Powers of two, which change no digit. They are made of the bits of their exponents, since all ranks must find the
    same, whatever their machines make of a logarithm.

    Args:
        bounds: of the numbers, float32; what isn't finite has a scale, too.
    """
    exponents = tf.bitwise.right_shift(tf.bitcast(bounds, tf.int32), 23) - 127
    chosen = tf.clip_by_value(_HALF_EXPONENT - 1 - exponents, -120, 120)
    return tf.bitcast(tf.bitwise.left_shift(chosen + 127, 23), tf.float32)


def _parts(summed: Any, members: list[int], gradients: list[Any]) -> Iterator[tuple[int, Any]]:
    """The members' parts of a buffer, with their indices."""
    sizes = [tf.size(gradients[i]) for i in members]
    return zip(members, tf.split(summed, sizes) if sizes else [], strict=True)


def distribute(model: keras.Model, reducer: GradientReducer) -> None:
    """Make every optimizer that the model holds join its gradients, of ranks and steps, before it applies them."""
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
    """An optimizer's `apply` that adds gradients up, weighted by rows, until they are due; then joins and applies them.

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
            with tf.init_scope():  # variables can't be made within a graph
                self._sums = [None if g is None else tf.Variable(tf.zeros(g.shape, _summing(g))) for g in gradients]
                self._rows = tf.Variable(0.0)
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
    """The dtype of sums of such gradients: those of float16 would soon be beyond it."""
    return tf.float32 if gradient.dtype == tf.float16 else gradient.dtype
