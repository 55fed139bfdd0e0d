"""The checkpoint directory of a fit, which a later fit can resume from.

Below checkpointDir each fit has a directory with a `fit.json`: the fingerprint of the fit, whether it is finished, and
the process that trains it. A fit resumes from an unfinished directory that has its fingerprint and isn't in use by a
running fit. It changes nothing else in checkpointDir.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from spark_dl.errors import StoreError
from spark_dl.io.paths import is_name
from spark_dl.io.store import Store
from spark_dl.io.workspace import is_alive
from spark_dl.train.checkpoint import progress_of

__all__ = ["FitDirectory"]

_RECORD = "fit.json"
_RENEW_SECONDS = 10.0
# The lease on a directory expires when it isn't renewed for this long.
_LEASE_SECONDS = 60.0
# The fields of `fit.json` with their types. The number of attempts becomes a part of file names.
_FIELDS: dict[str, Any] = {
    "kind": dict,
    "finished": bool,
    "attempts": int,
    "host": str,
    "pid": (int, type(None)),
    "at": (int, float),
}
# The version of the record's format; a fit can't resume from one of another release.
_FORMAT = 2


class FitDirectory:
    """The checkpoint directory of a running fit. A thread renews the lease on it every 10 seconds.

    Args:
        store: The directory.
        record: The content of `fit.json`.
        same_order: Whether the rows have the same order as in the fit that is resumed.

    Attributes:
        store: The directory.
        first_attempt: The number of this fit's first attempt; more than 1 if it resumes another fit.
        tracked: The id of the resumed fit's record at the tracker; empty for none.
        same_order: Whether the rows have the same order as in the fit that is resumed.
    """

    def __init__(self, store: Store, record: dict[str, Any], same_order: bool = True) -> None:
        self.store = store
        self.same_order = same_order
        self.first_attempt: int = record["attempts"] + 1
        self.tracked = str(record.get("tracked") or "")
        self._record = {**record, "host": socket.gethostname(), "pid": os.getpid()}
        self._ended = threading.Event()
        self._writing = threading.Lock()
        store.make()
        self._write()
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._renewing.start()

    @staticmethod
    def temporary(store: Store) -> FitDirectory:
        """Make a directory that can't be resumed, for a fit without checkpointDir.

        Args:
            store: The directory; its owner removes it.
        """
        return FitDirectory(store, _new_record({}, ""))

    @staticmethod
    def find(
        directory: Store,
        kind: Mapping[str, str],
        say: Callable[[str], None],
        epochs: float = math.inf,
        layout: str = "",
    ) -> FitDirectory:
        """Find the unfinished directory of the same fit, or make a new one.

        Args:
            directory: The user's checkpointDir.
            kind: The `fingerprint` of the fit.
            say: Shows messages to the user: which fit is resumed, and why others aren't.
            epochs: The number of epochs to train; a directory with more isn't resumed.
            layout: The digest of the order of the rows.
        """
        for name in filter(is_name, reversed(directory.names())):
            store = directory.child(name)
            record = _read(store)
            if record is None or record["finished"]:
                continue
            if _worked_on(record):
                say(
                    f"The unfinished fit in {store.shown} is being trained by a driver on {record['host']}: it is left "
                    "unchanged."
                )
                continue
            if other := _difference(record, kind):
                say(f"The unfinished fit in {store.shown} {other}: it is left unchanged.")
                continue
            done, steps = progress_of(store)
            if done > epochs or (done == epochs and steps):
                place = f"step {steps} of epoch {done + 1}" if steps else f"the end of epoch {done}"
                say(f"The unfinished fit in {store.shown} is at {place}, beyond epochs={epochs}: it is left unchanged.")
                continue
            say(f"Resuming the unfinished fit in {store.shown}.")
            same_order = record.get("layout") == layout
            return FitDirectory(store, {**record, "layout": layout}, same_order)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        return FitDirectory(directory.child(name), _new_record(kind, layout))

    def starts(self, attempt: int) -> None:
        """Record the number of the current attempt; a fit that resumes continues the count."""
        self._note(attempts=attempt)

    def tracked_as(self, record_id: str) -> None:
        """Record the id of the fit's record at the tracker, so that a fit that resumes continues it."""
        self._note(tracked=record_id)

    def finish(self) -> None:
        """Mark the fit as finished."""
        self._stop_renewing()
        self._note(finished=True)

    def leave(self) -> None:
        """Release the directory of an unfinished fit, so that another fit can resume from it."""
        self._stop_renewing()
        self._note(pid=None, at=0.0)

    def _stop_renewing(self) -> None:
        self._ended.set()
        self._renewing.join()  # else the thread could overwrite the final record

    def _renew(self) -> None:
        """Renew the lease until the fit ends."""
        while not self._ended.wait(_RENEW_SECONDS):
            self._note()

    def _note(self, **changes: Any) -> None:
        # Training continues even if someone has removed the directory.
        with contextlib.suppress(StoreError):
            self._write(**changes)

    def _write(self, **changes: Any) -> None:
        with self._writing:
            self._record = {**self._record, "at": time.time(), **changes}
            self.store.write(_RECORD, json.dumps(self._record).encode())


def _new_record(kind: Mapping[str, str], layout: str) -> dict[str, Any]:
    return {"format": _FORMAT, "kind": dict(kind), "layout": layout, "finished": False, "attempts": 0}


def _difference(record: Mapping[str, Any], kind: Mapping[str, str]) -> str:
    """Describe how another fit's record differs from a fingerprint; empty if it is equal."""
    if record.get("format") != _FORMAT:
        return "is of another release, which noted less of what it trained"
    held = record["kind"]
    other = [part for part in (*kind, *(part for part in held if part not in kind)) if held.get(part) != kind.get(part)]
    return f"had another {' and '.join(other)}" if other else ""


def _read(store: Store) -> dict[str, Any] | None:
    try:
        record = json.loads(store.read(_RECORD))
        return record if all(isinstance(record[name], kind) for name, kind in _FIELDS.items()) else None
    except (StoreError, ValueError, KeyError, TypeError):
        return None  # damaged, or not a record of this package


def _worked_on(record: Mapping[str, Any]) -> bool:
    if time.time() - record["at"] >= _LEASE_SECONDS:
        return False  # even if the process id exists: a container may reuse it
    return record["host"] != socket.gethostname() or (record["pid"] is not None and is_alive(record["pid"]))
