"""A model with the error of its reconstruction as a further output."""

from __future__ import annotations

from typing import Any

import keras

from spark_dl.layers.reconstruction import ReconstructionError
from spark_dl.train.model.identity import config_of
from spark_dl.train.model.losses import loss_facts, losses_by_output
from spark_dl.train.model.serialization import from_bytes, to_bytes
from spark_dl.train.model.shape import shape_of

__all__ = ["with_error"]

# Losses of Keras that have no value for a row that compares it with the row's input.
_OF_OTHER_LABELS = ("circle", "ctc")


def with_error(content: bytes, shape: tuple[int, ...]) -> bytes:
    """Return a model, as `.keras` bytes, whose last output is the error of each row, float32 (batch,).

    It is the model's loss if that is one of Keras's own, else the mean squared error.

    Args:
        content: The `.keras` bytes of the model, with one input and one output.
        shape: The shape of one row of its input.
    """
    compiled, model = from_bytes(content), from_bytes(content, compiled=False)  # an inner model keeps no custom loss
    ports = shape_of(model)
    (given,), (output,) = ports.inputs, ports.outputs
    loss = None
    if compiled.compiled and getattr(compiled, "loss", None) is not None:
        loss = _own_loss(losses_by_output(compiled.loss, ports).get(output.name))
    features = keras.Input(shape, dtype=given.dtype, name="spark_dl_features")
    made = keras.tree.flatten(model({given.name: features} if ports.takes_dict else features))[0]
    error = ReconstructionError(loss, name="spark_dl_error")(features, made)
    return to_bytes(keras.Model(features, [made, error]))


def _own_loss(loss: Any) -> Any:
    """Return the config of a loss that is one of Keras's own; None for others."""
    if loss is None:
        return None
    facts = loss_facts(loss)
    if not facts.known or not facts.last_axis or facts.name in _OF_OTHER_LABELS:
        return None
    return config_of(keras.losses.get(loss))
