"""States of layers that aren't trained, such as moving statistics, joined over ranks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import copied_value
from spark_dl.collectives import Collectives
from spark_dl.train.metrics.joins import RULES

__all__ = ["MovingStates"]


class MovingStates:
    """Join of the non-trainable variables: their mean over the ranks, or what a rule gives.

    Args:
        collectives: The collectives of this rank's World.
        rules: The names of rules in `RULES`, by the variable's index in `non_trainable_variables` when training begins;
            all other variables become their mean if they have floats.
    """

    def __init__(self, collectives: Collectives, rules: Mapping[int, str]) -> None:
        self._collectives = collectives
        self._rules = {index: rule for index, rule in sorted(rules.items()) if rule in RULES}
        # Variables and not indices, as a callback may change which variables are trained.
        self._ruled: dict[int, Any] = {}
        self._seen: list[int] = []
        self._before: dict[int, np.ndarray] = {}

    def begin(self, model: keras.Model) -> None:
        """Record the states when training begins, which all ranks have in common."""
        variables = model.non_trainable_variables
        self._ruled = {index: variables[index] for index in self._rules}
        self._record(model)

    def variables(self, model: keras.Model) -> list[Any]:
        """Return the variables that are joined."""
        floats = [variable for variable in model.non_trainable_variables if "float" in str(variable.dtype)]
        return list({id(variable): variable for variable in [*floats, *self._ruled.values()]}.values())

    def begin_changes(self) -> None:
        """Record the states that sums of changes start from; callbacks may have set them since the last join."""
        self._before = {index: copied_value(variable).astype(np.float64) for index, variable in self._ruled.items()}

    def join(self, model: keras.Model) -> None:
        """Replace the states that changed on any rank by the joined ones."""
        moving = self.variables(model)
        digests = [_digest(variable) for variable in moving]
        moved = np.array([float(a != b) for a, b in zip(digests, self._seen, strict=True)])
        # Frozen layers may be most of a model: statistics that changed on no rank aren't sent.
        moved = self._collectives.sum(moved, "spark_dl.moved") if len(moved) else moved
        changed = {id(variable): variable for variable, ranks in zip(moving, moved, strict=True) if ranks}
        ruled = {index: changed.pop(id(one)) for index, one in self._ruled.items() if id(one) in changed}
        self._average(list(changed.values()))
        self._apply_rules(ruled)
        self._record(model)

    def _record(self, model: keras.Model) -> None:
        self._seen = [_digest(variable) for variable in self.variables(model)]
        self.begin_changes()

    def _average(self, variables: list[Any]) -> None:
        if variables:
            flat = np.concatenate([np.asarray(variable, np.float64).ravel() for variable in variables])
            _assign(variables, self._collectives.sum(flat, "spark_dl.moving") / self._collectives.world.size)

    def _apply_rules(self, ruled: Mapping[int, Any]) -> None:
        if not ruled:
            return
        world = self._collectives.world
        flat = np.concatenate([np.asarray(variable, np.float64).ravel() for variable in ruled.values()])
        table = np.zeros((world.size, len(flat)))
        table[world.rank] = flat
        table = self._collectives.sum(table.ravel(), "spark_dl.states").reshape(table.shape)
        parts = np.split(table, np.cumsum([self._before[index].size for index in ruled])[:-1], axis=1)
        joined = [
            RULES[self._rules[index]](self._before[index].ravel(), part)
            for index, part in zip(ruled, parts, strict=True)
        ]
        _assign(ruled.values(), np.concatenate(joined))


def _assign(variables: Iterable[Any], flat: np.ndarray) -> None:
    for variable in variables:
        value = np.asarray(variable)
        part, flat = flat[: value.size], flat[value.size :]
        variable.assign(part.reshape(value.shape).astype(value.dtype))


def _digest(variable: Any) -> int:
    return zlib.crc32(np.asarray(variable).tobytes())
