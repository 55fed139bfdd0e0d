"""Augmentation of features by Keras layers inside each train step, not in validation or scoring."""

from __future__ import annotations

from typing import Any

import keras

from spark_dl.train.model.parts import leaves, shift_seeds

__all__ = ["augment_features"]


def augment_features(model: keras.Model, layers: Any, rank: int) -> None:
    """Apply augmentation layers to the features in the model's train step.

    Args:
        model: The model whose `train_step` is wrapped, a custom one included.
        layers: One Keras layer, or a dict of layers by input name; other inputs are unchanged.
        rank: The rank of this process; each rank draws different random numbers.
    """
    for layer in leaves(layers):
        shift_seeds(layer.variables, rank)
    train_step = model.train_step

    def augmented(data: Any) -> Any:
        if not isinstance(data, tuple):  # without labels
            return train_step(_changed(data, layers))
        features, *rest = data
        return train_step((_changed(features, layers), *rest))

    model.train_step = augmented


def _changed(features: Any, layers: Any) -> Any:
    if not isinstance(layers, dict):
        return layers(features, training=True)
    return {name: layers[name](part, training=True) if name in layers else part for name, part in features.items()}
