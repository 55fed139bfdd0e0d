"""Check whether batches of several workers or steps can be joined, by trying the losses.

Gradients are joined as means over rows. This is the gradient of the global batch if the loss of a batch is the mean of
its rows' losses; so losses are computed for two synthetic batches and for both joined.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from spark_dl._compat.keras import all_layers, mask_of
from spark_dl.train.model.constants import numbers_of, rows_near
from spark_dl.train.model.examples import Example, features_of
from spark_dl.train.model.parts import is_keras

__all__ = [
    "MEAN",
    "OTHER",
    "SMALL",
    "SUM",
    "UNTRIED",
    "Forward",
    "broadcasts_labels",
    "by_magnitude",
    "compares_rows",
    "divided_losses",
    "forward",
    "is_own",
    "joined_features",
    "loss_kind",
    "masked_outputs",
    "may_add_losses",
    "model_loss_kinds",
    "paddings",
    "quiet",
    "with_pads",
]

MEAN, SUM, OTHER, UNTRIED = "mean", "sum", "other", "untried"
_ROWS = (3, 5)
# Magnitude of the numbers that are tried in one batch.
SMALL = 1e3
# Values that custom losses use for "no label", and some beyond any threshold that they may compare labels with.
_PADS = (0.0, -1.0, -100.0, np.nan, 1e2, 1e4, 1e6, -1e4, -1e6)
# Above it, a batch of as many rows as units takes too much memory.
_MANY_UNITS = 1024
_WARNINGS = threading.RLock()
# Repetitions of rows if random numbers in the model prevent an exact comparison.
_REPEATS = 8


def loss_kind(loss: Any, example: Example, weighted: bool) -> str:
    """Determine how the loss of a batch depends on its rows' losses.

    Args:
        loss: A Keras loss, its name, or a function.
        example: The shapes of the labels and outputs that it takes.
        weighted: Whether rows have weights.

    Returns:
        MEAN; SUM; OTHER if it depends on which rows share a batch; UNTRIED if it has no finite, repeatable value for
        any of the synthetic labels and outputs.
    """
    found = UNTRIED
    with quiet():
        try:
            value = _value_of(loss, example)
        except Exception:
            return UNTRIED
        own = is_own(loss)
        pads = paddings(loss, example.label_dtype) if own else ()
        for first, second in _batches(example, weighted, pads, rows_near(loss) if own else ()):
            try:
                kind = _compared(value, first, second)
            except Exception:  # noqa: S112 - the loss doesn't take these labels
                continue
            if kind == SUM:
                return SUM
            found = OTHER if OTHER in (kind, found) else kind or found
    return found


def broadcasts_labels(loss: Any, example: Example) -> bool:
    """Return whether a custom loss takes labels of one number for several units by chance, in batches of some sizes.

    NumPy's rules broadcast labels of shape (rows,) over outputs of shape (rows, units) where both numbers are equal.
    """
    units = example.output_shape[-1] if example.output_shape else 1
    if example.label_shape or units == 1 or not is_own(loss):
        return False

    def taken(rows: int) -> bool:
        try:
            if units > _MANY_UNITS:
                _trace(loss, example, rows)
                return True
            value = _value_of(loss, example)
            random = np.random.default_rng(0)
            return any(np.isfinite(value(*pair)) for pair in example.pairs(rows, random))
        except Exception:
            return False

    with quiet():
        return taken(units) and not taken(units + 2)


def compares_rows(loss: Any, example: Example) -> bool:
    """Return whether a custom loss compares the label of each row with the outputs of all rows.

    NumPy's rules make (rows, rows) of labels of shape (rows,) and outputs of shape (rows, 1). Keras gives a loss
    function both in one shape, but not the `call` of a class.
    """
    if example.label_shape or example.output_shape != (1,) or not is_own(loss):
        return False
    with quiet():
        try:
            value = _value_of(loss, example)
            labels, outputs = next(iter(example.pairs(_ROWS[1], np.random.default_rng(0))))
            one, again, reshaped = value(labels, outputs), value(labels, outputs), value(labels[:, None], outputs)
        except Exception:
            return False
    return bool(one == again and np.isfinite([one, reshaped]).all() and not np.isclose(one, reshaped, rtol=1e-4))


def is_own(loss: Any) -> bool:
    """Return whether a loss has code of the user's."""
    function = getattr(loss, "fn", None)
    return not isinstance(loss, str) and not (is_keras(loss) and (function is None or is_keras(function)))


