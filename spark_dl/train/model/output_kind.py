"""Kind of a classifier's output, probabilities or logits: declared, known from model and loss, or measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers
from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.train.model.losses import MARGIN_LOSSES, LossFacts
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes
from spark_dl.train.model.shape import ModelInput, ModelShape

__all__ = ["LOGITS", "PROBABILITY", "SCORES", "OutputKind", "measure", "output_kind", "undecided"]

PROBABILITY, LOGITS = "probability", "logits"
# Several units, each within [0, 1], whose sum isn't 1, such as one sigmoid per class.
SCORES = "scores"

_ROWS = 8
_WEIGHT_DRAWS = 3
_SCALES = (0.0, 1.0, 1.0, 1.0, 30.0, 30.0, 1e4, -1e4)
_FIX = "Set outputKind='logits' or outputKind='probability'."


@dataclass(frozen=True)
class OutputKind:
    """Kind of the values in a model's output.

    Attributes:
        kind: PROBABILITY, SCORES or LOGITS.
        source: What determined the kind, shown in the input plan.
    """

    kind: str
    source: str


def output_kind(
    model: keras.Model | None, shape: ModelShape, declared: str | None, loss: LossFacts | None
) -> OutputKind | None:
    """Determine the kind of a classifier's output.

    The user's declaration takes precedence. A softmax or a sigmoid gives probabilities, whatever the loss: Keras's own
    losses compute from the logits before such an activation. Otherwise, Keras's own losses define what they take, and
    the output is measured if the last activation isn't Keras's own.

    Args:
        model: The model to measure; None if it can't be measured.
        shape: The shape of the model, with one output whose last axis holds the classes.
        declared: The option outputKind.
        loss: The facts of the loss; None if it isn't chosen yet.

    Returns:
        The kind; None if neither the model nor its loss nor a measurement determines it.

    Raises:
        OptionError: Probabilities are declared, and the output isn't within [0, 1].
        ModelError: The loss takes probabilities, and the output isn't within [0, 1].
    """
    if declared == LOGITS:
        return OutputKind(LOGITS, "declared by outputKind")
    (output,) = shape.outputs
    takes = _takes(loss)
    found = _certain(output.activation, output.shape[-1])
    if found is None and model is not None:
        found = measure(model, shape)
    if declared == PROBABILITY:
        _check_probability(found, OptionError, "outputKind='probability'")
        return OutputKind(found.kind if found else PROBABILITY, "declared by outputKind")
    if takes == PROBABILITY and loss is not None:
        # Without a model, nothing can contradict the loss.
        _check_probability(found if model is not None else None, ModelError, f"the loss {loss.name}")
    if found is not None and (takes is None or found.kind != LOGITS):
        return found
    if takes is not None and loss is not None:
        return OutputKind(takes, f"the loss {loss.name} with from_logits={takes == LOGITS}")
    return OutputKind(LOGITS, f"the loss {loss.name}") if loss is not None and _may_be_logits(loss) else None


def _takes(loss: LossFacts | None) -> str | None:
    """Return what the loss takes, if it is one of Keras's own that defines it; else None."""
    if loss is None or not loss.known or loss.name in MARGIN_LOSSES:
        return None
    return LOGITS if loss.from_logits else PROBABILITY


def _may_be_logits(loss: LossFacts) -> bool:
    return loss.from_logits or (loss.known and loss.name in MARGIN_LOSSES)


def _check_probability(found: OutputKind | None, error: type[ModelError | OptionError], says: str) -> None:
    if found is not None and found.kind == LOGITS:
        raise error(
            explain(
                f"The model's output isn't a probability, as {says} takes it to be.",
                expected="an output within [0, 1], such as that of softmax or sigmoid",
                received=f"numbers beyond it ({found.source})",
                fix="End the model with softmax (several units) or sigmoid (one unit), or train on logits: a loss with "
                "from_logits=True, or outputKind='logits'.",
            )
        )


def _certain(activation: str, units: int) -> OutputKind | None:
    """Return the kind that follows from Keras's own last activation; None for other activations."""
    kinds = {"softmax": PROBABILITY, "sigmoid": PROBABILITY if units == 1 else SCORES, "linear": LOGITS}
    return OutputKind(kinds[activation], f"the activation {activation}") if activation in kinds else None


