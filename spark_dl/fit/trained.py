"""The result of a training as the driver gets it, and the evaluation that follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spark_dl.score.assess import Assessment
from spark_dl.score.heads import Head
from spark_dl.train.plan import TrainResult
from spark_dl.train.reports import EpochReport

__all__ = ["Evaluation", "Trained"]


@dataclass
class Trained:
    """Result of a training run.

    Attributes:
        result: The result that rank 0 returns.
        assessment: The evaluation of the fitted model on the validation rows. None where none was requested, or where
            ranks failed during it.
        epochs: The reports of the epochs.
    """

    result: TrainResult
    assessment: Assessment | None
    epochs: list[EpochReport]


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of the fitted model on the validation rows, by the ranks that have trained it.

    Attributes:
        head: The head by which ranks evaluate; None for no evaluation.
        on_begin: Called with the result, still without the evaluation, when ranks begin to evaluate.
    """

    head: Head | None
    on_begin: Callable[[Trained], None]
