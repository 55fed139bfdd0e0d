"""One fit's record at a tracker: opened once, told, ended with what went wrong, if anything did."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from spark_dl.errors import RankError, TrackingError
from spark_dl.redaction import redact_error, warn
from spark_dl.track.tracker import NoTracker, Tracker

__all__ = ["Record", "try_to_log"]


class Record:
    """A record that is open at the latest when the `with` ends.

    Args:
        tracker: where it is.
        params: the options.
        tags: the facts.

    Attributes:
        tracker: what is told to it before the record is open waits.
        written: whether anything is.
    """

    def __init__(self, tracker: Tracker, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self.tracker = tracker
        self.written = not isinstance(tracker, NoTracker)
        self._params, self._tags = params, tags
        self._id = ""
        self._opened = False

    def open(self, resumed: str = "") -> str:
        """Open it, unless it is open.

        Args:
            resumed: the id of the record of a fit that was cut short and goes on with this one; empty for none.

        Returns:
            its id; empty where it can't be opened again by one.

        Raises:
            TrackingError: it can't be opened.
        """
        if not self._opened:
            self._opened = True
            self._id = self.tracker.begin(self._params, self._tags, resumed)
        return self._id

    def add(self, *files: Mapping[str, Callable[[], bytes]]) -> None:
        """Add files, by their paths."""
        for path, content in (pair for some in files for pair in some.items()):
            self.tracker.log_artifact(path, content)

    def attempt(self, what: str, write: Callable[[], object]) -> None:
        """Make something and add it; where it can't be made, that is kept as not logged, with the reason.

        Args:
            what: what it is called then.
            write: makes and adds it.
        """
        try:
            write()
        except Exception as error:
            self.tracker.log_artifact(what, functools.partial(_fail, error))

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        redact_error(error)
        if isinstance(error, TrackingError) or not (self._opened or try_to_log(self.open)):
            return
        if isinstance(error, RankError):
            self.tracker.log_artifact("failure.txt", functools.partial(_told, error))
        try_to_log(functools.partial(self.tracker.finish, error))


def try_to_log(write: Callable[[], object]) -> bool:
    """Write to the tracker. Once training runs, a tracker that fails costs what it would have logged, and no more.

    Returns:
        whether it was written.
    """
    try:
        write()
    except Exception as error:
        warn(f"Not logged: {type(error).__name__}: {error}", 2)
        return False
    return True


def _fail(error: Exception) -> bytes:
    raise error


def _told(error: RankError) -> bytes:
    log = f"\n\nIts last words on {error.host}:\n{error.rank_log}" if error.rank_log else ""
    return f"{error}{log}\n".encode()
