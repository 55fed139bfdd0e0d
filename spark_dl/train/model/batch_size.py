"""Checks that a model takes batches of any size: the last batch of an epoch or of a scoring task may be smaller."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers
from spark_dl.errors import ModelError, explain
from spark_dl.train.model.shape import shape_of

__all__ = ["check_any_batch", "check_stateless"]


def check_stateless(model: Any) -> None:
    """Raise an error for stateful layers: consecutive batches hold rows of different sequences.

    Raises:
        ModelError: A layer is stateful.
    """
    parts = all_layers(model) if isinstance(model, keras.Model) else ()
    stateful = [part for part in parts if getattr(part, "stateful", False) is True]
    if stateful:
        raise ModelError(
            explain(
                "The model keeps a state from one batch to the next.",
                expected="layers with stateful=False: rows are shuffled, split over ranks and scored in batches of any "
                "size",
                received=", ".join(f"{part.name} ({type(part).__name__}) with stateful=True" for part in stateful),
                fix="Build the model with stateful=False, and give it whole sequences.",
            )
        )


def check_any_batch(model: keras.Model) -> None:
    """Raise an error for a model that takes only batches of the size that it was built for.

    Keras accepts other sizes if no operation depends on the size, so the model is tried.

    Args:
        model: A copy of the model that may be called.

    Raises:
        ModelError: The model fails for batches of other sizes, or returns another number of rows.
    """
    fixed = {tensor.shape[0] for tensor in getattr(model, "inputs", None) or []} - {None}
    if not fixed:
        return
    shape = shape_of(model)
    for rows in (min(fixed) + 1, 1):
        tensors = [
            keras.ops.convert_to_tensor(np.full((rows, *sizes), "").tolist(), dtype="string")
            if one.dtype == "string"
            else keras.ops.zeros((rows, *sizes), one.dtype)
            for one in shape.inputs
            for sizes in [[size or 1 for size in one.shape]]
        ]
        named = {one.name: tensor for one, tensor in zip(shape.inputs, tensors, strict=True)}
        try:
            result = model(named if shape.takes_dict else tensors if len(tensors) > 1 else tensors[0], training=False)
            found: set[int | str] = {int(output.shape[0]) for output in keras.tree.flatten(result)}
        except Exception as error:
            found = {f"{type(error).__name__}: {str(error).strip()}"[:300]}
        if found != {rows}:
            raise ModelError(
                explain(
                    f"The model {model.name!r} only takes batches of {', '.join(map(str, sorted(fixed)))} rows.",
                    expected="a model that takes batches of any size",
                    received=f"for {rows} rows: {', '.join(map(str, found))}",
                    fix="Build it with keras.Input(shape=...), without batch_size, and with -1 for the rows in a "
                    "reshape.",
                )
            )
