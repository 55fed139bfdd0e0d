"""Metric states over ranks or tasks: each process's states are joined to those of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import copied_value
from spark_dl.collectives import Collectives
from spark_dl.train.metrics.joins import MERGE, RULES, MetricJoin, copy_of, leaf_metrics, user_metrics

__all__ = ["MetricStates", "assign_states"]


class MetricStates:
    """Metric states of a model, and how they are joined.

    Args:
        model: The compiled Keras model.
        joins: The join rules of its custom metrics.
    """

    def __init__(self, model: keras.Model, joins: Sequence[MetricJoin]) -> None:
        self._model = model
        self._joins = joins
        self._initial: dict[int, np.ndarray] = {}

    def begin(self) -> None:
        """Record the states before any row, which needn't be 0."""
        made = [thing for thing in user_metrics(self._model) if isinstance(thing, keras.Metric)]
        variables = [variable for metric in (*made, *leaf_metrics(self._model)) for variable in metric.variables]
        self._initial = {id(variable): copied_value(variable) for variable in variables}

    def over_ranks(self, collectives: Collectives, name: str) -> list[np.ndarray]:
        """Return the states of all ranks' rows, in the order of `metrics_variables`; the metrics are unchanged."""
        mine = [np.asarray(variable) for variable in self._model.metrics_variables]
        if not mine or collectives.world.size == 1:
            return mine
        flat = np.concatenate([state.astype(np.float64).ravel() for state in mine])
        if all(set(join.rules) <= {"sum"} for join in self._joins):
            initial = np.concatenate([state.astype(np.float64).ravel() for state in self._all_initial()])
            total = initial + collectives.sum(flat - initial, name)
            parts = np.split(total, np.cumsum([state.size for state in mine])[:-1])
            return [part.reshape(state.shape) for part, state in zip(parts, mine, strict=True)]
        table = np.zeros((collectives.world.size, len(flat)))
        table[collectives.world.rank] = flat
        return self.joined(collectives.sum(table.ravel(), name).reshape(table.shape))

    def joined(self, table: np.ndarray) -> list[np.ndarray]:
        """Join the states of several processes, in the order of `metrics_variables`.

        Args:
            table: The concatenated states of each process, float64 (processes, numbers).
        """
        found: dict[int, np.ndarray] = {}
        ends = np.cumsum([int(np.prod(variable.shape)) for variable in self._model.metrics_variables])
        variables, parts = self._model.metrics_variables, np.split(table, ends[:-1], axis=1)
        states = {
            id(variable): part.reshape(len(table), *variable.shape)
            for variable, part in zip(variables, parts, strict=True)
        }
        if len(table) == 1:
            return [states[id(variable)][0] for variable in variables]
        initial = dict(zip(map(id, variables), self._all_initial(), strict=True))
        for metric in leaf_metrics(self._model):
            rules = self._rules_of(metric)
            if rules == (MERGE,):
                found |= _merged(metric, states)
                continue
            for index, variable in enumerate(metric.variables):
                rule = RULES[rules[index] if index < len(rules) and rules[index] else "sum"]
                found[id(variable)] = rule(initial[id(variable)], states[id(variable)])
        return [found[id(variable)] for variable in variables]

    def _rules_of(self, metric: keras.Metric) -> tuple[str, ...]:
        own = [join.rules for join in self._joins if join.thing is metric]
        # Keras creates the metric itself if a class or a name was compiled.
        alike = [join.rules for join in self._joins if join.kind is type(metric)]
        return next(iter([*own, *alike]), ())

    def _all_initial(self) -> list[np.ndarray]:
        """Return the states before any row; for variables created since, the states after a reset."""
        reset: dict[int, Any] = {}
        for metric in leaf_metrics(self._model):
            if any(id(variable) not in self._initial for variable in metric.variables):
                reset |= dict(zip(map(id, metric.variables), metric.stateless_reset_state(), strict=True))
        return [
            np.asarray(self._initial.get(id(variable), reset.get(id(variable)))).astype(np.float64)
            for variable in self._model.metrics_variables
        ]


def assign_states(model: keras.Model, states: Sequence[Any]) -> None:
    """Set the metrics' states, in the order of `metrics_variables`."""
    for variable, state in zip(model.metrics_variables, states, strict=True):
        variable.assign(np.reshape(state, variable.shape).astype(str(variable.dtype)))


def _merged(metric: keras.Metric, states: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Join a metric's states by its `merge_state`, with one copy of the metric per process."""
    copies = []
    for process in range(len(states[id(metric.variables[0])])):
        copy = copy_of(metric)
        for variable, source in zip(copy.variables, metric.variables, strict=True):
            variable.assign(states[id(source)][process].astype(str(variable.dtype)))
        copies.append(copy)
    copies[0].merge_state(copies[1:])
    return {id(source): np.asarray(v) for source, v in zip(metric.variables, copies[0].variables, strict=True)}
