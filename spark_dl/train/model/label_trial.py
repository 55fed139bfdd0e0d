"""What labels a loss takes, by tracing it as a training step does, before any rows are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from spark_dl.train.model.batch_dependence import broadcasts_labels, is_own, quiet
from spark_dl.train.model.examples import Example

__all__ = ["refusal", "refusal_in_model", "takes_one_hot_rows"]

_OF_ROWS = (keras.losses.CategoricalCrossentropy, keras.losses.CategoricalFocalCrossentropy)


def takes_one_hot_rows(loss: Any, output: tuple[int, ...]) -> bool:
    """Return whether a custom loss takes one-hot rows of classes, and not their indices.

    Args:
        loss: The loss, a function or an object.
        output: The shape of one row of the model's output, with the classes along the last axis.
    """
    if output[-1:] in ((), (1,)) or not is_own(loss):
        return False
    indices, rows = Example("", output[:-1], "int32", output), Example("", output, "float32", output)
    # A subclass of a loss of rows may make them of indices itself.
    if not refusal(loss, indices) and not broadcasts_labels(loss, indices):
        return False
    return isinstance(loss, _OF_ROWS) or not refusal(loss, rows)


def refusal(loss: Any, example: Example) -> str:
    """Return the error of a loss that doesn't take labels of a shape; "" if it takes them.

    Args:
        loss: The loss.
        example: The shapes and dtypes of labels and outputs.
    """
    model = keras.Sequential([keras.Input(example.output_shape), keras.layers.Identity()])
    model.compile(loss=loss)
    outputs = keras.KerasTensor((None, *example.output_shape), "float32")
    return _error(lambda labels, given: model.compute_loss(None, labels, given), [_labels(example), outputs])


def refusal_in_model(
    model: keras.Model,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    labels: Mapping[str, Example],
    weight: tuple[int, ...] | None = None,
) -> str:
    """Return the error of a model's losses that don't take the labels with the model's own outputs; "" for none.

    Args:
        model: The built and compiled model.
        inputs: The shape of one row and the dtype of each input, by its name.
        labels: The shapes and dtypes of the labels, by the output's name.
        weight: The shape of one row's weights; None for no weights.
    """
    features = {name: keras.KerasTensor((None, *shape), dtype) for name, (shape, dtype) in inputs.items()}
    x = features if len(features) > 1 else features.popitem()[1]
    targets = {name: _labels(example) for name, example in labels.items()}
    y = targets if len(targets) > 1 else targets.popitem()[1]
    weights = [] if weight is None else [keras.KerasTensor((None, *weight), "float32")]
    return _error(lambda x, y, *w: model.compute_loss(x, y, model(x, training=True), *w), [x, y, *weights])


def _labels(example: Example) -> Any:
    return keras.KerasTensor((None, *example.label_shape), example.label_dtype)


def _error(function: Any, given: list[Any]) -> str:
    import tensorflow as tf

    specs = keras.tree.map_structure(lambda one: tf.TensorSpec(one.shape, one.dtype), given)
    with quiet():
        try:
            tf.function(function, autograph=False).get_concrete_function(*specs)
        except Exception as error:
            return f"{type(error).__name__}: {error}".strip()
    return ""
