"""The directory of one fit's checkpoints: found again by a later fit where this one was not finished.

Below the user's checkpointDir each fit has a directory, with a `fit.json` that says what is trained, whether it is
finished, and who works on it. A fit that finds an unfinished one of the same kind, on which nobody works any more,
goes on in it. Everything else there stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import StoreError
from spark_dl.estimators.saving import config_text
from spark_dl.store import Store
from spark_dl.workspace import is_alive

__all__ = ["FitDirectory", "fingerprint"]

_RECORD = "fit.json"
_RENEW_SECONDS = 10.0
# Without a renewal for so long, nobody works on it any more.
_LEASE_SECONDS = 60.0
# What must be the same for a fit to go on where another one stopped, besides model and data.
_OPTIONS = (
    "batchSize",
    "initialEpoch",
    "globalBatchSize",
    "gradientAccumulation",
    "learningRateScaling",
    "warmupEpochs",
    "compression",
    "shuffle",
    "seed",
    "monitor",
    "monitorMode",
    "classWeights",
    "lossWeights",
    "binaryFormat",
    "sparseVectors",
    "nullPolicy",
    "featuresCol",
    "inputCols",
    "columnShapes",
    "labelCol",
    "labelCols",
    "weightCol",
    "balance",
    "dtypePolicy",
)


class FitDirectory:
    """The directory of a fit that runs.

    Attributes:
        store: where the checkpoints are.
        first_attempt: number of this fit's first attempt; more than 1 where it goes on with another fit's.
        tracked: the id of the tracker's record of that other fit; empty where there is none.
    """

    def __init__(self, store: Store, record: dict[str, Any]) -> None:
        self.store = store
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
        return FitDirectory(store, _new_record({}))

    @staticmethod
    def find(directory: Store, kind: Mapping[str, str], say: Callable[[str], None]) -> FitDirectory:
        """The unfinished one of this kind in the user's directory, or a new one.

        Args:
            directory: the user's checkpointDir.
            kind: the `fingerprint` of what is to be trained.
            say: is told of unfinished ones that can't be used.
        """
        for name in reversed(directory.names()):
            store = directory.child(name)
            record = _read(store)
            if record is None or record["finished"]:
                continue
            if _worked_on(record):
                say(
                    f"The unfinished fit in {store.shown} is being worked on, on {record['host']}: it is left as it is."
                )
                continue
            other = [part for part in kind if record["kind"].get(part) != kind[part]]
            if not other:
                say(f"Going on with the unfinished fit in {store.shown}.")
                return FitDirectory(store, record)
            say(f"The unfinished fit in {store.shown} had another {' and '.join(other)}: it is left as it is.")
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        return FitDirectory(directory.child(name), _new_record(kind))

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


def fingerprint(model: bytes, dataset: ConvertedDataset, values: Mapping[str, Any]) -> dict[str, str]:
    """What is trained, in parts that can be told apart: model, columns, rows, options.

    Args:
        model: `.keras` bytes: its layers, optimizer, loss and metrics count, its weights don't.
        dataset: the converted rows: dtypes, shapes, how many there are, and the sum of their numbers, so that the
            folds of a cross-validation are told apart.
        values: the estimator's options.
    """
    parts = {
        "model": _plain(config_text(model)),
        "data schema": repr(dataset.tensors),
        "rows": repr((dataset.rows(validation=False), dataset.rows(validation=True), dataset.checksum)),
        "options": repr([values.get(name) for name in _OPTIONS]),
        "augment": _plain(_config(values.get("augment"))),
    }
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in parts.items()}


def _config(augment: Any) -> str:
    if augment is None:
        return ""
    import keras

    return json.dumps(keras.saving.serialize_keras_object(augment), default=str)


def _plain(config: str) -> str:
    """Without the numbers of names and shared objects, which Keras gives as they are made in a process."""
    return re.sub(r'"shared_object_id": \d+', "", re.sub(r'_\d+"', '"', config))


def _new_record(kind: Mapping[str, str]) -> dict[str, Any]:
    return {"kind": dict(kind), "finished": False, "attempts": 0}


def _read(store: Store) -> dict[str, Any] | None:
    try:
        record = json.loads(store.read(_RECORD))
        return record if {"kind", "finished", "attempts", "host", "pid", "at"} <= record.keys() else None
    except (StoreError, ValueError, AttributeError):
        return None  # not ours, or damaged


def _worked_on(record: Mapping[str, Any]) -> bool:
    if time.time() - record["at"] >= _LEASE_SECONDS:
        return False  # also where a container's new process has the old one's number
    return record["host"] != socket.gethostname() or (record["pid"] is not None and is_alive(record["pid"]))
