"""Rules that join the states of the user's layers over ranks, found by running a copy of the model.

A layer may keep more than moving averages: a maximum, a count, a table. Each state is joined by the rule that gives the
state of one process with the global batches, if there is one.
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
# First seeds of the synthetic rows of each trial. A state with few values fits a rule by chance in some of them.
_SEEDS = (0, 4)
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
            trials = [_tried(model, initial, inputs, seed) for seed in _SEEDS]
            batch = trials[0].batches[0]
            used = not _alike(_outputs(model, trials[0].first, batch), _outputs(model, initial, batch))
        except Exception:
            return (), False
    found = []
    for index, variable in kept:
        if any(trial.changes(initial, index) for trial in trials):
            rule = _rule(initial[index], [trial.of(index) for trial in trials])
            if rule == "sum" and _is_limited(model, index, initial, trials[0]):
                rule = ""
            found.append(StateJoin(indices[id(variable)], variable.path, rule, used))
    return tuple(found), True


@dataclass(frozen=True)
class _Trial:
    """States after training steps on some batches, on others, and on both joined.

    Attributes:
        first: The states after the first batches.
        second: The states after the second batches.
        whole: The states after the global batches.
        batches: The second batches.
    """

    first: list[np.ndarray]
    second: list[np.ndarray]
    whole: list[np.ndarray]
    batches: list[Any]

    def of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the parts of a state, stacked, and the state of the global batches."""
        return np.stack([states[index].astype(np.float64) for states in (self.first, self.second)]), self.whole[index]

    def changes(self, initial: list[np.ndarray], index: int) -> bool:
        return not all(_alike(states[index], initial[index]) for states in (self.first, self.second, self.whole))


def _tried(
    model: keras.Model, initial: list[np.ndarray], inputs: Mapping[str, tuple[tuple[int, ...], str]], seed: int
) -> _Trial:
    one, other = ([features_of(inputs, _ROWS, seed + rank + step) for step in (0, 2)] for rank in (0, 1))
    both = [joined_features(*pair) for pair in zip(one, other, strict=True)]
    first, second, whole = (_after(model, initial, batches) for batches in (one, other, both))
    return _Trial(first, second, whole, other)


def _rule(initial: np.ndarray, trials: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """Return the first rule that fits all trials: one alone may be fitted by chance."""
    start = initial.astype(np.float64)
    rules = {AVERAGE: lambda _, parts: parts.mean(axis=0), **RULES}
    for name, rule in rules.items():
        if all(_alike(rule(start, parts), whole) for parts, whole in trials):
            return name
    return ""


def _is_limited(model: keras.Model, index: int, initial: list[np.ndarray], trial: _Trial) -> bool:
    """Return whether a sum changes otherwise after many rows than after few.

    Args:
        model: The model, whose states are the initial ones.
        index: The index of the state.
        initial: The initial states.
        trial: The states after two lists of batches.
    """
    many = list(trial.first)
    many[index] = initial[index] + (trial.first[index] - initial[index]) * _MANY
    try:
        later = _after(model, many, trial.batches)
    finally:
        _assign(model, initial)
    change, expected = later[index] - many[index], trial.second[index] - initial[index]
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
