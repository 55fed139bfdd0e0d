"""Augmentation of features by Keras layers inside each train step, not in validation or scoring."""

from __future__ import annotations

from typing import Any

import keras

from spark_dl._compat.keras import LAYERS_IN_ORDER, MIXING_LAYERS
from spark_dl.train.model.parts import inner_layers, leaves, shift_seeds

__all__ = ["augment_features", "augment_parts", "mixing_layers"]


def augment_features(model: keras.Model, layers: Any, rank: int) -> None:
    """Apply augmentation layers to the features in the model's train step, and to the labels if they blend rows.

    Args:
        model: The model whose `train_step` is wrapped, a custom one included.
        layers: One Keras layer, or a dict of layers by input name; other inputs are unchanged.
        rank: The rank of this process; each rank draws different random numbers.
    """
    for layer in leaves(layers):
        shift_seeds(layer.variables, rank)
    train_step, mixes = model.train_step, bool(mixing_layers(layers))

    def augmented(data: Any) -> Any:
        if not isinstance(data, tuple):  # without labels
            return train_step(_changed(data, layers))
        features, labels, *rest = data
        if mixes:
            return train_step((*_mixed(features, labels, layers), *rest))
        return train_step((_changed(features, layers), labels, *rest))

    model.train_step = augmented


def mixing_layers(layers: Any) -> list[Any]:
    """Return the layers that blend the rows of a batch, which blends their labels, too."""
    return [layer for layer in inner_layers(layers) if isinstance(layer, MIXING_LAYERS)]


def augment_parts(layer: Any) -> list[Any]:
    """Return the layers that a layer applies one after the other: those of a Sequential or a Pipeline."""
    if not isinstance(layer, LAYERS_IN_ORDER):
        return [layer]
    return [one for part in layer.layers for one in augment_parts(part)]


def _mixed(features: Any, labels: Any, layer: Any) -> tuple[Any, Any]:
    """Apply a layer to images and their labels, as Keras's layers for images take both."""
    data = {"images": features, "labels": labels}
    for part in augment_parts(layer):
        data = part(data, training=True)
    return data["images"], data["labels"]


def _changed(features: Any, layers: Any) -> Any:
    if not isinstance(layers, dict):
        return layers(features, training=True)
    return {name: layers[name](part, training=True) if name in layers else part for name, part in features.items()}
