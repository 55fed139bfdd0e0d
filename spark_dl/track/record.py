"""Record of one fit at a tracker, which is opened once and always closed, with the failure if there is one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from spark_dl.errors import RankError, TrackingError
from spark_dl.redaction import redact_error, warn
from spark_dl.track.tracker import NoTracker, Tracker

__all__ = ["Record", "try_to_log"]


class Record:
    """Record of one fit, opened by `open` or at the latest when the `with` ends, which closes it.

    Args:
        tracker: The tracker.
        params: The options of the fit.
        tags: The facts about the fit.

    Attributes:
        tracker: The tracker, which queues entries until the record is open.
        written: Whether the tracker writes anything.
    """

    def __init__(self, tracker: Tracker, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self.tracker = tracker
        self.written = not isinstance(tracker, NoTracker)
        self._params, self._tags = params, tags
        self._id = ""
        self._opened = False

    def open(self, resumed: str = "") -> str:
        """Open the record, unless it is open already.

        Args:
            resumed: The id of the record of the interrupted fit that this one resumes; "" if there is none.

        Returns:
            The record's id; "" if the tracker can't reopen a record by its id.

        Raises:
            TrackingError: The record can't be opened.
        """
        if not self._opened:
            self._opened = True
            self._id = self.tracker.begin(self._params, self._tags, resumed)
        return self._id

    def add(self, *files: Mapping[str, Callable[[], bytes]]) -> None:
        """Log files as artifacts.

        Args:
            *files: The files: path -> function that returns the content.
        """
        for path, content in (pair for some in files for pair in some.items()):
            self.tracker.log_artifact(path, content)

    def attempt(self, what: str, write: Callable[[], object]) -> None:
        """Call a function that logs something; if it raises, record that as not logged, with the reason.

        Args:
            what: The name of the missing entry.
            write: The function that makes and logs it.
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
            self.tracker.log_artifact("failure.txt", functools.partial(_failure_text, error))
        try_to_log(functools.partial(self.tracker.finish, error))


def try_to_log(write: Callable[[], object]) -> bool:
    """Write to a tracker, with a warning instead of an error, since a failing tracker must not end a training.

    Args:
        write: The function that writes.

    Returns:
        Whether it succeeded.
    """
    try:
        write()
    except Exception as error:
        warn(f"Not logged: {type(error).__name__}: {error}")
        return False
    return True


def _fail(error: Exception) -> bytes:
    raise error


def _failure_text(error: RankError) -> bytes:
    log = f"\n\nIts last output on {error.host}:\n{error.rank_log}" if error.rank_log else ""
    return f"{error}{log}\n".encode()
