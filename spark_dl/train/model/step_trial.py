"""Check whether the gradients of a custom train step can be joined as means over rows, by taking steps on a copy."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl._compat.keras import all_layers
from spark_dl.train.model.batch_dependence import MEAN, OTHER, SUM, paddings, quiet
from spark_dl.train.model.examples import Example, made_up_batch
from spark_dl.train.model.parts import is_keras, leaves, seed_states, shift_seeds

__all__ = ["RANDOM", "UNTRIED", "has_own_step", "make_deterministic", "step_kind"]

RANDOM, UNTRIED = "random", "untried"
_METHODS = ("train_step", "compute_loss")
_ROWS = (3, 4)
# Repetitions of rows if random numbers in the model prevent an exact comparison.
_REPEATS = 8
# Gradients of this size are above any threshold of clipping.
_STEEP = 1e4
_MOST_ALONE = 12
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
    with quiet():
        try:
            trial = _Trial(model)
            kinds = [trial.compared(*pair) for pair in _pairs(model, inputs, examples, weighted)]
            # A threshold for gradients, as of clipping, is above those of the first steps.
            trial.steepness = _STEEP
            kinds += [trial.compared(*pair) for pair in _plain_pairs(inputs, examples, weighted)]
        except Exception:  # no batches of these inputs and labels can be made up
            return UNTRIED
    found = [kind for kind in kinds if kind]
    # One ratio may be large by chance.
    if trial.ratios and float(np.median(trial.ratios)) > _REPEATS / 2:
        return SUM
    return next((kind for kind in (SUM, OTHER, RANDOM, MEAN) if kind in found), UNTRIED)


def _pairs(
    model: keras.Model, inputs: Mapping[str, Any], examples: Sequence[Example], weighted: bool
) -> Iterator[tuple[_Batch, _Batch]]:
    """Yield pairs of batches: plain ones, and those where each label of the first may mean "no label"."""
    plain = list(_plain_pairs(inputs, examples, weighted))
    yield from plain
    dtypes = {example.label_dtype for example in examples}
    if dtypes:
        pads = paddings(model, sorted(dtypes)[-1])
        whole = all(np.dtype(dtype).kind != "f" for dtype in dtypes)
        # A class index that isn't one may fail, or be NaN: such labels are tried alone.
        groups = [[pad] for pad in pads[:_MOST_ALONE]] if whole else list(_by_magnitude(pads))
        for group in groups:
            x, y, *weights = plain[0][0]
            repeated = keras.tree.map_structure(
                lambda part, group=group: (
                    np.resize(np.array(group), len(part)).reshape(-1, *[1] * (part.ndim - 1)).astype(part.dtype)
                    + np.zeros_like(part)
                ),
                _enlarged(y, len(group)),
            )
            yield (_enlarged(x, len(group)), repeated, *_enlarged(weights, len(group))), plain[0][1]


def _enlarged(parts: Any, rows: int) -> Any:
    return keras.tree.map_structure(lambda part: np.resize(part, (rows, *part.shape[1:])), parts)


def _by_magnitude(pads: Iterable[float]) -> Iterator[list[float]]:
    """Group numbers of one magnitude; in a batch with much larger ones, the gradients of the others are lost."""
    groups: dict[float, list[float]] = {}
    for pad in pads:
        groups.setdefault(math.nan if math.isnan(pad) else math.floor(math.log10(abs(pad) + 1)), []).append(pad)
    yield from groups.values()


def _plain_pairs(
    inputs: Mapping[str, Any], examples: Sequence[Example], weighted: bool
) -> Iterator[tuple[_Batch, _Batch]]:
    kinds = ("numbers", "classes") if any("float" in example.label_dtype for example in examples) else ("classes",)
    for kind in kinds:
        first, second = (made_up_batch(inputs, examples, weighted, kind, rows, seed) for seed, rows in enumerate(_ROWS))
        yield first, second


class _Trial:
    """Steps of a model whose optimizers record gradients and apply none.

    Attributes:
        steepness: The factor by which gradients of the model's outputs are multiplied.
        ratios: Of random gradients, the size of those of repeated rows to that of those rows alone.
    """

    def __init__(self, model: keras.Model) -> None:
        self.steepness = 1.0
        self.ratios: list[float] = []
        self._model = model
        self._taken: list[np.ndarray] = []
        self._state = [(variable, np.array(variable)) for variable in model.non_trainable_variables]
        held = leaves([model.optimizer, *vars(model).values()])
        for optimizer in {id(o): o for o in held if isinstance(o, keras.optimizers.Optimizer)}.values():
            optimizer.apply = self._note
        self._call = model.call
        model.call = self._called

    def compared(self, first: _Batch, second: _Batch) -> str:
        """Return MEAN, SUM, OTHER, or RANDOM if the gradients of one batch differ.

        Returns "" if the steps fail or their gradients aren't finite.
        """
        try:
            one, other, both = (self._gradients(batch) for batch in (first, second, _joined(first, second)))
            if not np.isfinite([*one, *other, *both]).all() or not len(both):
                return ""
            if not (self._same(one, self._gradients(first)) and self._same(one, self._gradients(first, reseed=True))):
                few, many = (np.linalg.norm(g) for g in (one, self._gradients(_joined(*[first] * _REPEATS))))
                self.ratios += [float(many / few)] if few > 0 else []
                return RANDOM
        except Exception:
            return ""
        rows = [len(keras.tree.flatten(batch)[0]) for batch in (first, second)]
        if self._same(both, (rows[0] * one + rows[1] * other) / sum(rows)):
            return MEAN
        return SUM if self._same(both, one + other) else OTHER

    def _same(self, one: np.ndarray, other: np.ndarray) -> bool:
        size = max(np.linalg.norm(one), np.linalg.norm(other))
        return one.shape == other.shape and bool(np.linalg.norm(one - other) <= 1e-3 * size + 1e-7)

    def _gradients(self, batch: _Batch, reseed: bool = False) -> np.ndarray:
        self._taken = []
        if reseed:
            shift_seeds(seed_states(self._model), 1)
        try:
            given = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
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
    joined: _Batch = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    return joined
