"""Losses that aren't means over rows, such as masked ones, scaled so that ranks compute the global batch's.

Keras divides a masked loss by the number of valid positions of its batch. Gradients and reported losses are joined as
means weighted by rows, so each rank multiplies its loss by its share of all valid positions, divided by its share of
all rows. The mean is then the sum over all valid positions divided by their number, as in one process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from spark_dl._compat.keras_losses import loss_and_divisor, replace_losses
from spark_dl.collectives import Collectives
from spark_dl.train.optimizer import GradientReducer

__all__ = ["JoinedLosses"]

# The least weight of a step among those whose gradients are accumulated, if all its positions are masked.
_LEAST = 1e-12


class JoinedLosses:
    """The compiled losses of a model, scaled to those of the ranks' global batch; other losses stay as they are.

    Args:
        model: The compiled Keras model, whose losses are wrapped.
        collectives: The collectives of this rank's World.
        reducer: The reducer of gradients. With accumulated gradients, the weight of a step becomes its number of valid
            positions, which is exact for a single loss.
    """

    def __init__(self, model: keras.Model, collectives: Collectives, reducer: GradientReducer) -> None:
        self._collectives = collectives
        self._reducer = reducer
        self._rows: Any = None
        self._phase = ""
        self._calls = 0
        replace_losses(model, lambda index, loss, weight: _JoinedLoss(self, loss))

    @contextlib.contextmanager
    def step(self, phase: str, rows: Any) -> Iterator[None]:
        """Scale the losses that are computed within this context, which is that of one step's graph.

        Args:
            phase: "training" or "validation".
            rows: The number of rows of the step on this rank, int32 (); may be 0.
        """
        self._phase, self._rows, self._calls = phase, rows, 0
        try:
            yield
        finally:
            self._rows = None

    def scaled(self, loss: keras.Loss, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Compute a batch's loss, scaled if a step is being taken and the loss isn't a mean over rows."""
        value, divisor = loss_and_divisor(loss, y_true, y_pred, sample_weight)
        if divisor is None or self._rows is None:
            return value
        rows = tf.cast(self._rows, tf.float64)
        divisor = tf.stop_gradient(tf.cast(divisor, tf.float64))
        # A rank without rows takes its step on a row of zeros, which counts nothing.
        mine = tf.stack([rows, tf.where(rows > 0, divisor, tf.zeros_like(divisor))])
        name = f"spark_dl.valid.{self._phase}.{self._calls}"
        self._calls += 1
        if self._phase == "training":
            everyones = self._sum(mine, name)
            if self._reducer.accumulate > 1:
                self._weigh_step(everyones)
        else:
            # A callback's own `evaluate` shares the graph, but not all ranks may run it.
            everyones = tf.cond(self._reducer.validating, lambda: self._sum(mine, name), lambda: mine)
        factor = tf.math.divide_no_nan(mine[1] * everyones[0], mine[0] * everyones[1])
        return value * tf.cast(factor, value.dtype)

    def _sum(self, numbers: Any, name: str) -> Any:
        (total,) = self._collectives.sum_tensors([numbers], name)
        return total

    def _weigh_step(self, everyones: Any) -> None:
        each = tf.maximum(tf.math.divide_no_nan(everyones[1], everyones[0]), _LEAST)
        self._reducer.rows = tf.cast(tf.cast(self._rows, tf.float64) * each, tf.float32)


class _JoinedLoss:
    """A compiled loss, as Keras calls it.

    Args:
        joined: All losses of the model.
        loss: The loss.
    """

    def __init__(self, joined: JoinedLosses, loss: keras.Loss) -> None:
        self._joined = joined
        self._loss = loss

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return self._joined.scaled(self._loss, y_true, y_pred, sample_weight)
