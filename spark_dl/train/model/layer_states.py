"""Rules that join the states of the user's layers over ranks, found by running a copy of the model.

A layer may keep more than moving averages: a maximum, a count, a table. Each state is joined by the rule that gives the
state of one process with the joined batches, if there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers, copied_value, is_seed, own_variables
from spark_dl.train.metrics.joins import RULES
from spark_dl.train.model.batch_dependence import forward, joined_features, quiet
from spark_dl.train.model.examples import features_of
from spark_dl.train.model.parts import is_keras
from spark_dl.train.model.step_trial import make_deterministic

__all__ = ["AVERAGE", "StateJoin", "may_keep_states", "state_joins"]

AVERAGE = "mean"
_ROWS = 3
# Repetitions of a batch after which a sum is tried once more: it may have an upper limit, or start again.
_MANY = 10_000


@dataclass(frozen=True)
class StateJoin:
    """Join rule of one state of a layer.

    Attributes:
        index: The index of the variable in the model's `non_trainable_variables`.
        name: The variable's path, for messages.
        rule: AVERAGE, or a name in `RULES`; "" if no rule gives the state of one process.
        used: Whether the layer's outputs in training depend on the state.
    """

    index: int
    name: str
    rule: str
    used: bool = False


def _own_states(model: keras.Model) -> Iterator[tuple[int, Any]]:
    """Yield the states that layers other than Keras's keep, with their indices."""
    own = {
        id(variable)
        for layer in all_layers(model)
        if not is_keras(type(layer))
        for variable in own_variables(layer)
        if not is_seed(variable)
    }
    for index, variable in enumerate(model.non_trainable_variables):
        if id(variable) in own:
            yield index, variable


def may_keep_states(model: keras.Model) -> bool:
    """Return whether layers other than Keras's keep variables that aren't trained."""
    return next(_own_states(model), None) is not None


def state_joins(
    model: keras.Model, inputs: Mapping[str, tuple[tuple[int, ...], str]]
) -> tuple[tuple[StateJoin, ...], bool]:
    """Find the join rules of the states that layers change in training.

    Args:
        model: A copy of the built model that isn't used elsewhere.
        inputs: The shape of one row and the dtype, by the input's name.

    Returns:
        The rules, and whether the model could be run; if not, there are none.
    """
    indices = {id(variable): index for index, variable in enumerate(model.non_trainable_variables)}
    make_deterministic(model)  # changes which variables are trained, and so their indices
    kept = [(index, variable) for index, variable in _own_states(model) if id(variable) in indices]
    initial = _states(model)
    with quiet():
        try:
            one, other = ([features_of(inputs, _ROWS, seed + step) for step in (0, 2)] for seed in (0, 1))
            both = [joined_features(*pair) for pair in zip(one, other, strict=True)]
            first, second, whole = (_after(model, initial, batches) for batches in (one, other, both))
            used = not _alike(_outputs(model, first, one[0]), _outputs(model, initial, one[0]))
        except Exception:
            return (), False
    found = []
    for index, variable in kept:
        parts = np.stack([states[index].astype(np.float64) for states in (first, second)])
        if not all(_alike(states[index], initial[index]) for states in (first, second, whole)):
            rule = _rule(initial[index], parts, whole[index])
            if rule == "sum" and _is_limited(model, index, (initial, first, second), other):
                rule = ""
            found.append(StateJoin(indices[id(variable)], variable.path, rule, used))
    return tuple(found), True


def _rule(initial: np.ndarray, parts: np.ndarray, whole: np.ndarray) -> str:
    if _alike(parts.mean(axis=0), whole):
        return AVERAGE
    return next((name for name, rule in RULES.items() if _alike(rule(initial.astype(np.float64), parts), whole)), "")


def _is_limited(model: keras.Model, index: int, known: Sequence[list[np.ndarray]], batches: list[Any]) -> bool:
    """Return whether a sum changes otherwise after many rows than after few.

    Args:
        model: The model, whose states are the initial ones.
        index: The index of the state.
        known: The initial states, and those after two lists of batches.
        batches: The second list of batches.
    """
    initial, first, second = known
    many = list(first)
    many[index] = initial[index] + (first[index] - initial[index]) * _MANY
    try:
        later = _after(model, many, batches)
    finally:
        _assign(model, initial)
    change, expected = later[index] - many[index], second[index] - initial[index]
    return not np.allclose(change.astype(np.float64), expected.astype(np.float64), rtol=0.1, atol=1e-6)


def _states(model: keras.Model) -> list[np.ndarray]:
    return [copied_value(variable) for variable in model.non_trainable_variables]


def _assign(model: keras.Model, states: list[np.ndarray]) -> None:
    for variable, state in zip(model.non_trainable_variables, states, strict=True):
        variable.assign(state)


def _after(model: keras.Model, initial: list[np.ndarray], batches: list[Any]) -> list[np.ndarray]:
    """Return the states after training steps on the batches."""
    states = initial
    for batch in batches:
        _assign(model, states)
        states = [np.asarray(state) for state in forward(model, batch, training=True).states]
    _assign(model, initial)
    return states


def _outputs(model: keras.Model, states: list[np.ndarray], batch: Any) -> np.ndarray:
    _assign(model, states)
    outputs = keras.tree.flatten(forward(model, batch, training=True).outputs)
    return np.concatenate([np.asarray(output, np.float64).ravel() for output in outputs])


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
