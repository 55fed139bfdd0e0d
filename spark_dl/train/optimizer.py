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
from spark_dl.train.model_bytes import leaves

__all__ = ["GradientReducer", "distribute"]


class GradientReducer:
    """Sums gradients over ranks in one buffer for each dtype.

    The buffer begins with two numbers: the rank's rows, and whether the rank wants to stop.

    Attributes:
        rows: graph tensor, float32 (): the rows of the step that is being traced.
        wants_stop: float32 variable, set to 1 by a rank that wants to stop.
        stop_votes: float32 variable: how many ranks wanted to stop at the last step.
    """

    def __init__(self, collectives: Collectives) -> None:
        self.rows: Any = None
        self.wants_stop = tf.Variable(0.0, trainable=False)
        self.stop_votes = tf.Variable(0.0, trainable=False)
        self._collectives = collectives

    def reduce(self, gradients: list[Any], name: str) -> list[Any]:
        """The mean of the ranks' gradients, weighted by their rows.

        Args:
            gradients: tensors, IndexedSlices (which stay sparse), or None.
            name: the same on every rank, and another for each optimizer.
        """
        rows = tf.ones(()) if self.rows is None else self.rows
        dense = [i for i, g in enumerate(gradients) if isinstance(g, tf.Tensor)]
        dtypes = [tf.float32, *sorted({gradients[i].dtype for i in dense} - {tf.float32}, key=lambda d: d.name)]
        members = {dtype: [i for i in dense if gradients[i].dtype == dtype] for dtype in dtypes}
        header = tf.stack([rows, self.wants_stop])
        buffers = []
        for dtype in dtypes:
            # An empty batch's gradient may be NaN; it counts as nothing.
            weighted = [tf.math.multiply_no_nan(gradients[i], tf.cast(rows, dtype)) for i in members[dtype]]
            flat = [tf.reshape(gradient, [-1]) for gradient in weighted]
            buffers.append(tf.concat([header, *flat] if dtype == tf.float32 else flat, axis=0))
        sums = self._collectives.sum_tensors(buffers, name)
        total = sums[0][0]
        self.stop_votes.assign(sums[0][1])
        sums[0] = sums[0][2:]
        result = list(gradients)
        for dtype, summed in zip(dtypes, sums, strict=True):
            mean = summed / tf.cast(total, dtype)
            sizes = [tf.size(gradients[i]) for i in members[dtype]]
            for i, part in zip(members[dtype], tf.split(mean, sizes) if sizes else [], strict=True):
                result[i] = tf.reshape(part, tf.shape(gradients[i]))
        for i, gradient in enumerate(gradients):
            if isinstance(gradient, tf.IndexedSlices):
                result[i] = self._gathered(gradient, rows, total, f"{name}.sparse.{i}")
        return result

    def _gathered(self, gradient: Any, rows: Any, total: Any, name: str) -> Any:
        weight = tf.cast(rows / total, gradient.dtype)
        values = tf.math.multiply_no_nan(gradient.values, weight)
        return tf.IndexedSlices(
            self._collectives.gather_tensor(values, f"{name}.values"),
            self._collectives.gather_tensor(gradient.indices, f"{name}.indices"),
            gradient.dense_shape,
        )


def distribute(model: keras.Model, reducer: GradientReducer) -> None:
    """Make every optimizer that the model holds sum its gradients over the ranks before it applies them."""
    held = leaves([model.optimizer, *vars(model).values()])
    optimizers = {id(o): o for o in held if isinstance(o, keras.optimizers.Optimizer)}
    for index, optimizer in enumerate(optimizers.values()):
        optimizer.apply = _reducing(optimizer.apply, reducer, f"spark_dl.gradients.{index}")


def _reducing(apply: Callable[..., Any], reducer: GradientReducer, name: str) -> Callable[..., Any]:
    def reduced_apply(grads: Any, trainable_variables: Any = None) -> Any:
        return apply(reducer.reduce(list(grads), name), trainable_variables)

    return reduced_apply
