"""The metric that decides which epoch is best: whether it exists, and whether lower or higher values are better."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from spark_dl._compat.keras import best_direction
from spark_dl.errors import explain, hint
from spark_dl.train.metrics.joins import leaf_metrics

__all__ = ["mode_of", "no_best_epoch", "no_direction", "unknown_monitor"]


def mode_of(model: keras.Model, monitor: str) -> str:
    """Return "min" or "max" by the metric's own direction, as in Keras's EarlyStopping; "" if it has none.

    Args:
        model: The compiled model, with built metrics.
        monitor: The name in the logs; with several outputs, names of metrics and losses begin with the output's.
    """
    name = monitor.removeprefix("val_")
    metrics = {metric.name: metric for metric in leaf_metrics(model)}
    # An output's loss is a Mean, which has no direction.
    if name == "loss" or (name.endswith("_loss") and type(metrics.get(name)) in (type(None), keras.metrics.Mean)):
        return "min"
    of_output = [one for one in sorted(metrics, key=len) if name.endswith(f"_{one}")]
    found = metrics.get(name) or (metrics[of_output[-1]] if of_output else None)
    return {"up": "max", "down": "min"}.get(best_direction(found) or "", "")


def unknown_monitor(monitor: str, names: Iterable[str]) -> str:
    """Return the error message for a metric that isn't in the logs."""
    return explain(
        f"The best epoch can't be determined by monitor={monitor!r}.",
        expected="a metric that the model reports",
        received=", ".join(names),
        fix=hint(monitor, list(names)),
    )


def no_direction(monitor: str) -> str:
    """Return the error message for a metric without a known direction."""
    return explain(
        f"It is unknown whether monitor={monitor!r} is better when lower or higher.",
        expected="monitorMode='min' or monitorMode='max'",
        received="monitorMode='auto', and a metric without a known direction",
        fix="Set monitorMode.",
    )


def no_best_epoch(monitor: str, values: int) -> str:
    """Return the error message for a monitored metric with several values per epoch."""
    return explain(
        f"The best epoch can't be determined by monitor={monitor!r}: it has a value for each class or threshold.",
        expected="a metric with one value per epoch, such as F1Score(average='macro')",
        received=f"{values} values per epoch",
        fix="Set monitor to another metric, or leave restoreBestWeights off.",
    )
