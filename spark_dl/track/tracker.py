"""What a tracker does, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["LoggedData", "LoggedModel", "NoTracker", "Tracker"]


@dataclass(frozen=True)
class LoggedData:
    """Rows that a fit reads.

    Attributes:
        context: "training" or "validation".
        rows: how many.
        digest: of their numbers, whatever the order of the rows.
        columns: with their types as `LoggedModel` has them; None where a type has no such name.
        files: what the DataFrame was read from; empty where Spark can't tell.
    """

    context: str
    rows: int
    digest: str
    columns: Sequence[tuple[str, Any]] | None
    files: Sequence[str]


@dataclass(frozen=True)
class LoggedModel:
    """A fitted model as a tracker writes it.

    Attributes:
        keras: the whole Keras model, `.keras` bytes.
        stage: the Spark ML stage without its Keras model, as JSON.
        serving: how it is served without Spark, as JSON.
        scored: `.keras` bytes of what is served, where that isn't the whole model.
        inputs: the feature columns with their types: "double", "long", "boolean", "string", "binary", or ("array", the
            type of its elements); None where a type has no such name.
        outputs: the output columns with their types.
    """

    keras: bytes
    stage: str
    serving: str
    scored: bytes | None
    inputs: Sequence[tuple[str, Any]] | None
    outputs: Sequence[tuple[str, Any]]


class Tracker(Protocol):
    """One fit's record: begun, told, ended."""

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the record, with the options and the facts."""

    def data(self, data: LoggedData) -> None:
        """Write what is trained or validated on."""

    def epoch(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """Write an epoch's metrics; epochs count from 0. It ended at this time, in seconds since 1970."""

    def event(self, text: str) -> None:
        """Write what happened to the training: a worker lost, a restart."""

    def model(self, model: LoggedModel, history: Mapping[str, list[float]]) -> None:
        """Write the fitted model, and the curves of its training."""

    def file(self, path: str, content: bytes) -> None:
        """Add a file, under this path."""

    def end(self, failure: BaseException | None) -> None:
        """Close the record, with what went wrong, if anything did."""

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """What could not be written, fit for JSON."""


class NoTracker:
    """Writes nothing."""

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Nothing."""

    def data(self, data: LoggedData) -> None:
        """Nothing."""

    def epoch(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """Nothing."""

    def event(self, text: str) -> None:
        """Nothing."""

    def model(self, model: LoggedModel, history: Mapping[str, list[float]]) -> None:
        """Nothing."""

    def file(self, path: str, content: bytes) -> None:
        """Nothing."""

    def end(self, failure: BaseException | None) -> None:
        """Nothing."""

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []
