"""Reports of the Keras fits in a function that knows nothing of them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["reporting_fits"]


def reporting_fits(function: Callable[..., Any], arguments: Sequence[Any], rank: Any) -> Any:
    """Call a function; on rank 0 each epoch of each `keras.Model.fit` in it is reported.

    Args:
        function: one's own.
        arguments: what it is called with.
        rank: a `world.Rank`.
    """
    if rank.world.is_leader:
        _report_fits(rank.report)
    return function(*arguments)


def _report_fits(report: Callable[[dict[str, Any]], None]) -> None:
    """Give each fit of this process, which is the rank's own and ends with it, one more callback."""
    import keras

    class Reports(keras.callbacks.Callback):
        def __init__(self, fit: int) -> None:
            super().__init__()
            self._fit = fit

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            numbers: dict[str, Any] = {}
            for name, value in (logs or {}).items():
                with contextlib.suppress(TypeError, ValueError):  # words of other callbacks
                    numbers[name] = np.asarray(value, float).tolist()  # a list of a vector
            report({"fit": self._fit, "epoch": epoch, "logs": numbers})

    original, count = keras.Model.fit, itertools.count(1)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fit(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments.get("callbacks")
        reports = Reports(next(count))
        if isinstance(given, keras.callbacks.CallbackList):
            given.append(reports)
        else:
            several = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
            bound.arguments["callbacks"] = [*several, reports]
        return original(*bound.args, **bound.kwargs)

    keras.Model.fit = fit
