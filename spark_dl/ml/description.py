"""The name and the description of a fit in its tracker: result first, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spark_dl.log_values import scalar_history
from spark_dl.ml.summary import TrainingSummary

__all__ = ["run_text", "run_title"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_LONGEST = 40


def run_title(estimator: str, rows: int) -> str:
    """Name a fit by its estimator and the number of training rows."""
    return f"{estimator}, {rows:,} rows"


def run_text(estimator: str, model: str, workers: int, summary: TrainingSummary) -> str:
    """Describe the result of a fit: its size, and the metrics of the last and of the best epoch.

    Args:
        estimator: The class of the estimator.
        model: The name of the Keras model.
        workers: The number of workers.
        summary: The training summary.
    """
    history = {name: values for name, values in scalar_history(summary.history).items() if values}
    epochs = max(map(len, history.values()), default=0)
    size = f"{summary.rows:,} rows, {workers} worker{'s' if workers > 1 else ''}, {epochs} epochs"
    validated = f", {summary.validation_rows:,} validation rows" if summary.validation_rows else ""
    lines = [f"**{estimator}** of the model `{model}`: {size}{validated}, {summary.seconds:.1f} s.", ""]
    best = summary.best_epoch - summary.first_epoch
    if not history:
        return lines[0]
    if best >= 0:
        lines += [f"| metric | last epoch | best epoch ({summary.best_epoch + 1}) | by epoch |", "|---|---|---|---|"]
    else:
        lines += ["| metric | last epoch | by epoch |", "|---|---|---|"]
    for name, values in history.items():
        cells = [name, f"{values[-1]:.4g}"]
        if best >= 0:
            cells.append(f"{values[best]:.4g}" if best < len(values) else "")
        lines.append(f"| {' | '.join([*cells, _bars(values)])} |")
    return "\n".join(lines)


def _bars(values: Sequence[float]) -> str:
    """Draw values as block characters; of many, evenly spaced ones."""
    step = max(1, math.ceil(len(values) / _LONGEST))
    shown = [value for value in values[::step] if math.isfinite(value)]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    return "".join(_BLOCKS[round((value - low) / ((high - low) or 1.0) * (len(_BLOCKS) - 1))] for value in shown)
