"""Step logs, joined over ranks as the logs of the global batch; and which callbacks read them at each step.

A Keras step returns either the results of the model's metrics, whose states are joined, or plain tensors of the last
batch. The latter are averaged over the ranks, weighted by the rows of that batch: for a mean over rows, the result is
what one process would return for the global batch.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from spark_dl.collectives import Collectives
from spark_dl.log_values import plain_logs
from spark_dl.train.model.parts import leaves

__all__ = [
    "TEST_HOOKS",
    "TRAIN_HOOKS",
    "equal_result",
    "has_hook",
    "join_logs",
    "never_updated",
    "read_logs",
    "results_of",
]

TRAIN_HOOKS = ("on_train_batch_end", "on_batch_end")
TEST_HOOKS = ("on_test_batch_end",)
# With "epoch" in one of these attributes, Keras's callbacks don't read the logs of a step.
_FREQUENCIES = ("save_freq", "update_freq")


def has_hook(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Return whether a callback has its own method for a step, which does something at each step."""
    method = getattr(callback, hook, None)
    inherited = method is None or getattr(method, "__func__", None) is getattr(keras.callbacks.Callback, hook)
    return not inherited and not any(getattr(callback, name, None) == "epoch" for name in _FREQUENCIES)


def read_logs(callbacks: Iterable[keras.callbacks.Callback], hooks: Iterable[str]) -> bool:
    """Return whether one of the callbacks reads the `logs` argument of these hooks."""
    methods = [getattr(callback, hook) for callback in callbacks for hook in hooks if has_hook(callback, hook)]
    return any(map(_uses_logs, methods))


def _uses_logs(method: Any) -> bool:
    """Return whether a hook reads its argument `logs`; True if this is unknown."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    if code is None:
        return True
    position = 2 if inspect.ismethod(method) else 1
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS) or len(named) <= position:
        return True
    logs = "logs" if "logs" in named else named[position]
    loaded: list[Any] = []
    for instruction in dis.get_instructions(code):
        # Some instructions load or store two variables; STORE_FAST_LOAD_FAST loads the second only.
        several = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        if instruction.opname.startswith("LOAD_"):
            loaded += several
        elif instruction.opname == "STORE_FAST_LOAD_FAST":
            loaded.append(several[-1])
    # A call of `locals` may read any variable.
    return logs in loaded or "locals" in loaded


def results_of(model: keras.Model) -> dict[str, Any]:
    """Return the current results of the model's metrics as logs; a metric that returns a dict has one entry per key."""
    return plain_logs(model.get_metrics_result())


def join_logs(
    model: keras.Model,
    logs: Mapping[str, Any],
    results: Mapping[str, Any],
    join_metrics: Callable[[], Mapping[str, Any]],
    rows: float,
    collectives: Collectives,
) -> dict[str, Any]:
    """Join the logs of one step over the ranks, as one process would log them for the global batch.

    Args:
        model: The model, whose metric states are joined here.
        logs: The logs of this rank's last step.
        results: The results of this rank's metrics before they are joined.
        join_metrics: The function that joins the metric states over ranks and returns their results.
        rows: The number of rows of this rank in its last step.
        collectives: The collectives of this rank's World.
    """
    joined = join_metrics()
    if not logs:
        return dict(joined)
    untouched = never_updated(model)
    if logs.keys() == results.keys():
        # Metric results count as in Keras. A metric that a custom step never updates would log a meaningless 0.0.
        plain = [name for name in logs if name in untouched]
        if not plain:
            return dict(joined)
        return {**joined, **_weighted({name: logs[name] for name in plain}, {}, rows, collectives)[0]}
    found, same = _weighted(logs, results, rows, collectives)
    return {name: joined[same[name]] if name in same else value for name, value in found.items()}


def never_updated(model: keras.Model) -> set[str]:
    """Return the names of mean metrics that were updated on no rank, once the states are joined."""
    metrics = [leaf for held in model.metrics for leaf in leaves(getattr(held, "metrics", [held]))]
    means = [metric for metric in metrics if isinstance(metric, keras.metrics.Mean)]
    return {metric.name for metric in means if float(np.asarray(metric.count)) == 0}


def equal_result(name: str, value: Any, results: Mapping[str, Any]) -> str:
    """Return the name of the metric whose result a log is, which may have another name; "" for none."""
    names = [name, *sorted(results)] if np.ndim(value) == 0 else [name]
    return next((metric for metric in names if metric in results and _same(value, results[metric])), "")


def _weighted(
    logs: Mapping[str, Any], results: Mapping[str, Any], rows: float, collectives: Collectives
) -> tuple[dict[str, Any], dict[str, str]]:
    """Average the logs over the ranks, and find the logs that equal a metric's result on all ranks.

    Returns:
        The averaged logs, and the metric's name by the log's name.
    """
    names = sorted(name for name, value in logs.items() if isinstance(value, (int, float)))
    # A metric of the same name takes precedence.
    pairs = [(name, metric) for name in names for metric in [name, *sorted(results)] if metric in results]
    # Metrics with one value per class are matched by name.
    pairs += [(name, name) for name, value in sorted(logs.items()) if np.ndim(value) and name in results]
    # A rank without rows logs the result of a row of zeros, which doesn't count.
    equal = [float(rows == 0 or _same(logs[name], results[metric])) for name, metric in pairs]
    products = [rows * logs[name] if rows else 0.0 for name in names]
    total = collectives.sum(np.array([rows, *products, *equal], np.float64), "spark_dl.step_logs")
    all_rows, sums, votes = np.split(total, [1, 1 + len(names)])
    same: dict[str, str] = {}
    for (name, metric), vote in zip(pairs, votes, strict=True):
        if vote == collectives.world.size:
            same.setdefault(name, metric)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = dict(zip(names, (sums / all_rows).tolist(), strict=True))
    return {**logs, **means}, same


def _same(one: Any, other: Any) -> bool:
    alike = np.shape(one) == np.shape(other)
    return alike and bool(np.allclose(one, other, rtol=1e-5, atol=1e-8, equal_nan=True))
