"""Check that ids reach Embedding layers exactly."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers, operation_of
from spark_dl.data.limits import exact_up_to
from spark_dl.errors import ModelError, explain

__all__ = ["check_exact_ids"]


def check_exact_ids(model: keras.Model) -> None:
    """Check that no Embedding has more rows than the floating-point input that feeds it can tell apart.

    Ids that are valid for a smaller Embedding are exact in such an input.

    Raises:
        ModelError: An Embedding has more rows.
    """
    for layer in all_layers(model):
        dtype = _input_dtype(layer)
        if dtype and layer.input_dim > exact_up_to(dtype):
            raise ModelError(
                explain(
                    f"Ids can't reach the layer {layer.name!r} exactly: some would be rounded to others.",
                    expected=f"an integer input, for an Embedding of {layer.input_dim:,} rows",
                    received=f"an input of {dtype}, which holds whole numbers up to {exact_up_to(dtype):,}",
                    fix="Give the model keras.Input(..., dtype='int64').",
                )
            )


def _input_dtype(layer: Any) -> str:
    """Return the floating-point dtype of the model input that feeds an Embedding directly; "" for another layer."""
    if isinstance(layer, keras.layers.Embedding):
        with contextlib.suppress(AttributeError, ValueError):  # called several times, or not in a graph
            start = operation_of(layer.input)
            dtype = str(start.dtype)
            if isinstance(start, keras.layers.InputLayer) and dtype != "bfloat16" and np.dtype(dtype).kind == "f":
                return dtype
    return ""
