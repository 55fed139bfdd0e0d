"""What a tracker does, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["LoggedData", "LoggedModel", "LoggedStage", "NoTracker", "Tracker"]


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
        inputs: the feature columns with their types: "double", "long", "boolean", "string", "binary", "any" (numbers
            that may be missing), or ("array", the type of its elements); None where a type has no such name.
        outputs: the output columns with their types.
        example: a row of the feature columns; None where none can be made up.
    """

    keras: bytes
    stage: str
    serving: str
    scored: bytes | None
    inputs: Sequence[tuple[str, Any]] | None
    outputs: Sequence[tuple[str, Any]]
    example: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LoggedStage:
    """A fitted Pipeline, or another of Spark's own models around one of ours, as a tracker writes it.

    Attributes:
        kind: the full name of its class.
        files: what its own writer has written, by their paths.
    """

    kind: str
    files: Mapping[str, bytes]


class Tracker(Protocol):
    """One fit's record: begun, told, ended."""

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        """Open the record, with the options and the facts.

        Args:
            params: the options.
            tags: the facts.
            resumed: the id of the record of a fit that was cut short and goes on with this one; empty for none.

        Returns:
            the record's id; empty where it can't be opened again by one.
        """

    def log_dataset(self, data: LoggedData) -> None:
        """Write what is trained or validated on."""

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any], at: float) -> None:
        """Write an epoch's metrics, numbers or lists of them; epochs count from 0. It ended at this time (Unix)."""

    def history(self, history: Mapping[str, Sequence[Any]], first_epoch: int) -> None:
        """Write what of these metrics of epochs, from the first on, the record doesn't have: its writer was killed."""

    def event(self, text: str) -> None:
        """Write what happened to the training: a worker lost, a restart."""

    def log_model(self, model: LoggedModel) -> None:
        """Write the fitted model."""

    def log_artifact(self, path: str, content: Callable[[], bytes]) -> None:
        """Add a file, under this path; its content is made when it is written."""

    def finish(self, failure: BaseException | None) -> None:
        """Close the record, with what went wrong, if anything did."""

    def is_transient(self, error: Exception) -> bool:
        """Whether what made writing fail may be over soon, so that it is tried again."""

    @property
    def notes(self) -> list[str]:
        """What the user should know of where the record is, once it is open."""

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """What could not be written, fit for JSON."""


class NoTracker:
    """Writes nothing."""

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        """Nothing."""
        return ""

    def log_dataset(self, data: LoggedData) -> None:
        """Nothing."""

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any], at: float) -> None:
        """Nothing."""

    def history(self, history: Mapping[str, Sequence[Any]], first_epoch: int) -> None:
        """Nothing."""

    def event(self, text: str) -> None:
        """Nothing."""

    def log_model(self, model: LoggedModel) -> None:
        """Nothing."""

    def log_artifact(self, path: str, content: Callable[[], bytes]) -> None:
        """Nothing."""

    def finish(self, failure: BaseException | None) -> None:
        """Nothing."""

    def is_transient(self, error: Exception) -> bool:
        """Nothing fails."""
        return False

    @property
    def notes(self) -> list[str]:
        """Nothing."""
        return []

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []
