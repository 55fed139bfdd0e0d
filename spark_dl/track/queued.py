"""A tracker that writes beside the training: what it is told waits in line, is tried again, and is kept if it fails."""

from __future__ import annotations

import collections
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

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
# How long one entry is tried before it is given up; and how long the end of a fit waits for one, beside the time that
# its bytes may take.
_TRY_SECONDS, _CLOSING_SECONDS = 120.0, 30.0
# And a file: one for which there is no room must not hold up the metrics behind it.
_FILE_TRY_SECONDS = 10.0
_BYTES_A_SECOND = 1e6


@dataclass(frozen=True)
class _Entry:
    """What is to be written, and its words for where it can't be.

    Attributes:
        prepare: does what has nothing to do with the server, once; gives what writes, and how many bytes.
        kept: the words.
        patience: how long it is tried, in seconds.
        again: whether it is prepared once more, after all others, where that fails: a library that another thread is
            importing can't be used yet.
    """

    prepare: Callable[[], tuple[Callable[[], None], int]]
    kept: Mapping[str, Any]
    patience: float
    again: bool = True


class QueuedTracker:
    """Hands what it is told to another tracker, in order, in a thread of its own: nobody who trains waits for a server.

    `begin` is not put off, so that a fit whose record can't be opened doesn't begin. `model` and `end` come when all
    before them is written; where that takes too long, the server is taken to be gone, and the fit ends without them.

    Args:
        tracker: where it goes.
        required: whether a record that can't be opened is an error; else it is told, and nothing is written.
    """

    def __init__(self, tracker: Tracker, required: bool = True) -> None:
        self._tracker = tracker
        self._required = required
        self._entries: collections.deque[_Entry] = collections.deque()
        self._unlogged: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        # When the entry under way was begun, and its bytes.
        self._since, self._bytes = 0.0, 0
        self._gone = False
        self._thread = threading.Thread(target=self._write_all, daemon=True)

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        """Open the record, at once.

        Raises:
            TrackingError: it can't be opened, and is required.
        """
        try:
            opened = self._tracker.begin(params, tags, resumed)
        except TrackingError as error:
            if self._required:
                self._gone = True  # there is nothing to be waited for
                raise
            warn(not_tracked(error), 2)
            self._tracker = NoTracker()
            opened = ""
        self._thread.start()
        return opened

    def log_dataset(self, data: LoggedData) -> None:
        """Put rows in line."""
        kept = {"data": data.context, "rows": data.rows, "digest": data.digest, "at": time.time()}
        self._put(lambda: self._tracker.log_dataset(data), kept)

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any], at: float) -> None:
        """Put an epoch's metrics in line."""
        kept: dict[str, Any] = {"epoch": epoch, "metrics": dict(metrics), "at": at}
        self._put(lambda: self._tracker.log_metrics(epoch, kept["metrics"], at), kept)

    def history(self, history: Mapping[str, Sequence[Any]], first_epoch: int) -> None:
        """Put metrics of epochs that may be missing in line."""
        kept = {"history": dict(history), "first_epoch": first_epoch, "at": time.time()}
        self._put(lambda: self._tracker.history(history, first_epoch), kept)

    def event(self, text: str) -> None:
        """Put an event in line."""
        text = redact(text)
        self._put(lambda: self._tracker.event(text), {"event": text, "at": time.time()})

    def log_artifact(self, path: str, content: Callable[[], bytes]) -> None:
        """Put a file in line."""

        def prepare() -> tuple[Callable[[], None], int]:
            made = content()
            if path.endswith(".txt"):
                made = redact(made.decode(errors="surrogateescape")).encode(errors="surrogateescape")
            return lambda: self._tracker.log_artifact(path, lambda: made), len(made)

        self._add(_Entry(prepare, {"file": path, "at": time.time()}, _FILE_TRY_SECONDS))

    def log_model(self, model: LoggedModel) -> None:
        """Write the model, once all before it is written.

        Raises:
            TimeoutError: the server doesn't take what is before it.
        """
        with self._kept({"model": "not logged"}):
            if not self._drained():
                raise TimeoutError("the model is not logged, since what came before it couldn't be")
            self._tracker.log_model(model)

    def finish(self, failure: BaseException | None) -> None:
        """Close the record, once all before is written.

        Raises:
            TimeoutError: the server doesn't take what is before it; the record stays open.
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
        """As the other tracker says."""
        return self._tracker.is_transient(error)

    @property
    def notes(self) -> list[str]:
        """As the other tracker says."""
        return self._tracker.notes

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """What could not be written, or not yet: epochs with their metrics, params, tags, events, names of files."""
        with self._changed:
            return [*self._tracker.unlogged, *self._unlogged, *(dict(entry.kept) for entry in self._entries)]

    @contextmanager
    def _kept(self, words: Mapping[str, Any]) -> Iterator[None]:
        """What fails within is kept by these words, and raised."""
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
        """Wait while what is in line gets written; False if nothing is for too long, which is waited for once."""
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
            except Exception as error:  # what was to be written can't be made: no server's fault
                failure, again = error, entry.again
            with self._changed:
                self._entries.popleft()
                if again:
                    self._entries.append(replace(entry, again=False))
                elif failure is not None:
                    self._unlogged.append({**entry.kept, "reason": _reason(failure)})
                self._changed.notify_all()

    def _written(self, write: Callable[[], None], patience: float) -> Exception | None:
        """Try until it is written, or given up, or the fit has ended; gives the last failure."""
        pause, end = _FIRST_PAUSE_SECONDS, time.monotonic() + patience
        while True:
            try:
                write()
                return None
            except Exception as error:
                if not self._tracker.is_transient(error):
                    return error
                with self._changed:
                    ended = self._changed.wait_for(lambda: self._ended, pause)
                if ended or time.monotonic() >= end:
                    return error
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _reason(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {error}"[:1000])


def not_tracked(error: TrackingError) -> str:
    """What is told where tracking is optional and can't be."""
    return f"This fit is not tracked (tracking='optional'). {error}"
