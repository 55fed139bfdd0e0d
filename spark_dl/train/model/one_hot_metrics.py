"""Metrics beside a loss that takes classes as one-hot rows: they get the loss's labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from spark_dl._compat.keras import compile_metrics
from spark_dl.data.specs import LabelSpec
from spark_dl.errors import ModelError, explain
from spark_dl.train.model.parts import leaves

__all__ = ["check_one_hot_metrics", "compiled_metrics"]

# Keras metrics that take class indices.
_OF_CLASS_INDICES = (
    *("sparse_categorical_accuracy", "sparse_categorical_crossentropy", "sparse_top_k_categorical_accuracy"),
    *("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy", "SparseTopKCategoricalAccuracy"),
)


def check_one_hot_metrics(model: keras.Model, labels: Sequence[LabelSpec]) -> None:
    """Check that no metric takes class indices where the loss receives one-hot labels: metrics get the loss's labels.

    Args:
        model: The compiled model.
        labels: The labels' specifications.

    Raises:
        ModelError: A metric of Keras takes class indices.
    """
    if not (rows := [label for label in labels if label.one_hot]):
        return
    given = compiled_metrics(model, [label.key for label in rows])
    kinds = [one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__) for one in given]
    named = ", ".join(repr(label.name) for label in rows)
    if wrong := [kind for kind in kinds if kind in _OF_CLASS_INDICES]:
        raise ModelError(
            explain(
                f"Metrics of class indices can't be computed: for the loss, labels are one-hot rows, of {named}.",
                expected="metrics of one-hot labels, such as 'accuracy' or 'top_k_categorical_accuracy'",
                received=", ".join(wrong),
                fix="Leave out 'sparse' in the metric's name, or set loss='sparse_categorical_crossentropy'.",
            )
        )


def compiled_metrics(model: keras.Model, outputs: Sequence[str] = ()) -> list[Any]:
    """Return the metrics that a model was compiled with: texts, functions and metrics.

    Args:
        model: The compiled model.
        outputs: The names of the outputs whose metrics are returned; empty, or "", for all metrics.
    """
    given, several = compile_metrics(model), list(filter(None, outputs))
    if several:
        names = list(getattr(model, "output_names", None) or [])
        given = [_of_outputs(part, several, names) for part in given]
    return [one for one in leaves(given) if one is not None]


def _of_outputs(metrics: Any, wanted: Sequence[str], names: Sequence[str]) -> Any:
    """Return those of a model's metrics that some outputs get, from a dict or from a list in the model's order."""
    if isinstance(metrics, dict):
        return [metrics.get(name) for name in wanted]
    if isinstance(metrics, (list, tuple)) and len(metrics) == len(names):
        return [one for one, name in zip(metrics, names, strict=True) if name in wanted]
    return metrics
