"""Check whether batches of several workers or steps can be joined, by trying the losses.

Gradients are joined as means over rows. This is the gradient of the joined batch if the loss of a batch is the mean of
its rows' losses; so losses are computed for two made-up batches and for both joined. A loss that can't be tried is
assumed to be a mean.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers, mask_of
from spark_dl.train.model.examples import Example
from spark_dl.train.model.parts import is_keras, leaves

__all__ = ["MEAN", "OTHER", "SUM", "loss_kind", "masked_outputs", "may_add_losses", "model_loss_kinds", "step_kind"]

MEAN, SUM, OTHER = "mean", "sum", "other"
_ROWS = (3, 5)
# Values that custom losses use for "no label".
_PADS = (0.0, -1.0, -100.0, np.nan)
# Repetitions of rows if random numbers in the model prevent an exact comparison.
_REPEATS = 8


def loss_kind(loss: Any, example: Example, weighted: bool) -> str:
    """Determine how the loss of a batch depends on its rows' losses.

    Args:
        loss: A Keras loss, its name, or a function.
        example: The shapes of the labels and outputs that it takes.
        weighted: Whether rows have weights.

    Returns:
        MEAN, SUM, or OTHER if it depends on which rows share a batch.
    """
    found = MEAN
    with _quiet():
        try:
            value = _value_of(loss, example)
        except Exception:
            return MEAN
        for first, second in _batches(example, weighted, own=_is_own(loss)):
            try:
                kind = _compared(value, first, second)
            except Exception:  # noqa: S112 - the loss doesn't take these labels
                continue
            if kind == SUM:
                return SUM
            found = OTHER if kind == OTHER else found
    return found


def _is_own(loss: Any) -> bool:
    function = getattr(loss, "fn", None)
    return not isinstance(loss, str) and not (is_keras(loss) and (function is None or is_keras(function)))


def _value_of(loss: Any, example: Example) -> Callable[..., float]:
    """Return a function that computes the loss as Keras does in training."""
    model = keras.Sequential([keras.Input(example.output_shape), keras.layers.Identity()])
    model.compile(loss=loss)

    def value(labels: Any, outputs: Any, weights: Any = None) -> float:
        return float(np.sum(np.asarray(model.compute_loss(None, labels, outputs, weights), np.float64)))

    return value


def _batches(example: Example, weighted: bool, own: bool) -> Iterator[tuple[Any, ...]]:
    """Yield pairs of batches: with each kind of label, with weights, and with labels that mean "no label"."""
    random = np.random.default_rng(0)
    first, second = (list(example.pairs(rows, random)) for rows in _ROWS)
    yield from zip(first, second, strict=True)
    if weighted:
        for a, b in zip(first, second, strict=True):
            yield tuple((*pair, random.uniform(0.2, 3.0, len(pair[0])).astype(np.float32)) for pair in (a, b))
    for pad in _PADS if own else ():
        if "float" in example.label_dtype or not np.isnan(pad):
            labels, outputs = first[0]
            padded = labels.copy()
            padded[:2] = pad
            yield (padded, outputs), second[0]


def _compared(value: Callable[..., Any], first: tuple[Any, ...], second: tuple[Any, ...]) -> str:
    """Return MEAN, SUM or OTHER; "" if the values aren't finite or not reproducible."""
    joined = tuple(np.concatenate(pair) for pair in zip(first, second, strict=True))
    one, other, both = value(*first), value(*second), value(*joined)
    if not np.isfinite([one, other, both]).all() or value(*first) != one:
        return ""
    return _kind(one, other, both, (len(first[0]), len(second[0])))


def _kind(one: float, other: float, both: float, rows: tuple[int, int]) -> str:
    mean = (rows[0] * one + rows[1] * other) / sum(rows)
    close = 1e-4 * max(abs(one), abs(other), abs(both)) + 1e-7
    if abs(both - mean) <= close:
        return MEAN
    return SUM if abs(both - one - other) <= close else OTHER


def may_add_losses(model: keras.Model) -> bool:
    """Return whether a forward pass may add losses or masks, by custom layers or by Keras's own that do so."""
    return any(
        not is_keras(type(layer))
        or getattr(layer, "activity_regularizer", None) is not None
        or getattr(layer, "mask_zero", False)
        or isinstance(layer, keras.layers.Masking)
        for layer in all_layers(model)
    )


