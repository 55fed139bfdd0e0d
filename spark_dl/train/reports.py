"""Reports of a training: what rank 0 sends to the driver while it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spark_dl.train.plan import TrainResult

__all__ = [
    "TRAIN_REPORTS",
    "EpochEnd",
    "EpochReport",
    "RankSpeed",
    "ResultReport",
    "Speed",
    "StepReport",
    "TrainReport",
    "TrainReporter",
    "Verdict",
    "WarningReport",
]


@dataclass(frozen=True)
class RankSpeed:
    """Throughput and resource usage of one rank in an epoch.

    Attributes:
        rows_per_second: The rows per second of computing time, without waiting.
        working: The share of the time in which the rank didn't wait, 0 to 1.
        cpu_percent: The CPU usage in percent of one core: 200 if two cores were busy all the time.
        memory_mb: The resident memory of the process, in 10^6 bytes.
        gpu_memory_mb: The memory that TensorFlow uses on the rank's GPU, in 10^6 bytes; 0 without a GPU.
    """

    rows_per_second: float
    working: float
    cpu_percent: float
    memory_mb: float
    gpu_memory_mb: float


@dataclass(frozen=True)
class Speed:
    """Throughput of an epoch's training, without validation and checkpoints.

    Attributes:
        rows_per_second: The rows per second of all ranks together.
        step_ms: The milliseconds per step.
        input_wait: The share of the time spent waiting for rows, 0 to 1; the maximum over ranks.
        collective_wait: The share of the time spent reducing gradients, waiting for other ranks included, 0 to 1; the
            mean over ranks.
        bytes_reduced: The bytes of gradients that each rank passed to collectives.
        ranks: The throughput of each rank.
    """

    rows_per_second: float = 0.0
    step_ms: float = 0.0
    input_wait: float = 0.0
    collective_wait: float = 0.0
    bytes_reduced: float = 0.0
    ranks: tuple[RankSpeed, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """Progress within an epoch.

    Attributes:
        epoch: The epoch, from 0.
        step: The number of steps done in it.
        loss: The loss so far; NaN if there is none.
    """

    epoch: int
    step: int
    loss: float


@dataclass(frozen=True)
class EpochReport:
    """A finished epoch.

    Attributes:
        epoch: The epoch, from 0.
        logs: The epoch's metrics: numbers, or lists of numbers.
        learning_rate: The optimizer's learning rate; None if it has no single value.
        speed: The epoch's throughput.
    """

    epoch: int
    logs: dict[str, Any]
    learning_rate: float | None
    speed: Speed


@dataclass(frozen=True)
class EpochEnd:
    """The metrics of a finished epoch, before its checkpoint: all ranks wait for a `Verdict`.

    Attributes:
        epoch: The epoch, from 0.
        metrics: The epoch's metrics: numbers, or lists of numbers.
    """

    epoch: int
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The driver's reply to an `EpochEnd`.

    Attributes:
        stop: Whether training ends with this epoch.
    """

    stop: bool


@dataclass(frozen=True)
class ResultReport:
    """The end of training, before the evaluation of the model.

    Attributes:
        result: The result.
    """

    result: TrainResult


@dataclass(frozen=True)
class WarningReport:
    """A warning for the user.

    Attributes:
        text: The warning, in sentences.
    """

    text: str


TrainReport = StepReport | EpochEnd | EpochReport | ResultReport | WarningReport
TRAIN_REPORTS: tuple[type[TrainReport], ...] = (StepReport, EpochEnd, EpochReport, ResultReport, WarningReport)
# Sends a report to the driver.
TrainReporter = Callable[[TrainReport], None]
