"""The `Tracker` protocol with the records that it logs, and `NoTracker`, which logs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["LoggedData", "LoggedModel", "LoggedStage", "NoTracker", "Tracker"]


@dataclass(frozen=True)
class LoggedData:
    """The rows that a fit trains or validates on.

    Attributes:
        context: "training" or "validation".
        rows: The number of rows.
        digest: The digest of the rows' numbers, independent of their order.
        columns: The columns with their types, named as in `LoggedModel.inputs`; None if a type has no such name.
        files: The files that the DataFrame was read from; of a Delta table its directory. Empty if Spark doesn't know
            them.
        tables: The full names of the tables that it was read from.
        is_delta: Whether `files` is the directory of a Delta table.
        version: The version of the Delta table; None if it isn't known.
    """

    context: str
    rows: int
    digest: str
    columns: Sequence[tuple[str, Any]] | None
    files: Sequence[str]
    tables: Sequence[str] = ()
    is_delta: bool = False
    version: int | None = None


@dataclass(frozen=True)
class LoggedModel:
    """A fitted model, serialized for a tracker.

    Attributes:
        keras: The whole Keras model, as the bytes of a `.keras` file.
        stage: The Spark ML stage without its Keras model, as JSON.
        serving: The description of serving without Spark, as JSON.
        scored: The model that is served, as the bytes of a file; None if it is the whole Keras model.
        inputs: The feature columns with their types: "double", "long", "boolean", "string", "binary", "any" (numbers
            that may be missing), or ("array", the type of its elements); None if a type has no such name.
        outputs: The output columns with their types.
        example: An input example, one row of the feature columns; None if none can be generated.
        scored_extension: The file name extension of `scored`.
        needs: The distributions that compute the served model.
    """

    keras: bytes
    stage: str
    serving: str
    scored: bytes | None
    inputs: Sequence[tuple[str, Any]] | None
    outputs: Sequence[tuple[str, Any]]
    example: Mapping[str, Any] | None = None
    scored_extension: str = "keras"
    needs: Sequence[str] = ("keras", "tensorflow")


@dataclass(frozen=True)
class LoggedStage:
    """A fitted Pipeline, or another of Spark's own models that contains one of this package, saved for a tracker.

    Attributes:
        kind: The full name of the model's class.
        files: The files that Spark's own writer has saved: path -> content.
    """

    kind: str
    files: Mapping[str, bytes]


class Tracker(Protocol):
    """Log of one fit: opened by `begin`, closed by `finish`."""

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        """Open the record and log params and tags.

        Args:
            params: The options of the fit.
            tags: The facts about the fit, such as versions.
            resumed: The id of the record of the interrupted fit that this one resumes; "" if there is none.

        Returns:
            The record's id; "" if the tracker can't reopen a record by its id.
        """

    def describe(self, title: str, text: str, picture: str) -> None:
        """Name the record, unless the user has named it, and describe it; a record of the user's own stays as it is.

        Args:
            title: The name.
            text: The description, as Markdown; "" for none.
            picture: The path of an artifact that the description shows; "" for none.
        """

    def log_dataset(self, data: LoggedData) -> None:
        """Log the training or validation rows."""

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any], at: float) -> None:
        """Log the metrics of one epoch.

        Args:
            epoch: The epoch, counted from 0.
            metrics: The metrics: name -> number, or list of numbers.
            at: The Unix time at which the epoch ended.
        """

    def history(self, history: Mapping[str, Sequence[Any]], first_epoch: int) -> None:
        """Log the metrics that the record lacks, since the driver of an interrupted fit may have been killed.

        Args:
            history: The metrics: name -> value after each epoch.
            first_epoch: The epoch of the first values, counted from 0.
        """

    def event(self, text: str) -> None:
        """Log an event of the training, such as a lost worker or a restart."""

    def log_model(self, model: LoggedModel) -> None:
        """Log the fitted model."""

    def log_artifact(self, path: str, content: Callable[[], bytes]) -> None:
        """Log a file as an artifact.

        Args:
            path: The path of the artifact in the record.
            content: Called for the file's content when it is written.
        """

    def finish(self, failure: BaseException | None) -> None:
        """Close the record.

        Args:
            failure: The exception that ended the fit; None after a successful fit.
        """

    def is_transient(self, error: Exception) -> bool:
        """Return whether an error of writing may pass soon, so that a retry makes sense."""

    @property
    def notes(self) -> list[str]:
        """Notes for the user about the location of the record, available once it is open."""

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """The entries that could not be logged, as JSON-compatible dicts."""


class NoTracker:
    """Tracker that logs nothing."""

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        """Return an empty id."""
        return ""

    def describe(self, title: str, text: str, picture: str) -> None:
        """Do nothing."""

    def log_dataset(self, data: LoggedData) -> None:
        """Do nothing."""

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any], at: float) -> None:
        """Do nothing."""

    def history(self, history: Mapping[str, Sequence[Any]], first_epoch: int) -> None:
        """Do nothing."""

    def event(self, text: str) -> None:
        """Do nothing."""

    def log_model(self, model: LoggedModel) -> None:
        """Do nothing."""

    def log_artifact(self, path: str, content: Callable[[], bytes]) -> None:
        """Do nothing."""

    def finish(self, failure: BaseException | None) -> None:
        """Do nothing."""

    def is_transient(self, error: Exception) -> bool:
        """Return False: nothing is written, so nothing fails."""
        return False

    @property
    def notes(self) -> list[str]:
        """Always empty."""
        return []

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """Always empty."""
        return []
