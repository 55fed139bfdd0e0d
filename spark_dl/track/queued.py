"""A tracker that writes beside the training: what it is told waits in line, is tried again, and is kept if it fails."""

from __future__ import annotations

import collections
import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spark_dl.track.tracker import LoggedData, LoggedModel, Tracker

__all__ = ["QueuedTracker"]

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
# How long one entry is tried before it is given up, and how long the end of a fit waits for what is in line.
_TRY_SECONDS, _CLOSING_SECONDS = 120.0, 30.0


@dataclass(frozen=True)
class _Entry:
    """What is to be written, and its words for where it can't be."""

    write: Callable[[], None]
    kept: Mapping[str, Any]


class QueuedTracker:
    """Hands what it is told to another tracker, in order, in a thread of its own: nobody who trains waits for a server.

    `begin` is not put off, so that a fit whose record can't be opened doesn't begin. `model` and `end` come when all
    before them is written; where that takes too long, the server is taken to be gone, and the fit ends without them.

    Args:
        tracker: where it goes.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._entries: collections.deque[_Entry] = collections.deque()
        self._unlogged: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._write_all, daemon=True)

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the record, at once."""
        self._tracker.begin(params, tags)
        self._thread.start()

    def data(self, data: LoggedData) -> None:
        """Put rows in line."""
        kept = {"data": data.context, "rows": data.rows, "digest": data.digest, "at": time.time()}
        self._put(functools.partial(self._tracker.data, data), kept)

    def epoch(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """Put an epoch's metrics in line."""
        kept = {"epoch": epoch, "metrics": dict(metrics), "at": at}
        self._put(functools.partial(self._tracker.epoch, epoch, dict(metrics), at), kept)

    def event(self, text: str) -> None:
        """Put an event in line."""
        self._put(functools.partial(self._tracker.event, text), {"event": text, "at": time.time()})

    def file(self, path: str, content: bytes) -> None:
        """Put a file in line."""
        self._put(functools.partial(self._tracker.file, path, content), {"file": path, "at": time.time()})

    def model(self, model: LoggedModel, history: Mapping[str, list[float]]) -> None:
        """Write the model, once all before it is written.

        Raises:
            TimeoutError: the server doesn't take what is before it.
        """
        if not self._drained():
            raise TimeoutError("the model is not logged, since what came before it couldn't be")
        self._tracker.model(model, history)

    def end(self, failure: BaseException | None) -> None:
        """Close the record, once all before is written.

        Raises:
            TimeoutError: the server doesn't take what is before it; the record stays open.
        """
        drained = self._drained()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if not drained:
            raise TimeoutError("the record stays open, since what came before its end couldn't be written")
        self._tracker.end(failure)

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """What could not be written, or not yet: epochs with their metrics, events, names of files."""
        with self._changed:
            return [*self._unlogged, *(dict(entry.kept) for entry in self._entries)]

    def _put(self, write: Callable[[], None], kept: Mapping[str, Any]) -> None:
        with self._changed:
            self._entries.append(_Entry(write, kept))
            self._changed.notify_all()

    def _drained(self) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._entries, _CLOSING_SECONDS)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._ended)
                if self._ended:
                    return
                entry = self._entries[0]
            written = self._written(entry)
            with self._changed:
                self._entries.popleft()
                if not written:
                    self._unlogged.append(dict(entry.kept))
                self._changed.notify_all()

    def _written(self, entry: _Entry) -> bool:
        """Try until it is written, given up, or the fit has ended."""
        pause, end = _FIRST_PAUSE_SECONDS, time.monotonic() + _TRY_SECONDS
        while True:
            try:
                entry.write()
                return True
            except Exception:
                with self._changed:
                    ended = self._changed.wait_for(lambda: self._ended, pause)
                if ended or time.monotonic() >= end:
                    return False
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
