"""Comparison of two models by the arguments of their layers, which weights of equal shapes don't show."""

from __future__ import annotations

import json
from typing import Any

import keras

from spark_dl._compat.keras import all_layers

__all__ = ["differing_layers"]


def differing_layers(model: keras.Model, other: keras.Model) -> list[str]:
    """Return the layers of a model that have another class or other arguments than those of another model.

    Names, which Keras numbers, don't count, and neither do layers without a config, nor models within the model.

    Args:
        model: The model.
        other: The other model, saved and loaded as the first one was.

    Returns:
        For each layer its name, and the first argument that differs; the number of layers if that differs.
    """
    ours, theirs = (
        [layer for layer in all_layers(one) if not isinstance(layer, keras.Model)] for one in (model, other)
    )
    if len(ours) != len(theirs):
        return [f"{len(ours)} layers in place of {len(theirs)}"]
    found = []
    for one, two in zip(ours, theirs, strict=True):
        if type(one).__name__ != type(two).__name__:
            found.append(f"{one.name} is a {type(one).__name__} in place of a {type(two).__name__}")
            continue
        mine, others = _arguments(one), _arguments(two)
        for name in mine.keys() & others.keys():
            if mine[name] != others[name]:
                found.append(f"{one.name} has {name}={mine[name]} in place of {others[name]}")
                break
    return found


def _arguments(layer: Any) -> dict[str, str]:
    """Return the arguments of a layer as texts; none if it has no config."""
    try:
        config = layer.get_config()
    except Exception:  # of a custom layer
        return {}
    return {
        name: json.dumps(value, default=str)
        for name, value in config.items()
        if name != "name" and not _is_layer(value)  # the layers of a wrapper are compared themselves
    }


def _is_layer(value: Any) -> bool:
    config = value.get("config") if isinstance(value, dict) else None
    return isinstance(config, dict) and "trainable" in config
