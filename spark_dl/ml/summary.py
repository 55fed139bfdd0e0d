"""The training summary of a fitted model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spark_dl.log_values import scalar_history
from spark_dl.notebook.html import curve, table

__all__ = ["TrainingSummary", "summary_html"]


@dataclass(frozen=True)
class TrainingSummary:
    """Summary of a training.

    Attributes:
        history: The values of each metric per epoch, over all rows. A value is a list for a metric with one value per
            class.
        first_epoch: The first epoch of the history, from 0.
        rows: The number of training rows in an epoch.
        validation_rows: The number of validation rows.
        seconds: The duration of the training with validation, in seconds.
        rows_per_second: The throughput of the median epoch over all ranks, without validation.
        best_epoch: The best epoch by the monitored metric, from 0; -1 if there is none.
        non_finite: The path of the model's first variable with a value that is NaN or infinite; empty for none.
        unlogged: The entries that could not be logged: metrics of epochs, events, file names.
        run_id: The id of the fit's MLflow run; empty for none.
    """

    history: dict[str, list[Any]] = field(default_factory=dict)
    first_epoch: int = 0
    rows: int = 0
    validation_rows: int = 0
    seconds: float = 0.0
    rows_per_second: float = 0.0
    best_epoch: int = -1
    non_finite: str = ""
    unlogged: list[dict[str, Any]] = field(default_factory=list)
    run_id: str = ""

    def __str__(self) -> str:
        """Show the numbers and the last values of the metrics, a line each; all values are in `history`."""
        shown = {**_facts(self), **_last_values(self)}
        width = max(map(len, shown), default=0)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())

    def _repr_html_(self) -> str:
        return summary_html(self)


def summary_html(summary: TrainingSummary) -> str:
    """Show a training summary: its numbers, the last values of the metrics, and the loss over the epochs."""
    history = scalar_history(summary.history)
    if not history:
        return ""
    losses: dict[str, list[float]] = {name: history[name] for name in ("loss", "val_loss") if name in history}
    shown = table(_facts(summary), "Training") + table(_last_values(summary), "Last epoch")
    return shown + curve(losses, "loss over the epochs")


def _facts(summary: TrainingSummary) -> dict[str, object]:
    history = scalar_history(summary.history)
    facts: dict[str, object] = {
        "epochs": summary.first_epoch + max(map(len, history.values()), default=0),
        "best epoch": summary.best_epoch + 1 if summary.best_epoch >= 0 else "",
        "rows": f"{summary.rows:,}",
        "validation rows": f"{summary.validation_rows:,}",
        "seconds": f"{summary.seconds:.1f}",
        "rows per second": f"{summary.rows_per_second:,.0f}",
        "weights that aren't finite": summary.non_finite,
        "MLflow run": summary.run_id,
        "entries not logged": len(summary.unlogged) or "",
    }
    return {name: fact for name, fact in facts.items() if fact != ""}


def _last_values(summary: TrainingSummary) -> dict[str, str]:
    return {name: f"{values[-1]:.4f}" for name, values in scalar_history(summary.history).items() if values}