def _value_of(loss: Any, example: Example) -> Callable[..., float]:
    """Return a function that computes the loss as Keras does in training."""
    model = keras.Sequential([keras.Input(example.output_shape), keras.layers.Identity()])
    model.compile(loss=loss)

    def value(labels: Any, outputs: Any, weights: Any = None) -> float:
        return float(np.sum(np.asarray(model.compute_loss(None, labels, outputs, weights), np.float64)))

    return value


def _trace(loss: Any, example: Example, rows: int) -> None:
    """Trace the loss of so many rows as Keras computes it in training, by shapes alone; raise the loss's error."""
    import tensorflow as tf

    model = keras.Sequential([keras.Input(example.output_shape), keras.layers.Identity()])
    model.compile(loss=loss)
    labels = tf.TensorSpec((rows, *example.label_shape), example.label_dtype)
    outputs = tf.TensorSpec((rows, *example.output_shape), "float32")
    function = tf.function(lambda given, found: model.compute_loss(None, given, found), autograph=False)
    function.get_concrete_function(labels, outputs)


def paddings(thing: Any, label_dtype: str) -> list[float]:
    """Return the labels that may mean "no label" to a custom loss: usual ones, and those that its code has.

    Args:
        thing: The loss, or the model with a custom train step or loss.
        label_dtype: The NumPy name of the labels' dtype.
    """
    # Just beyond a number, in case that it is a threshold.
    written = [near for number in numbers_of(thing) for near in (number, number + 1, number - 1)]
    fits = np.dtype(label_dtype)
    return [
        pad
        for pad in dict.fromkeys([*written, *_PADS])
        if fits.kind == "f" or (float(pad).is_integer() and np.iinfo(fits).min <= pad <= np.iinfo(fits).max)
    ]


def _batches(
    example: Example, weighted: bool, pads: Sequence[float], sizes: Sequence[tuple[int, int]]
) -> Iterator[tuple[Any, ...]]:
    """Yield pairs of batches: with each kind of label, weights, labels that mean "no label", and of other sizes."""
    random = np.random.default_rng(0)
    first, second = (list(example.pairs(rows, random)) for rows in _ROWS)
    yield from zip(first, second, strict=True)
    if weighted:
        for a, b in zip(first, second, strict=True):
            yield tuple((*pair, example.weights(len(pair[0]), random)) for pair in (a, b))
    for pad in pads:
        labels, outputs = first[0]
        padded = labels.copy()
        padded[:2] = pad
        yield (padded, outputs), second[0]
    for pair in sizes:
        yield tuple(next(example.pairs(rows, random)) for rows in pair)


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


class Forward(NamedTuple):
    """Result of a forward pass: the outputs, the non-trainable variables, and the losses that layers add."""

    outputs: Any
    states: list[Any]
    losses: list[float]


def forward(model: keras.Model, features: Any, training: bool) -> Forward:
    """Run a forward pass; the model is unchanged, its seeds included."""
    # `stateless_call` passes arguments straight to `call`, which may not take `training`.
    parameters = inspect.signature(model.call).parameters
    known = {"training": training} if "training" in parameters else {}
    outputs, states, losses = model.stateless_call(
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
        keras.tree.map_structure(keras.ops.convert_to_tensor, features),
        return_losses=True,
        **known,
    )
    return Forward(outputs, list(states), [float(np.sum(np.asarray(loss))) for loss in losses])