def features_of(inputs: Mapping[str, tuple[tuple[int, ...], str]], rows: int, seed: int) -> Any:
    """Make up features: arrays by input name, or a single array if there is one input.

    Args:
        inputs: The shape of one row and the dtype, by the input's name.
        rows: The number of rows.
        seed: The random seed.
    """
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for name, (shape, dtype) in inputs.items():
        if dtype == "string":
            made[name] = np.full((rows, *shape), "a")
        elif "float" in dtype:
            made[name] = random.normal(size=(rows, *shape)).astype(dtype)
        else:
            made[name] = random.integers(0, 2, (rows, *shape)).astype(dtype)
    return made if len(made) > 1 else made.popitem()[1]


def _forward(model: keras.Model, features: Any, training: bool) -> tuple[Any, list[float]]:
    """Return the outputs and the losses that layers add; the model is unchanged, its seeds included."""
    # `stateless_call` passes arguments straight to `call`, which may not take `training`.
    parameters = inspect.signature(model.call).parameters
    known = {"training": training} if "training" in parameters else {}
    outputs, _, losses = model.stateless_call(
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
        keras.tree.map_structure(keras.ops.convert_to_tensor, features),
        return_losses=True,
        **known,
    )
    return outputs, [float(np.sum(np.asarray(loss))) for loss in losses]


def masked_outputs(model: keras.Model, inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> list[int]:
    """Return the indices of the outputs that carry a mask: their losses are means over unmasked values."""
    with _quiet():
        try:
            outputs, _ = _forward(model, features_of(inputs, 2, seed=0), training=False)
        except Exception:
            outputs = getattr(model, "outputs", None) or []
        flat = keras.tree.flatten(outputs)
        return [index for index, output in enumerate(flat) if mask_of(output) is not None]


def model_loss_kinds(model: keras.Model, inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> list[str]:
    """Determine for each loss that the model's layers add how that of a batch depends on its rows' losses.

    Args:
        model: The built Keras model.
        inputs: The shape of one row and the dtype, by the input's name.
    """
    with _quiet():
        try:
            exact, noisy = (_added(model, inputs, training) for training in (False, True))
            return exact if len(exact) == len(noisy) else noisy
        except Exception:
            return []


def _added(model: keras.Model, inputs: Mapping[str, tuple[tuple[int, ...], str]], training: bool) -> list[str]:
    first, second = (features_of(inputs, rows, seed) for seed, rows in enumerate(_ROWS))
    one = _forward(model, first, training)[1]
    if not one:
        return []
    other, both = (_forward(model, given, training)[1] for given in (second, _joined(first, second)))
    kinds = [_kind(*values, _ROWS) for values in zip(one, other, both, strict=True)]
    if training:  # dropout draws new numbers for each batch
        repeated = _forward(model, _joined(*[first] * _REPEATS), training)[1]
        kinds = [SUM if abs(many) > abs(few) * _REPEATS / 2 else MEAN for few, many in zip(one, repeated, strict=True)]
    return kinds


def _joined(*features: Any) -> Any:
    return keras.tree.map_structure(lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *features)


def step_kind(model: keras.Model, batch: Callable[[int], tuple[Any, ...]]) -> str:
    """Return SUM if a custom train step or a custom loss of the model sums over rows, else MEAN.

    Args:
        model: A copy of the model that isn't used elsewhere.
        batch: The function that returns x, y and optionally weights for a number of rows, which are the same few,
            repeated.
    """
    held = leaves([model.optimizer, *vars(model).values()])
    optimizers = {id(o): o for o in held if isinstance(o, keras.optimizers.Optimizer)}.values()
    sizes: list[float] = []

    def note(grads: Sequence[Any], trainable_variables: Any = None) -> None:
        sizes.append(sum(float(np.linalg.norm(keras.ops.convert_to_numpy(g))) for g in grads if g is not None))

    for optimizer in optimizers:
        optimizer.apply = note
    with _quiet():
        try:
            model.train_step(batch(1))
            few, sizes[:] = list(sizes), []
            model.train_step(batch(_REPEATS))
        except Exception:
            return MEAN
    pairs = zip(few, sizes, strict=False)
    return SUM if any(many > size * _REPEATS / 2 > 0 for size, many in pairs) else MEAN


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
