"""Keras internals of compiled losses and of the masks by which they are divided.

Each docstring names the symbol behind the function. Checked with Keras 3.10, 3.12, 3.14 and 3.15.
`tests/unit/test_compat_keras_losses.py` has a test for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras.src.losses.loss import apply_mask

from spark_dl._compat.keras import mask_of

__all__ = ["counts_as_keras", "loss_and_divisor", "loss_trackers", "replace_losses"]


def replace_losses(model: keras.Model, replacement: Callable[[int, Any, Any], Any]) -> None:
    """Replace each loss that a model was compiled with, as it is called in steps (`CompileLoss._flat_losses`).

    The config that is saved with the model stays as it is.

    Args:
        model: The compiled Keras model.
        replacement: Takes the index of a loss, the `keras.Loss` and its weight (None for 1), and returns the function
            that is called in its place.
    """
    compiled = getattr(model, "_compile_loss", None)
    if compiled is None:
        return

    def replace() -> None:
        compiled._flat_losses = [
            entry._replace(loss=replacement(index, entry.loss, entry.loss_weights))
            for index, entry in enumerate(compiled._flat_losses)
        ]

    if compiled.built:
        replace()
        return
    build = compiled.build  # Keras resolves names and functions in its first step

    def build_and_replace(*args: Any, **kwargs: Any) -> None:
        build(*args, **kwargs)
        replace()

    compiled.build = build_and_replace


def counts_as_keras(loss: Any) -> bool:
    """Return whether Keras's own code reduces a loss: a name, a function, or a Loss without its own `__call__`."""
    kind = loss if isinstance(loss, type) else type(loss)
    return not issubclass(kind, keras.Loss) or kind.__call__ is keras.Loss.__call__


def loss_and_divisor(loss: keras.Loss, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Return a batch's loss, and by what Keras divides the sum of its values.

    Behind it are the mask of the result of `Loss.call` and `keras.src.losses.loss.apply_mask`.

    Returns:
        The loss, and a scalar tensor; None where the divisor is the number of rows, or a multiple of it.
    """
    called: list[Any] = []
    call = loss.call

    def recorded(y_true: Any, y_pred: Any) -> Any:
        called.append(call(y_true, y_pred))
        return called[-1]

    loss.call = recorded
    try:
        value = loss(y_true, y_pred, sample_weight)
    finally:
        del loss.call
    if not called or not called[0].shape.rank:
        return value, None
    masks = [keras.ops.cast(mask, "bool") for mask in (mask_of(y_pred), mask_of(called[0])) if mask is not None]
    mask = masks[0] if masks else None
    for other in masks[1:]:
        mask = keras.ops.logical_and(mask, other)
    if loss.reduction in ("sum_over_batch_size", "mean") and mask is not None:
        return value, keras.ops.sum(keras.ops.cast(mask, "float32"))
    if loss.reduction == "mean_with_sample_weight" and not (mask is None and sample_weight is None):
        weight = None if sample_weight is None else keras.ops.convert_to_tensor(sample_weight, dtype=loss.dtype)
        return value, keras.ops.sum(apply_mask(weight, mask, dtype=loss.dtype, reduction=loss.reduction))
    return value, None


def loss_trackers(model: keras.Model) -> tuple[Any, list[Any]]:
    """Return the metric of the whole loss, or None, and those of each of several losses.

    Behind it are `Trainer._loss_tracker` and `CompileLoss.metrics`.
    """
    compiled = getattr(model, "_compile_loss", None)
    return getattr(model, "_loss_tracker", None), list(getattr(compiled, "metrics", []))
