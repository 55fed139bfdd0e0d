"""Losses of an evaluation over all rows, where Keras divides by valid positions and not by rows.

Keras reports the mean of the batches' losses, weighted by their rows. For a masked loss this depends on the batches,
and tasks make batches of their own; here it becomes the sum over all valid positions divided by their number.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl._compat.keras_losses import loss_and_divisor, loss_trackers, replace_losses

__all__ = ["DividedLosses"]

# Numbers that are kept for each loss: the sums of rows x loss, of rows, of divisor x loss, and of divisors.
_NUMBERS = 4


class DividedLosses:
    """Sums of a model's compiled losses and of their divisors over the batches of an evaluation.

    Args:
        model: The compiled Keras model, with built metrics; its losses are wrapped.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._weights: list[float] = []
        self._sums: list[Any] = []
        replace_losses(model, self._recording)

    @property
    def size(self) -> int:
        """Number of sums."""
        return _NUMBERS * len(self._sums)

    def sums(self) -> np.ndarray:
        """Return the sums over all batches so far, float64 (size,); those of several tasks are added."""
        return np.concatenate([np.zeros(0), *(variable.numpy() for variable in self._sums)])

    def correct(self, sums: np.ndarray) -> None:
        """Set the reported losses to those of all rows.

        Args:
            sums: The sums of all tasks. The model's metrics have the joined states of the tasks.
        """
        tracker, each = loss_trackers(self._model)
        change = 0.0
        for index, (by_rows, rows, by_divisors, divisors) in enumerate(sums.reshape(-1, _NUMBERS).tolist()):
            exact = by_divisors / divisors if divisors else 0.0
            difference = exact - (by_rows / rows if rows else 0.0)
            if abs(difference) > 1e-9 * abs(exact):
                change += self._weights[index] * difference
                if len(each) == len(self._sums):
                    each[index].total.assign(exact * each[index].count)
        if change and tracker is not None:
            tracker.total.assign_add(change * tracker.count)

    def _recording(self, index: int, loss: keras.Loss, weight: Any) -> Any:
        held = tf.Variable(np.zeros(_NUMBERS), dtype=tf.float64, trainable=False)
        self._sums.append(held)
        self._weights.append(1.0 if weight is None else float(weight))

        def record(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            value, divisor = loss_and_divisor(loss, y_true, y_pred, sample_weight)
            rows = tf.cast(tf.shape(tf.nest.flatten(y_pred)[0])[0], tf.float64)
            divisor = rows if divisor is None else tf.cast(divisor, tf.float64)
            exact = tf.cast(value, tf.float64)
            held.assign_add(tf.stack([rows * exact, rows, divisor * exact, divisor]))
            return value

        return record
