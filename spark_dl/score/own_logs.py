"""Values that a model's own test step or compute_metrics returns, joined over the tasks of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spark_dl.log_values import plain_logs

__all__ = ["LOG", "OwnLogs", "joined_logs"]

# The kind of a task's record of one value.
LOG = "log"


class OwnLogs:
    """Values that the steps of one task return.

    Args:
        model: The compiled Keras model.
    """

    def __init__(self, model: Any) -> None:
        import keras

        self._model = model
        # What compute_metrics derives from metrics is of all batches so far; what a test step returns, of one batch.
        self._of_all = type(model).test_step is keras.Model.test_step
        self._rows = 0
        self._last: dict[str, Any] = {}
        self._sums: dict[str, np.ndarray] = {}

    def add(self, logs: Mapping[str, Any], rows: int) -> None:
        """Add what the step of a batch of so many rows has returned."""
        self._last = plain_logs(logs)
        self._rows += rows
        for name, value in self._last.items():
            weighted = np.asarray(value, np.float64).ravel() * (self._rows if self._of_all else rows)
            self._sums[name] = weighted if self._of_all or name not in self._sums else self._sums[name] + weighted

    def records(self) -> list[dict[str, Any]]:
        """Return a record for each value: its sum over rows, and the metric whose result it is, or ""."""
        from spark_dl.train.metrics.step_logs import equal_result, results_of

        results = results_of(self._model)
        return [
            {
                "kind": LOG,
                "name": name,
                "detail": equal_result(name, self._last[name], results),
                "rows": self._rows,
                "states": total,
            }
            for name, total in self._sums.items()
        ]


def joined_logs(model: Any, results: Mapping[str, Any], records: Sequence[Any]) -> dict[str, Any]:
    """Return the values of all tasks: results of metrics, and means over rows.

    Args:
        model: The model with the joined states of all tasks.
        results: The results of its metrics.
        records: The records of all tasks; without any, the metrics are all there is.
    """
    from spark_dl.train.metrics.step_logs import never_updated

    untouched = never_updated(model) if records else set()
    found: dict[str, Any] = {} if records else dict(results)
    for name in dict.fromkeys(record["name"] for record in records):
        parts = [record for record in records if record["name"] == name]
        metrics = {record["detail"] for record in parts} - untouched
        if len(metrics) == 1 and (metric := metrics.pop()):
            found[name] = results[metric]
        else:
            sums = np.sum([record["states"] for record in parts], axis=0)
            found[name] = sums / sum(record["rows"] for record in parts)
    return found
