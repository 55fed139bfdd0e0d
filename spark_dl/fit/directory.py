"""The directory of one fit's checkpoints: found again by a later fit where this one was not finished.

Below the user's checkpointDir each fit has a directory, with a `fit.json` that says what is trained, whether it is
finished, and who works on it. A fit that finds an unfinished one of the same kind, on which nobody works any more,
goes on in it. Everything else there stays as it is.
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
# Without a renewal for so long, nobody works on it any more.
_LEASE_SECONDS = 60.0
# What a record of a fit holds. The attempts become a part of the names of files.
_FIELDS: dict[str, Any] = {
    "kind": dict,
    "finished": bool,
    "attempts": int,
    "host": str,
    "pid": (int, type(None)),
    "at": (int, float),
}
# Of records whose `kind` and position are these; others are of another release.
_FORMAT = 2


class FitDirectory:
    """The directory of a fit that runs.

    Attributes:
        store: where the checkpoints are.
        first_attempt: number of this fit's first attempt; more than 1 where it goes on with another fit's.
        tracked: the id of the tracker's record of that other fit; empty where there is none.
        same_order: Whether the rows come in the order in which that other fit had them.
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
        """One that ends with the fit."""
        return FitDirectory(store, _new_record({}, ""))

    @staticmethod
    def find(
        directory: Store,
        kind: Mapping[str, str],
        say: Callable[[str], None],
        epochs: float = math.inf,
        layout: str = "",
    ) -> FitDirectory:
        """The unfinished one of this kind in the user's directory, or a new one.

        Args:
            directory: the user's checkpointDir.
            kind: the `fingerprint` of what is to be trained.
            say: is told of unfinished ones that can't be used.
            epochs: How many are to be trained; one that has gone beyond them isn't used.
            layout: A digest of the order of the rows.
        """
        for name in filter(is_name, reversed(directory.names())):
            store = directory.child(name)
            record = _read(store)
            if record is None or record["finished"]:
                continue
            if _worked_on(record):
                say(
                    f"The unfinished fit in {store.shown} is being worked on, on {record['host']}: it is left as it is."
                )
                continue
            if other := _difference(record, kind):
                say(f"The unfinished fit in {store.shown} {other}: it is left as it is.")
                continue
            done, steps = progress_of(store)
            if done > epochs or (done == epochs and steps):
                stands = f"step {steps} of epoch {done + 1}" if steps else f"the end of epoch {done}"
                say(f"The unfinished fit in {store.shown} is at {stands}, beyond epochs={epochs}: it is left as it is.")
                continue
            say(f"Going on with the unfinished fit in {store.shown}.")
            same_order = record.get("layout") == layout
            return FitDirectory(store, {**record, "layout": layout}, same_order)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        return FitDirectory(directory.child(name), _new_record(kind, layout))

    def starts(self, attempt: int) -> None:
        """Note an attempt, so that a later fit counts on from it."""
        self._note(attempts=attempt)

    def tracked_as(self, record_id: str) -> None:
        """Note the tracker's record, so that a fit that goes on here goes on there."""
        self._note(tracked=record_id)

    def finish(self) -> None:
        """Nothing is left to do here."""
        self._stop_renewing()
        self._note(finished=True)

    def leave(self) -> None:
        """This fit works here no more, and has not finished."""
        self._stop_renewing()
        self._note(pid=None, at=0.0)

    def _stop_renewing(self) -> None:
        self._ended.set()
        self._renewing.join()  # or it would write its older record over the last one

    def _renew(self) -> None:
        """Say now and then that somebody works here."""
        while not self._ended.wait(_RENEW_SECONDS):
            self._note()

    def _note(self, **changes: Any) -> None:
        # A directory that is gone meanwhile is no reason to stop.
        with contextlib.suppress(StoreError):
            self._write(**changes)

    def _write(self, **changes: Any) -> None:
        with self._writing:
            self._record = {**self._record, "at": time.time(), **changes}
            self.store.write(_RECORD, json.dumps(self._record).encode())


def _new_record(kind: Mapping[str, str], layout: str) -> dict[str, Any]:
    return {"format": _FORMAT, "kind": dict(kind), "layout": layout, "finished": False, "attempts": 0}


def _difference(record: Mapping[str, Any], kind: Mapping[str, str]) -> str:
    """What another fit had that is otherwise here, in words; empty where all is alike."""
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
        return None  # not ours, or damaged


def _worked_on(record: Mapping[str, Any]) -> bool:
    if time.time() - record["at"] >= _LEASE_SECONDS:
        return False  # also where a container's new process has the old one's number
    return record["host"] != socket.gethostname() or (record["pid"] is not None and is_alive(record["pid"]))
