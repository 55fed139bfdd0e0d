"""The error of a reconstruction for each row, as a Keras layer."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["ReconstructionError"]


@keras.saving.register_keras_serializable("spark_dl")
class ReconstructionError(keras.layers.Layer):
    """Layer that compares a model's output with its input: a loss for each row, the mean over the row's positions.

    Called with the input and the output, whose rows have as many numbers, it gives float32 of shape (batch,). For a
    loss of class indices, the output has scores for each of the input's numbers.

    Args:
        loss: The config of one of Keras's losses; None for the mean of the squared differences.
        others: Those of any layer, such as name.
    """

    def __init__(self, loss: Any = None, **others: Any) -> None:
        super().__init__(**{"dtype": "float32", **others})
        self.loss = loss
        self._loss = keras.losses.get("mean_squared_error" if loss is None else loss)

    def call(self, inputs: Any, outputs: Any) -> Any:
        """Compute the error of each row.

        Args:
            inputs: Numbers, (batch, ...).
            outputs: Numbers, (batch, ...).
        """
        indices = len(outputs.shape) == len(inputs.shape) + 1 and "sparse" in str(self.loss).lower()
        shape = outputs.shape[1:-1] if indices else outputs.shape[1:]
        wanted = ops.cast(ops.reshape(inputs, (-1, *shape)), "int32" if indices else "float32")
        errors = getattr(self._loss, "call", self._loss)(wanted, ops.cast(outputs, "float32"))
        return ops.mean(ops.reshape(errors, (ops.shape(errors)[0], -1)), axis=-1)

    def compute_output_shape(self, inputs_shape: Any, outputs_shape: Any) -> tuple[Any, ...]:
        """Return the shape (batch,)."""
        return (inputs_shape[0],)

    def get_config(self) -> dict[str, Any]:
        """Return the config, with the loss."""
        return {**super().get_config(), "loss": self.loss}
