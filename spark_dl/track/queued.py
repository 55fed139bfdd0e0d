"""Tracker that logs asynchronously: entries are queued, retried, and recorded as not logged if they fail."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from spark_dl.errors import TrackingError
from spark_dl.redaction import redact, warn
from spark_dl.track.tracker import LoggedData, LoggedModel, NoTracker, Tracker

__all__ = ["QueuedTracker", "not_tracked"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
# How long one entry is retried; and how long the end of a fit waits for one, plus the time to transfer its bytes.
_TRY_SECONDS, _CLOSING_SECONDS = 120.0, 30.0
# Files are retried for a shorter time, since one that doesn't fit must not delay the metrics behind it.
_FILE_TRY_SECONDS = 10.0
_BYTES_A_SECOND = 1e6


@dataclass(frozen=True)
class _Entry:
    """A queued entry.

    Attributes:
        prepare: Called once before writing, for the work without the server; returns the function that writes, and
            the number of bytes.
        kept: The description of the entry in `unlogged`.
        patience: The seconds for which writing is retried.
        again: Whether an entry whose preparation fails is queued once more, since a library that another thread is
            importing can't be used yet.
    """

    prepare: Callable[[], tuple[Callable[[], None], int]]
    kept: Mapping[str, Any]
    patience: float
    again: bool = True


class QueuedTracker:
    """Tracker that passes entries to another tracker, in order, in its own thread, so that training never waits.

    `begin` is synchronous, so that a fit whose record can't be opened doesn't start. `log_model` and `finish` wait
    until all entries before them are written; if that takes too long, they raise, and the server counts as gone.

    Args:
        tracker: The tracker that writes.
        required: Whether a record that can't be opened is an error; if not, there is a warning and nothing is logged.
    """

    def __init__(self, tracker: Tracker, required: bool = True) -> None:
        self._tracker = tracker
        self._required = required
        self._entries: collections.deque[_Entry] = collections.deque()
        self._unlogged: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        # The start time and the bytes of the entry that is being written.
        self._since, self._bytes = 0.0, 0
        self._gone = False
        self._thread = threading.Thread(target=self._write_all, daemon=True)

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        """Open the record synchronously, then start the thread.

        Args:
            params: The options of the fit.
            tags: The facts about the fit.
            resumed: The id of the record of the interrupted fit that this one resumes; "" if there is none.

        Returns:
            The record's id; "" if it can't be reopened by its id, or is optional and can't be opened.

        Raises:
            TrackingError: The record can't be opened, and is required.
        """
        try:
            opened = self._tracker.begin(params, tags, resumed)
        except TrackingError as error:
            if self._required:
                self._gone = True  # nothing will be written, so nothing is waited for
                raise
            warn(not_tracked(error))
            self._tracker = NoTracker()
            opened = ""
        self._thread.start()
        return opened

    def describe(self, title: str, text: str, picture: str) -> None:
        """Queue a name and a description."""
        kept = {"title": title, "at": time.time()}
        self._put(lambda: self._tracker.describe(title, text, picture), kept)

    def log_dataset(self, data: LoggedData) -> None:
        """Queue a dataset."""
        kept = {"data": data.context, "rows": data.rows, "digest": data.digest, "at": time.time()}
        self._put(lambda: self._tracker.log_dataset(data), kept)

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any], at: float) -> None:
        """Queue an epoch's metrics."""
        kept: dict[str, Any] = {"epoch": epoch, "metrics": dict(metrics), "at": at}
        self._put(lambda: self._tracker.log_metrics(epoch, kept["metrics"], at), kept)

    def history(self, history: Mapping[str, Sequence[Any]], first_epoch: int) -> None:
        """Queue metrics of epochs that the record may lack."""
        kept = {"history": dict(history), "first_epoch": first_epoch, "at": time.time()}
        self._put(lambda: self._tracker.history(history, first_epoch), kept)

    def event(self, text: str) -> None:
        """Queue an event, without credentials."""
        text = redact(text)
        self._put(lambda: self._tracker.event(text), {"event": text, "at": time.time()})

    def log_artifact(self, path: str, content: Callable[[], bytes]) -> None:
        """Queue a file; credentials are left out of `.txt` files."""

        def prepare() -> tuple[Callable[[], None], int]:
            made = content()
            if path.endswith(".txt"):
                made = redact(made.decode(errors="surrogateescape")).encode(errors="surrogateescape")
            return lambda: self._tracker.log_artifact(path, lambda: made), len(made)

        self._add(_Entry(prepare, {"file": path, "at": time.time()}, _FILE_TRY_SECONDS))

    def log_model(self, model: LoggedModel) -> None:
        """Log the model, once all entries before it are written.

        Raises:
            TimeoutError: The entries before it aren't written in time.
            Exception: The tracker can't log the model.
        """
        with self._kept({"model": "not logged"}):
            if not self._drained():
                raise TimeoutError("the model is not logged, since what came before it couldn't be")
            self._tracker.log_model(model)

    def finish(self, failure: BaseException | None) -> None:
        """Close the record, once all entries are written.

        Raises:
            TimeoutError: The entries aren't written in time; the record stays open.
            Exception: The tracker can't close the record.
        """
        drained = self._drained()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        with self._kept({"end": "not logged"}):
            if not drained:
                raise TimeoutError("the record stays open, since what came before its end couldn't be written")
            self._tracker.finish(failure)

    def is_transient(self, error: Exception) -> bool:
        """Ask the tracker that writes."""
        return self._tracker.is_transient(error)

    @property
    def notes(self) -> list[str]:
        """The notes of the tracker that writes."""
        return self._tracker.notes

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """The entries that were not or not yet logged, as JSON-compatible dicts: metrics, params, tags, events, files.

        Only the names of files are included.
        """
        with self._changed:
            return [*self._tracker.unlogged, *self._unlogged, *(dict(entry.kept) for entry in self._entries)]

    @contextmanager
    def _kept(self, words: Mapping[str, Any]) -> Iterator[None]:
        """Record an exception within the `with` in `unlogged`, with this description, and let it propagate."""
        try:
            yield
        except Exception as error:
            with self._changed:
                self._unlogged.append({**words, "reason": _reason(error), "at": time.time()})
            raise

    def _put(self, write: Callable[[], None], kept: Mapping[str, Any]) -> None:
        self._add(_Entry(lambda: (write, 0), kept, _TRY_SECONDS))

    def _add(self, entry: _Entry) -> None:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def _drained(self) -> bool:
        """Wait until the queue is empty; False if one entry takes too long, after which no call waits again."""
        with self._changed:
            self._since = time.monotonic()
            while self._entries and not self._gone:
                left = self._since + _CLOSING_SECONDS + self._bytes / _BYTES_A_SECOND - time.monotonic()
                if left <= 0:
                    self._gone = True
                self._changed.wait(max(left, 0.0))
            return not self._entries

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._ended)
                if self._ended:
                    return
                entry = self._entries[0]
            failure: Exception | None
            again = False
            try:
                write, size = entry.prepare()
                with self._changed:
                    self._since, self._bytes = time.monotonic(), size
                failure = self._written(write, entry.patience)
            except Exception as error:  # the entry can't be prepared, which is no fault of the server
                failure, again = error, entry.again
            with self._changed:
                self._entries.popleft()
                if again:
                    self._entries.append(replace(entry, again=False))
                elif failure is not None:
                    _log.warning("An entry isn't logged: %s", _reason(failure))
                    self._unlogged.append({**entry.kept, "reason": _reason(failure)})
                self._changed.notify_all()

    def _written(self, write: Callable[[], None], patience: float) -> Exception | None:
        """Write an entry, with retries after transient errors until its time is over or the fit has ended.

        Returns:
            The last error; None if the entry is written.
        """
        pause, end = _FIRST_PAUSE_SECONDS, time.monotonic() + patience
        while True:
            try:
                write()
                return None
            except Exception as error:
                if not self._tracker.is_transient(error):
                    return error
                _log.info("Logging is retried in %g s: %s", pause, _reason(error))
                with self._changed:
                    ended = self._changed.wait_for(lambda: self._ended, pause)
                if ended or time.monotonic() >= end:
                    return error
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _reason(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {error}"[:1000])


def not_tracked(error: TrackingError) -> str:
    """Build the warning for an optional tracker that can't be used."""
    return f"This fit is not tracked (tracking='optional'). {error}"
