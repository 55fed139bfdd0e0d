"""Progress reports of `keras.Model.fit` calls in a custom function, which needs no code for them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spark_dl.wire import encode
from spark_dl.world import Rank

__all__ = ["FitReport", "reporting_fits"]


@dataclass(frozen=True)
class FitReport:
    """A finished epoch of a `keras.Model.fit` call.

    Attributes:
        fit: The number of the call, from 1.
        epoch: The epoch, from 0.
        logs: The epoch's metrics: numbers, or lists of numbers.
    """

    fit: int
    epoch: int
    logs: dict[str, Any]


def reporting_fits(function: Callable[..., Any], arguments: Sequence[Any], rank: Rank) -> Any:
    """Call a function; on rank 0, report each epoch of each `keras.Model.fit` in it.

    Args:
        function: The function to call.
        arguments: The positional arguments of the function.
        rank: This rank.

    Returns:
        The function's return value.
    """
    if rank.world.is_leader:
        _report_fits(rank.report)
    return function(*arguments)


def _report_fits(report: Callable[[dict[str, Any]], None]) -> None:
    """Patch `keras.Model.fit` to add a reporting callback; the process belongs to the rank and ends with it."""
    import keras

    class Reports(keras.callbacks.Callback):
        def __init__(self, fit: int) -> None:
            super().__init__()
            self._fit = fit

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            numbers: dict[str, Any] = {}
            for name, value in (logs or {}).items():
                with contextlib.suppress(TypeError, ValueError):  # other callbacks may log text
                    numbers[name] = np.asarray(value, float).tolist()  # vectors become lists
            report(encode(FitReport(self._fit, epoch, numbers)))

    original, count = keras.Model.fit, itertools.count(1)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fit(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        callbacks = bound.arguments.get("callbacks")
        reports = Reports(next(count))
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(reports)
        else:
            several = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
            bound.arguments["callbacks"] = [*several, reports]
        return original(*bound.args, **bound.kwargs)

    keras.Model.fit = fit
