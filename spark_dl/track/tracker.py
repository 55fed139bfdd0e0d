"""What a tracker does, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["NoTracker", "Tracker"]


class Tracker(Protocol):
    """One fit's record: begun, told, ended."""

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the record, with the options and the facts."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write an epoch's metrics; epochs count from 0."""

    def event(self, text: str) -> None:
        """Write what happened to the training: a worker lost, a restart."""

    def model(self, load: Callable[[], Any], history: Mapping[str, list[float]]) -> None:
        """Write the fitted Keras model, which `load` gives, and the curves of its training."""

    def file(self, path: str, content: bytes) -> None:
        """Add a file, under this path."""

    def end(self, failure: BaseException | None) -> None:
        """Close the record, with what went wrong, if anything did."""


class NoTracker:
    """Writes nothing."""

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Nothing."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def event(self, text: str) -> None:
        """Nothing."""

    def model(self, load: Callable[[], Any], history: Mapping[str, list[float]]) -> None:
        """Nothing."""

    def file(self, path: str, content: bytes) -> None:
        """Nothing."""

    def end(self, failure: BaseException | None) -> None:
        """Nothing."""
