"""Gradients over ranks: the distributed optimizer is a Keras optimizer whose `apply` sums gradients first.

N ranks take the step that one process would take with their batches joined: each rank's gradient, a mean over
its own rows, is weighted by how many rows it saw. Clipping, loss scaling and the update itself come after, in
the optimizer as the user made it; it is saved as what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from spark_dl.collectives import Collectives
from spark_dl.train.parts import leaves
from spark_dl.train.speed import StepClock

__all__ = ["GradientReducer", "distribute"]


class GradientReducer:
    """Joins the gradients of ranks, and of several steps, in one buffer for each dtype.

    Args:
        collectives: of this rank's World.
        clock: of this rank's steps.
        accumulate: gradients of so many steps are added up before they are joined and applied.
        steps: steps in an epoch: what was added up is applied after the last, too.
        half: rows in a full batch, where float32 gradients travel as float16; 0 where they travel as they are.

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
        half: int = 0,
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
        self._half = half
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
        sent_as = {
            i: tf.float16 if self._half and gradients[i].dtype == tf.float32 else gradients[i].dtype for i in dense
        }
        dtypes = [tf.float32, *sorted({*sent_as.values()} - {tf.float32}, key=lambda d: d.name)]
        members = {dtype: [i for i in dense if sent_as[i] == dtype] for dtype in dtypes}
        # Rows count as parts of a batch where float16 could not hold their sums.
        weights = {dtype: rows / self._half if dtype == tf.float16 and self._half else rows for dtype in dtypes}
        header = tf.stack([rows, self.wants_stop])
        buffers = []
        for dtype in dtypes:
            # An empty batch's gradient may be NaN; it counts as nothing.
            weighted = [
                tf.math.multiply_no_nan(gradients[i], tf.cast(weights[dtype], gradients[i].dtype))
                for i in members[dtype]
            ]
            flat = [tf.cast(tf.reshape(gradient, [-1]), dtype) for gradient in weighted]
            buffers.append(tf.concat([header, *flat] if dtype == tf.float32 else flat, axis=0))
        since = self._clock.reducing(buffers)
        sums = self._collectives.sum_tensors(buffers, name)
        self._clock.reduced(since, sums)
        total = sums[0][0]
        self.stop_votes.assign(sums[0][1])
        sums[0] = sums[0][2:]
        result = list(gradients)
        for dtype, summed in zip(dtypes, sums, strict=True):
            whole = total / self._half if dtype == tf.float16 and self._half else total
            sizes = [tf.size(gradients[i]) for i in members[dtype]]
            for i, part in zip(members[dtype], tf.split(summed, sizes) if sizes else [], strict=True):
                kind = gradients[i].dtype
                result[i] = tf.reshape(tf.cast(part, kind) / tf.cast(whole, kind), tf.shape(gradients[i]))
        for i, gradient in enumerate(gradients):
            if isinstance(gradient, tf.IndexedSlices):
                result[i] = self._gathered(gradient, rows, total, f"{name}.sparse.{i}")
        return result

    def _gathered(self, gradient: Any, rows: Any, total: Any, name: str) -> Any:
        weight = tf.cast(rows / total, gradient.dtype)
        values = tf.math.multiply_no_nan(gradient.values, weight)
        since = self._clock.reducing([values, gradient.indices])
        all_values = self._collectives.gather_tensor(values, f"{name}.values")
        all_indices = self._collectives.gather_tensor(gradient.indices, f"{name}.indices")
        self._clock.reduced(since, [all_values, all_indices])
        return tf.IndexedSlices(all_values, all_indices, gradient.dense_shape)


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

    def __call__(self, grads: Any, trainable_variables: Any = None) -> None:
        gradients = [None if g is None else tf.convert_to_tensor(g) for g in grads]
        if self._sums is None:
            with tf.init_scope():  # variables can't be made within a graph
                self._sums = [None if g is None else tf.Variable(tf.zeros(g.shape, g.dtype)) for g in gradients]
                self._rows = tf.Variable(0.0)
        rows = self._reducer.rows
        for held, gradient in zip(self._sums, gradients, strict=True):
            if gradient is not None:
                held.assign_add(tf.math.multiply_no_nan(gradient, tf.cast(rows, gradient.dtype)))
        self._rows.assign_add(rows)
        tf.cond(self._reducer.due, lambda: self._update(trainable_variables), lambda: tf.no_op())

    def _update(self, trainable_variables: Any) -> Any:
        held = [s for s in self._sums or [] if s is not None]
        count = tf.identity(self._rows)
        means = [None if s is None else tf.math.divide_no_nan(s, tf.cast(count, s.dtype)) for s in self._sums or []]
        self._apply(self._reducer.reduce(means, self._name, count), trainable_variables)
        for variable in (*held, self._rows):
            variable.assign(tf.zeros_like(variable))
        return tf.no_op()
