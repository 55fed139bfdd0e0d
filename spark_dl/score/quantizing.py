"""Quantization of a Keras model's bytes: Keras's own, with the same compile options afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from spark_dl._compat.keras import all_layers
from spark_dl.errors import ModelError, explain
from spark_dl.train.model.keras_settings import apply_settings
from spark_dl.train.model.recompiling import compile_again
from spark_dl.train.model.serialization import from_bytes, settings_of, to_bytes

__all__ = ["quantized"]


def quantized(content: bytes, objects: Mapping[str, Any], mode: str) -> bytes:
    """Return a model's `.keras` bytes with weights of small integers, and an optimizer without state.

    Args:
        content: The `.keras` bytes of the model.
        objects: The custom objects by name.
        mode: The mode of `keras.Model.quantize`.

    Raises:
        ModelError: The model has no layer that Keras quantizes, or has quantized ones already.
    """
    with apply_settings(settings_of(content)), keras.saving.custom_object_scope(objects):
        model = from_bytes(content, objects)
        layers = all_layers(model)
        if done := [layer.name for layer in layers if _is_quantized(layer)]:
            raise ModelError(
                explain(
                    "The model is quantized already.",
                    expected="weights as they were trained",
                    received=f"quantized layers {', '.join(done)}",
                    fix="Quantize the fitted model itself, not its quantized copy.",
                )
            )
        # Keras can't load quantized layers within other layers, such as those of MultiHeadAttention.
        direct = {id(one) for part in layers if isinstance(part, keras.Model) for one in part.layers}
        compiled = model.get_compile_config() if model.compiled else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a `quantize` method")
            model.quantize(mode, filters=lambda layer: id(layer) in direct)
        if not any(map(_is_quantized, layers)):
            kinds = dict.fromkeys(type(layer).__name__ for layer in layers[1:])
            raise ModelError(
                explain(
                    "The model can't be quantized.",
                    expected="a Dense, EinsumDense or Embedding layer of its own, not within another layer",
                    received=f"layers {', '.join(kinds)}",
                    fix="Export to LiteRT with its own optimizations instead, which know other layers.",
                )
            )
        if compiled:
            compile_again(model, compiled)  # the optimizer's state belongs to the weights before
        return to_bytes(model)


def _is_quantized(layer: Any) -> bool:
    return isinstance(layer.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy)
