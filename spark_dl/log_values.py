"""Conversion of metric values: numbers, and lists of numbers for metrics with one value per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["plain_history", "plain_logs", "plain_value", "scalar_history", "scalars"]


def plain_value(value: Any) -> float | list[Any]:
    """Convert a metric's value for JSON: a number, or a nested list of numbers for an array of several.

    >>> plain_value(np.float32(0.5)), plain_value(np.array([[1, 2]]))
    (0.5, [[1.0, 2.0]])
    """
    array = np.asarray(value, np.float64)
    if array.size == 1:
        return float(array.reshape(()))
    numbers: list[Any] = array.tolist()
    return numbers


def plain_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Convert logs as Keras does for callbacks: nested dicts are flattened, values are numbers or NumPy arrays."""
    result: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, Mapping):
            result.update(plain_logs(value))
        else:
            array = np.asarray(value)
            result[name] = float(array.reshape(())) if array.size == 1 else array
    return result


def plain_history(history: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Convert a Keras history for JSON."""
    return {name: [plain_value(value) for value in values] for name, values in history.items()}


def scalars(logs: Mapping[str, Any]) -> dict[str, float]:
    """Flatten logs to one number per name; the numbers of an array get its name and their index.

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
    """Flatten a history to one number per name and epoch, as `scalars` does for logs."""
    longest = max(map(len, history.values()), default=0)
    result: dict[str, list[float]] = {}
    for epoch in range(longest):
        for name, value in scalars({n: values[epoch] for n, values in history.items() if epoch < len(values)}).items():
            result.setdefault(name, []).append(value)
    return result
