"""Detection of losses and weights that are NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from spark_dl.train.reports import TrainReporter, WarningReport

__all__ = ["WatchFinite", "first_not_finite", "losses_not_finite"]


class WatchFinite(keras.callbacks.Callback):
    """Callback that reports a warning when a loss is NaN or infinite for the first time.

    Args:
        report: The function that sends reports to the driver; called on rank 0.
    """

    def __init__(self, report: TrainReporter) -> None:
        super().__init__()
        self._report = report
        self._reported: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report each loss that isn't finite, once."""
        found = {name: value for name, value in losses_not_finite(logs or {}).items() if name not in self._reported}
        if found:
            self._reported |= found.keys()
            values = ", ".join(f"{name} is {value}" for name, value in found.items())
            variable = first_not_finite(self.model)
            where = f" The variable {variable} is the first that isn't finite." if variable else ""
            text = (
                f"At the end of epoch {epoch + 1}: {values}.{where} Lower the learning rate, clip the gradients "
                "(clipnorm), or look for values in the columns that are too large."
            )
            self._report(WarningReport(text))


def losses_not_finite(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the losses of an epoch, for training and validation, that are NaN or infinite, by their names in the logs.

    Args:
        logs: The logs of the epoch; only losses are checked.
    """
    losses = {name: float(value) for name, value in logs.items() if name.endswith("loss") and np.ndim(value) == 0}
    return {name: value for name, value in losses.items() if not math.isfinite(value)}


def first_not_finite(model: keras.Model) -> str:
    """Return the path of the model's first variable with a NaN or infinite value; empty if there is none."""
    for variable in model.weights:  # `variables` would include metric states
        if "float" in str(variable.dtype) and not bool(keras.ops.all(keras.ops.isfinite(variable))):
            return str(variable.path)
    return ""
