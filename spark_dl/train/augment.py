"""Features that are changed in training only, by Keras layers: inside each train step, not in validation or scoring."""

from __future__ import annotations

from typing import Any

import keras

from spark_dl.train.model.parts import leaves, shift_seeds

__all__ = ["augment_features"]


def augment_features(model: keras.Model, layers: Any, rank: int) -> None:
    """Have the model's train step see what the layers make of the features.

    Args:
        model: its `train_step` is wrapped; user's own steps work alike.
        layers: one Keras layer, or a dict by the inputs' names; inputs without one stay as they are.
        rank: of this process; each rank draws other random numbers.
    """
    for layer in leaves(layers):
        shift_seeds(layer.variables, rank)
    train_step = model.train_step

    def augmented(data: Any) -> Any:
        features, *rest = data
        return train_step((_changed(features, layers), *rest))

    model.train_step = augmented


def _changed(features: Any, layers: Any) -> Any:
    if not isinstance(layers, dict):
        return layers(features, training=True)
    return {name: layers[name](part, training=True) if name in layers else part for name, part in features.items()}