def masked_outputs(model: keras.Model, inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> list[int]:
    """Return the indices of the outputs that carry a mask: their losses are means over unmasked values."""
    with quiet():
        try:
            outputs = forward(model, features_of(inputs, 2, seed=0), training=False).outputs
        except Exception:
            outputs = getattr(model, "outputs", None) or []
        flat = keras.tree.flatten(outputs)
        return [index for index, output in enumerate(flat) if mask_of(output) is not None]


def divided_losses(
    model: keras.Model,
    losses: Mapping[str, Any],
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    weighted: bool,
) -> dict[str, str]:
    """Return the outputs whose loss Keras doesn't divide by rows, with what it is a mean over, for messages.

    Args:
        model: The built Keras model.
        losses: The loss of each output, by the output's name, in the model's order.
        inputs: The shape of one row and the dtype, by the input's name.
        weighted: Whether rows have weights.
    """
    masked = masked_outputs(model, inputs) if may_add_losses(model) else []
    found: dict[str, str] = {}
    for index, (name, loss) in enumerate(losses.items()):
        if index in masked:
            found[name] = f"The loss of the masked output {name!r} is a mean over the steps that aren't masked."
        elif getattr(loss, "ignore_class", None) is not None:
            found[name] = f"The loss of {name!r} is a mean over the labels that aren't ignore_class."
        elif weighted and getattr(loss, "reduction", "") == "mean_with_sample_weight":
            found[name] = f"The loss of {name!r} with reduction 'mean_with_sample_weight' is divided by the weights."
    return found


def model_loss_kinds(model: keras.Model, inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> list[str]:
    """Determine for each loss that the model's layers add how that of a batch depends on its rows' losses.

    Args:
        model: The built Keras model.
        inputs: The shape of one row and the dtype, by the input's name.
    """
    own = [layer for layer in all_layers(model) if not is_keras(type(layer))]
    pads = dict.fromkeys(pad for layer in own for pad in paddings(layer, "float32") if np.isfinite(pad))
    with quiet():
        try:
            exact, noisy = (_added(model, inputs, training) for training in (False, True))
            if len(exact) != len(noisy):
                return noisy
        except Exception:
            return []
        for group in by_magnitude(pads):
            with contextlib.suppress(Exception):  # ids that the model doesn't know
                masked = _added(model, inputs, False, group)
                exact = [
                    OTHER if plain == MEAN and padded != MEAN else plain
                    for plain, padded in zip(exact, masked, strict=True)
                ]
        return exact


def by_magnitude(pads: Iterable[float]) -> Iterator[list[float]]:
    """Group numbers: small ones, large ones, NaN. In one batch, the gradients of large ones would hide the others."""
    groups: dict[str, list[float]] = {}
    for pad in pads:
        groups.setdefault("nan" if np.isnan(pad) else "large" if abs(pad) > SMALL else "small", []).append(pad)
    yield from groups.values()


def with_pads(part: np.ndarray, pads: Sequence[float]) -> np.ndarray:
    """Return an array with a row for each number, which has that value if the dtype holds it, and one row more."""
    padded = np.resize(part, (len(pads) + 1, *part.shape[1:]))
    for row, pad in enumerate(pads):
        whole = part.dtype.kind in "iu" and float(pad).is_integer()
        if part.dtype.kind == "f" or (whole and np.iinfo(part.dtype).min <= pad <= np.iinfo(part.dtype).max):
            padded[row] = pad
    return padded


def _added(
    model: keras.Model, inputs: Mapping[str, tuple[tuple[int, ...], str]], training: bool, pads: Sequence[float] = ()
) -> list[str]:
    first, second = (features_of(inputs, rows, seed) for seed, rows in enumerate(_ROWS))
    if pads:
        first = keras.tree.map_structure(lambda part: with_pads(part, pads), first)
    one = forward(model, first, training).losses
    if not one:
        return []
    other, both = (forward(model, given, training).losses for given in (second, joined_features(first, second)))
    rows = (len(pads) + 1 if pads else _ROWS[0], _ROWS[1])
    values = list(zip(one, other, both, strict=True))
    kinds = [_kind(*each, rows) if np.isfinite(each).all() or not pads else MEAN for each in values]
    if training:  # dropout draws new numbers for each batch
        repeated = forward(model, joined_features(*[first] * _REPEATS), training).losses
        kinds = [SUM if abs(many) > abs(few) * _REPEATS / 2 else MEAN for few, many in zip(one, repeated, strict=True)]
    return kinds


def joined_features(*features: Any) -> Any:
    """Return the rows of several batches of features as one batch."""
    return keras.tree.map_structure(lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *features)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of trials. Other threads wait, since the filters of warnings belong to the process."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
