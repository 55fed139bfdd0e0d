"""Values of metrics as they are kept and told: numbers, and lists of numbers where a metric has one for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["plain_history", "plain_logs", "plain_value", "scalar_history", "scalars"]


def plain_value(value: Any) -> float | list[Any]:
    """A metric's value as JSON has it: a number, or a nested list of numbers for an array of several.

    >>> plain_value(np.float32(0.5)), plain_value(np.array([[1, 2]]))
    (0.5, [[1.0, 2.0]])
    """
    array = np.asarray(value, np.float64)
    if array.size == 1:
        return float(array.reshape(()))
    numbers: list[Any] = array.tolist()
    return numbers


def plain_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """A metric's logs as Keras hands them to callbacks: dicts within are flattened; numbers, or NumPy arrays."""
    result: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, Mapping):
            result.update(plain_logs(value))
        else:
            array = np.asarray(value)
            result[name] = float(array.reshape(())) if array.size == 1 else array
    return result


def plain_history(history: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """A Keras history as JSON has it."""
    return {name: [plain_value(value) for value in values] for name, values in history.items()}


def scalars(logs: Mapping[str, Any]) -> dict[str, float]:
    """Each number under a name of its own, for what holds only numbers: those of an array by their index.

    >>> scalars({"loss": 0.5, "f1_score": [0.25, 0.75]})
    {'loss': 0.5, 'f1_score_0': 0.25, 'f1_score_1': 0.75}
    """
    result: dict[str, float] = {}
    for name, value in logs.items():
        array = np.asarray(value, np.float64)
        if array.size == 1:
            result[name] = float(array.reshape(()))
            continue
        for index in np.ndindex(array.shape):
            parts = [name, *map(str, index)]
            own = "_".join(parts)
            # Keras numbers metrics of the same name in the same way.
            result["/".join(parts) if own in logs else own] = float(array[index])
    return result


def scalar_history(history: Mapping[str, Sequence[Any]]) -> dict[str, list[float]]:
    """A history of numbers: one whose metrics have several values an epoch has each under a name of its own."""
    longest = max(map(len, history.values()), default=0)
    result: dict[str, list[float]] = {}
    for epoch in range(longest):
        for name, value in scalars({n: values[epoch] for n, values in history.items() if epoch < len(values)}).items():
            result.setdefault(name, []).append(value)
    return result
