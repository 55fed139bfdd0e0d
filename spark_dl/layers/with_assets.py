"""A layer together with its assets, such as the vocabulary of a tokenizer, in the config of a model."""

from __future__ import annotations

import base64
import os
import tempfile
from typing import Any

import keras

from spark_dl._compat.keras import all_layers
from spark_dl._compat.keras_saving import loading_assets

__all__ = ["WithAssets", "has_own_assets"]


def has_own_assets(layer: Any) -> bool:
    """Return whether a layer that isn't Keras's own, or one within it, saves files of its own (`save_assets`)."""
    own = (one for one in all_layers(layer) if type(one).__module__.partition(".")[0] != "keras")
    return any(hasattr(one, "save_assets") for one in own)


@keras.saving.register_keras_serializable("spark_dl")
class WithAssets(keras.layers.Layer):
    """Layer that calls another one, and keeps the files of that one in its own config.

    Keras loads a layer's files when the model stands, but calls all layers of a graph to build it: the tokenizers of
    keras-hub can't be called without their vocabularies.

    Args:
        layer: The layer.
        others: Those of any layer, such as name.
    """

    def __init__(self, layer: Any, **others: Any) -> None:
        super().__init__(**others)
        self.layer = layer

    def build(self, input_shape: Any) -> None:
        """Build the layer."""
        if not self.layer.built:
            self.layer.build(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return what the layer gives."""
        return self.layer(inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the config, with the layer and the files of all layers within it, in base64 by their names."""
        layer = keras.saving.serialize_keras_object(self.layer)
        files = [_files(one) for one in _with_files(self.layer)]
        return {**super().get_config(), "layer": layer, "files": files}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WithAssets:
        """Return the layer, with its files loaded."""
        config = dict(config)
        files, layer = config.pop("files"), keras.saving.deserialize_keras_object(config.pop("layer"))
        for one, own in zip(_with_files(layer), files, strict=True):
            _load_files(one, own)
        return cls(layer, **config)


def _with_files(layer: Any) -> list[Any]:
    """Return the layers within one that save files. Others may not be there before the layer is called."""
    return [one for one in all_layers(layer) if hasattr(one, "save_assets") and hasattr(one, "load_assets")]


def _files(layer: Any) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        layer.save_assets(directory)
        found = {}
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as file:
                found[name] = base64.b64encode(file.read()).decode()
    return found


def _load_files(layer: Any, files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            # A config may come from anywhere: a name is that of a file in this directory.
            with open(os.path.join(directory, os.path.basename(name)), "wb") as file:
                file.write(base64.b64decode(content))
        with loading_assets():
            layer.load_assets(directory)
