"""Check whether the gradients of a custom train step can be joined as means over rows, by taking steps on a copy."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl._compat.keras import all_layers, copied_value
from spark_dl.train.model.batch_dependence import (
    MEAN,
    OTHER,
    SMALL,
    SUM,
    UNTRIED,
    by_magnitude,
    paddings,
    quiet,
    with_pads,
)
from spark_dl.train.model.examples import Example, made_up_batch
from spark_dl.train.model.parts import is_keras, leaves, seed_states, shift_seeds

__all__ = ["RANDOM", "has_own_step", "make_deterministic", "step_kind"]

_logger = logging.getLogger(__name__)

RANDOM = "random"
_METHODS = ("train_step", "compute_loss")
_ROWS = (3, 4)
# Repetitions of rows, and of steps, if random numbers in the model prevent an exact comparison.
_REPEATS = 8
_DRAWS = 5
# Gradients of this size are above any threshold of clipping.
_STEEP = 1e4
_MOST_PARTS = 12
_FEATURES, _LABELS = 0, 1  # places in a batch
# x, y and the weights of a batch, as NumPy arrays.
_Batch = tuple[Any, ...]


def has_own_step(model: keras.Model) -> bool:
    """Return whether the model's class overrides `train_step` or `compute_loss`."""
    return any(getattr(type(model), name) is not getattr(keras.Model, name) for name in _METHODS)


def make_deterministic(model: keras.Model) -> None:
    """Turn off what makes the outputs of a copy random or dependent on the batch: dropout, noise, and the statistics of
    Keras's BatchNormalization.
    """
    for layer in all_layers(model):
        if is_keras(type(layer)):
            for name in ("rate", "stddev", "dropout", "recurrent_dropout"):
                if isinstance(getattr(layer, name, None), (int, float)):
                    with contextlib.suppress(AttributeError):  # a recurrent layer reads its cell's
                        setattr(layer, name, 0.0)
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False


def step_kind(
    model: keras.Model,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    examples: Sequence[Example],
    weighted: bool = False,
) -> str:
    """Determine how the gradients of a batch depend on those of its rows in a custom train step or loss.

    Args:
        model: A copy of the compiled model that isn't used elsewhere.
        inputs: The shape of one row and the dtype, by the input's name.
        examples: The shapes of the labels and outputs.
        weighted: Whether rows have weights.

    Returns:
        MEAN; SUM; OTHER if they depend on which rows share a batch; RANDOM if they can't be compared because they are
        random, but aren't sums; UNTRIED if no step could be taken.
    """
    make_deterministic(model)
    started = time.monotonic()
    with quiet():
        try:
            trial = _Trial(model)
            kind = _kind(trial, model, inputs, examples, weighted)
        except Exception:  # no batches of these inputs and labels can be made up
            return UNTRIED
    _logger.info(
        "The gradients of %s's own train step were compared in %d steps on synthetic rows, which took %.1f s.",
        type(model).__name__,
        trial.steps,
        time.monotonic() - started,
    )
    return kind


def _kind(
    trial: _Trial,
    model: keras.Model,
    inputs: Mapping[str, Any],
    examples: Sequence[Example],
    weighted: bool,
) -> str:
    """Compare plain batches, batches with values that may be masked, and steep gradients, until one differs."""
    for pair in _plain_pairs(inputs, examples, weighted):
        kind = trial.compared(*pair)
        if kind:
            break
    else:
        return UNTRIED
    kind = trial.random_kind(pair[0]) or kind
    if kind == MEAN:
        dtypes = sorted({example.label_dtype for example in examples})
        kind = _padded_kind(trial, pair, paddings(model, dtypes[-1] if dtypes else "float32"))
    if kind == MEAN:
        # A threshold for gradients, as of clipping, is above those of the first steps.
        trial.steepness = _STEEP
        kind = OTHER if trial.compared(*pair) not in ("", MEAN) else MEAN
    return kind


def _padded_kind(trial: _Trial, pair: tuple[_Batch, _Batch], pads: Sequence[float]) -> str:
    """Compare batches where labels and features are values that may mean "no label" or "no value"."""
    first, second = pair

    def compared(places: Sequence[int], group: Sequence[float]) -> str:
        return trial.compared(_padded(first, places, group), second)

    for group in by_magnitude(pads):
        places = [_LABELS] if len(first) > _LABELS else []
        if not math.isnan(group[0]):  # NaN in a feature is refused
            places.append(_FEATURES)
        kinds = [compared(places, group)]
        for place in places if not kinds[0] else ():
            kinds += _halved_kinds(sorted(group), functools.partial(compared, (place,)))
        # If all rows of the other batch are masked, a masked mean looks like a sum.
        if any(kind not in ("", MEAN) for kind in kinds):
            return OTHER
    return MEAN


