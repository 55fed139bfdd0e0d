"""The summary of a training, which a fitted model keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["TrainingSummary"]


@dataclass(frozen=True)
class TrainingSummary:
    """Summary of a training.

    Attributes:
        history: each metric's value after each epoch, over all rows; a list where it has one for each class.
        first_epoch: the epoch with which the history begins, from 0.
        rows: training rows in an epoch.
        validation_rows: validation rows.
        seconds: of the training itself, validation included.
        rows_per_second: of the median epoch, over all ranks, validation left out.
        best_epoch: the best epoch by the monitored metric, from 0; -1 where there was none.
        non_finite: the path of the model's first variable with a value that is NaN or infinite; empty for none.
        unlogged: what the tracker could not be told: epochs with their metrics, events, names of files.
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