def measure(model: keras.Model, shape: ModelShape) -> OutputKind | None:
    """Determine the kind by the output for synthetic rows, with the model's own weights and with random ones.

    With its own weights alone, a linear unit may stay within [0, 1] by chance: an untrained one often gives 0.

    Args:
        model: The model; it is unchanged.
        shape: The shape of the model.

    Returns:
        The kind; None if the output can't be computed for any synthetic rows.
    """
    objects = custom_objects(model)
    with keras.saving.custom_object_scope(objects):
        copy = from_bytes(to_bytes(model), objects, compiled=False)
    draw = np.random.default_rng(0)
    own = [np.asarray(weight) for weight in copy.trainable_variables]
    found: list[np.ndarray] = []
    for index in range(_WEIGHT_DRAWS):
        if index:
            for weight, value in zip(copy.trainable_variables, own, strict=True):
                if "float" in str(weight.dtype):
                    fan_in = math.prod(value.shape[:-1]) if value.ndim > 1 else 1
                    noise = draw.normal(size=value.shape) / math.sqrt(max(1, fan_in))
                    weight.assign(value.astype(np.float64) + noise)
        found += [rows for given in _made_up(shape.inputs, draw) if (rows := _outputs(copy, shape, given)) is not None]
    if not any(map(len, found)):
        return None
    rows = np.concatenate(found)
    half = any("16" in str(layer.compute_dtype) for layer in all_layers(copy))  # sums are less exact
    tolerance = 2e-2 if half else 1e-3
    source = f"measured on {len(rows)} synthetic rows"
    if rows.min() < -tolerance or rows.max() > 1 + tolerance:
        return OutputKind(LOGITS, source)
    if rows.shape[1] > 1 and (np.abs(rows.sum(axis=1) - 1) > tolerance).any():
        return OutputKind(SCORES, source)
    return OutputKind(PROBABILITY, source)


def _made_up(inputs: tuple[ModelInput, ...], draw: np.random.Generator) -> Iterator[list[np.ndarray]]:
    """Yield synthetic rows for all inputs: random and extreme ones, then ones that fit an embedding of few values."""
    scales = np.array(_SCALES)
    for extreme in (True, False):
        given = []
        for one in inputs:
            shape = (_ROWS, *one.shape)
            if one.dtype == "string":
                texts = np.array(["", "a", "a b", "b", "word", "0", "1", "a word"], object)
                given.append(np.broadcast_to(texts.reshape(-1, *[1] * len(one.shape)), shape))
            elif one.dtype.startswith("float") and extreme:
                spread = scales.reshape(-1, *[1] * len(one.shape))
                given.append((draw.normal(size=shape) * spread).astype(np.float32))
            else:
                given.append(draw.integers(0, 2, size=shape).astype(one.dtype))
        yield given


def _outputs(model: keras.Model, shape: ModelShape, given: list[np.ndarray]) -> np.ndarray | None:
    """Return the finite rows of the output, float64 (rows, units); None if the model fails for these rows."""
    tensors = [
        keras.ops.convert_to_tensor(array.tolist() if one.dtype == "string" else array, dtype=one.dtype)
        for array, one in zip(given, shape.inputs, strict=True)
    ]
    named = {one.name: tensor for one, tensor in zip(shape.inputs, tensors, strict=True)}
    takes: Any = named if shape.takes_dict else tensors if len(tensors) > 1 else tensors[0]
    try:
        (output,) = keras.tree.flatten(model(takes, training=False))
        rows = np.asarray(keras.ops.cast(output, "float32"), np.float64)
        rows = rows.reshape(-1, rows.shape[-1]) if rows.ndim > 2 else rows.reshape(_ROWS, -1)
    except Exception:
        return None  # for example an index beyond an embedding, or a fixed batch size
    finite: np.ndarray = rows[np.isfinite(rows).all(axis=1)]
    return finite


def undecided(model: str) -> ModelError:
    """Return the error for a model whose output kind can't be determined."""
    return ModelError(
        explain(
            f"It is unknown whether the model {model!r} gives probabilities or logits.",
            expected="a last layer with softmax, sigmoid or no activation; one of Keras's losses; or outputKind",
            received="an output that can't be measured without rows",
            fix=_FIX,
        )
    )
