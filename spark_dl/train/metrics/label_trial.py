"""Whether metrics take the labels and outputs, by tracing them as a training step does, before any rows are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from spark_dl._compat.keras import compile_metrics, trace_compiled_metrics, trace_metrics
from spark_dl.train.metrics.joins import copy_of
from spark_dl.train.model.batch_dependence import quiet
from spark_dl.train.model.examples import Example

__all__ = ["metrics_refusal"]


def metrics_refusal(
    model: keras.Model,
    example: Example,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    copied: Callable[[], keras.Model],
    weight: tuple[int, ...] | None = None,
) -> str:
    """Return the error of compiled metrics that don't take the labels of a model with one output; "" for none.

    Args:
        model: The compiled model; its metrics are copied.
        example: The shapes and dtypes of labels and outputs.
        inputs: The shape of one row and the dtype of each input, by its name.
        copied: Returns a new copy of the model.
        weight: The shape of one row's weights; None for no weights.
    """
    metrics, weighted = (_copied(given) for given in compile_metrics(model))
    if not metrics and not weighted:
        return ""
    label = keras.KerasTensor((None, *example.label_shape), example.label_dtype)
    output = keras.KerasTensor((None, *example.output_shape), "float32")
    weights = None if weight is None else keras.KerasTensor((None, *weight), "float32")
    with quiet():
        try:
            trace_metrics(metrics, weighted, label, output, weights)
            return ""
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".strip()
        # A metric may take more of the outputs than their numbers, such as masks.
        features = {name: keras.KerasTensor((None, *shape), dtype) for name, (shape, dtype) in inputs.items()}
        try:
            x = features if len(features) > 1 else features.popitem()[1]
            trace_compiled_metrics(copied(), x, label, weights)
            return ""
        except Exception:
            return reason


def _copied(given: Any) -> Any:
    if isinstance(given, dict):
        return {name: _copied(part) for name, part in given.items()}
    if isinstance(given, (list, tuple)):
        return [_copied(part) for part in given]
    return copy_of(given) if isinstance(given, keras.Metric) else given