def _halved_kinds(group: list[float], compared: Callable[[list[float]], str]) -> Iterator[str]:
    """Yield the kinds of parts of a group: a class or an id that isn't one may fail, or be NaN, and hide the others."""
    waiting = [group]
    for _ in range(_MOST_PARTS if abs(group[-1]) <= SMALL else 1):
        if not waiting:
            return
        part = waiting.pop(0)
        kind = compared(part)
        yield kind
        if not kind and len(part) > 1:
            waiting += [part[: len(part) // 2], part[len(part) // 2 :]]


def _padded(batch: _Batch, places: Sequence[int], group: Sequence[float]) -> _Batch:
    """Return a batch with a row for each value of the group, whose labels or features have that value, and one more."""
    rows = len(group) + 1
    enlarged = [_mapped(lambda part: np.resize(part, (rows, *part.shape[1:])), part) for part in batch]
    for place in places:
        enlarged[place] = _mapped(lambda part: with_pads(part, group), batch[place])
    return tuple(enlarged)


def _plain_pairs(
    inputs: Mapping[str, Any], examples: Sequence[Example], weighted: bool
) -> Iterator[tuple[_Batch, _Batch]]:
    """Yield pairs of batches: with numbers as labels, and with classes for a step that takes no others."""
    kinds = ("numbers", "classes") if any("float" in example.label_dtype for example in examples) else ("classes",)
    for kind in kinds:
        first, second = (made_up_batch(inputs, examples, weighted, kind, rows, seed) for seed, rows in enumerate(_ROWS))
        yield first, second


class _Trial:
    """Steps of a model whose optimizers record gradients and apply none.

    Attributes:
        steepness: The factor by which gradients of the model's outputs are multiplied.
        steps: The number of steps taken.
    """

    def __init__(self, model: keras.Model) -> None:
        self.steepness = 1.0
        self.steps = 0
        self._model = model
        self._taken: list[np.ndarray] = []
        # By the batch and the steepness; the batches are kept, so that no other one has their identity.
        self._known: dict[tuple[int, float], tuple[_Batch, np.ndarray]] = {}
        self._state = [(variable, copied_value(variable)) for variable in model.non_trainable_variables]
        held = leaves([model.optimizer, *vars(model).values()])
        for optimizer in {id(o): o for o in held if isinstance(o, keras.optimizers.Optimizer)}.values():
            optimizer.apply = self._note
        self._call = model.call
        model.call = self._called

    def compared(self, first: _Batch, second: _Batch) -> str:
        """Return MEAN, SUM or OTHER; "" if the steps fail or their gradients aren't finite."""
        try:
            one, other = self._once(first), self._once(second)
            if not np.isfinite([*one, *other]).all():
                return ""
            both = self._gradients(_joined(first, second))
            if not np.isfinite(both).all() or not len(both):
                return ""
        except Exception:
            return ""
        rows = [len(keras.tree.flatten(batch)[0]) for batch in (first, second)]
        if self._same(both, (rows[0] * one + rows[1] * other) / sum(rows)):
            return MEAN
        return SUM if self._same(both, one + other) else OTHER

    def random_kind(self, batch: _Batch) -> str:
        """Return SUM or RANDOM if the gradients of one batch differ from step to step; "" if they don't."""
        if self._same(self._once(batch), self._gradients(batch, shift=1)):
            return ""
        few = np.median([np.linalg.norm(self._gradients(batch, shift=draw)) for draw in range(2, 2 + _DRAWS)])
        many = np.linalg.norm(self._gradients(_joined(*[batch] * _REPEATS)))
        return SUM if many > few * _REPEATS / 2 else RANDOM

    def _once(self, batch: _Batch) -> np.ndarray:
        """Return the gradients of a batch, from an earlier step if there was one."""
        key = (id(batch), self.steepness)
        if key not in self._known:
            self._known[key] = (batch, self._gradients(batch))
        return self._known[key][1]

    def _same(self, one: np.ndarray, other: np.ndarray) -> bool:
        size = max(np.linalg.norm(one), np.linalg.norm(other))
        return one.shape == other.shape and bool(np.linalg.norm(one - other) <= 1e-3 * size + 1e-7)

    def _gradients(self, batch: _Batch, shift: int = 0) -> np.ndarray:
        self._taken = []
        self.steps += 1
        if shift:
            shift_seeds(seed_states(self._model), shift)
        try:
            given = _mapped(keras.ops.convert_to_tensor, batch)
            self._model.train_step(given if len(given) > 1 else given[0])
        finally:
            for variable, value in self._state:
                variable.assign(value)
        return np.concatenate([np.zeros(0), *self._taken])

    def _note(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        self._taken += [np.asarray(tf.convert_to_tensor(g), np.float64).ravel() for g in grads if g is not None]

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._call(*args, **kwargs)
        return outputs if self.steepness == 1.0 else keras.tree.map_structure(self._steep, outputs)

    def _steep(self, output: Any) -> Any:
        @tf.custom_gradient
        def steep(value: Any) -> Any:
            return tf.identity(value), lambda gradient: gradient * self.steepness

        return steep(output)


def _joined(*batches: _Batch) -> _Batch:
    joined: _Batch = _mapped(lambda *parts: np.concatenate(parts), *batches)
    return joined


def _mapped(function: Callable[..., Any], *batches: Any) -> Any:
    """Apply a function to the arrays of batches; without labels, y is None."""
    return keras.tree.map_structure(lambda *parts: None if parts[0] is None else function(*parts), *batches)
