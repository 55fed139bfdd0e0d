"""Check of models whose rows are padded to the longest of each batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from spark_dl.errors import ModelError, explain
from spark_dl.train.model.batch_dependence import forward, quiet
from spark_dl.train.model.examples import TRIED_LENGTH

__all__ = ["check_padding_is_masked"]

_ROWS = 3


def check_padding_is_masked(
    model: keras.Model,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    pads: Mapping[str, float | str],
    columns: Mapping[str, str],
) -> None:
    """Check that a row's outputs don't depend on how far it is padded, and so not on the other rows of its batch.

    A model that can't be tried passes.

    Args:
        model: The built Keras model.
        inputs: The shape of one row and the dtype of each input, by its name; the length is TRIED_LENGTH if it is open.
        pads: The padding of each input of open length, by the input's name.
        columns: The column that feeds each of these inputs.

    Raises:
        ModelError: Outputs depend on it.
    """
    with quiet():
        try:
            short, long = (_outputs(model, inputs, pads, length) for length in (TRIED_LENGTH, 2 * TRIED_LENGTH))
        except Exception:
            return
    if all(
        a.shape == b.shape and np.allclose(a, b, 1e-3, 1e-5, equal_nan=True) for a, b in zip(short, long, strict=True)
    ):
        return
    column = next(iter(columns.values()))
    raise ModelError(
        explain(
            "The model's outputs depend on how far rows are padded, and so on which rows share a batch.",
            expected=f"a model that masks the padding of {', '.join(columns.values())}",
            received=f"rows of {TRIED_LENGTH} values with other outputs once {TRIED_LENGTH} values of padding follow",
            fix=f"Set the length of a row: columnShapes={{{column!r}: [...]}}; or mask the padding, for example with "
            "Embedding(mask_zero=True) or Masking.",
        )
    )


def _outputs(
    model: keras.Model, inputs: Mapping[str, tuple[tuple[int, ...], str]], pads: Mapping[str, float | str], length: int
) -> list[np.ndarray]:
    """Compute the outputs of synthetic rows, the same for each length but for the padding after them."""
    random = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for name, (shape, dtype) in inputs.items():
        if dtype == "string":
            rows = random.choice(np.array(["a", "b", "c"], object), (_ROWS, *shape))
        elif "float" in dtype:
            rows = random.normal(size=(_ROWS, *shape)).astype(dtype)
        else:
            rows = random.integers(1, 3, (_ROWS, *shape)).astype(dtype)
        if name in pads and length > shape[0]:
            padding = np.full((_ROWS, length - shape[0], *shape[1:]), pads[name], rows.dtype)
            rows = np.concatenate([rows, padding], axis=1)
        made[name] = rows.astype(str) if dtype == "string" else rows
    found = forward(model, made if len(made) > 1 else made.popitem()[1], training=False).outputs
    return [np.asarray(output, np.float64) for output in keras.tree.flatten(found)]
