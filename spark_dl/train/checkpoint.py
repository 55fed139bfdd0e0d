"""Checkpoints of one fit: what training needs to go on as if nothing had happened, written whole or not at all.

A checkpoint is a `.keras` file (weights, optimizer, compile options), a `.callbacks` file where the user's callbacks
remember something, and, written after them, a `.json` of the same name with the position and the digests. So a file
that was cut short, or whose record is missing, is no checkpoint. Names carry the attempt: one that was given up and
still runs overwrites nothing of its successor.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

from spark_dl.errors import StoreError
from spark_dl.redaction import warn
from spark_dl.store import Store

__all__ = ["Checkpoint", "Checkpoints", "latest"]


@dataclass(frozen=True)
class Checkpoint:
    """A position in the training, and what belongs to it.

    Attributes:
        epoch: epochs that are over.
        step: steps taken in the epoch after them; 0 at an epoch's end.
        workers: number of ranks that trained.
        attempt: which attempt wrote it, from 1.
        history: each metric's value after each epoch that is over.
        best_epoch: the best of them, from 0; -1 where there was none.
        best_value: its value of the monitored metric.
        best_file: the model file of the best epoch.
        metrics: state of the metrics in the epoch under way, summed over the ranks; one list for each variable.
        seeds: rank 0's states of the random numbers, which a `.keras` file does not hold.
        sha256: digest of the model file.
        callbacks_sha256: digest of the callbacks' state; empty where there is none.
    """

    epoch: int
    step: int
    workers: int
    attempt: int
    history: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int = -1
    best_value: float = math.nan
    best_file: str = ""
    metrics: list[list[float]] = field(default_factory=list)
    seeds: list[list[int]] = field(default_factory=list)
    sha256: str = ""
    callbacks_sha256: str = ""

    @property
    def name(self) -> str:
        """Of its files, without the ending."""
        step = f"-step-{self.step:08d}" if self.step else ""
        return f"epoch-{self.epoch:06d}{step}" + (f"-attempt-{self.attempt}" if self.attempt > 1 else "")

    @property
    def model_file(self) -> str:
        """The file of the model."""
        return f"{self.name}.keras"

    @property
    def callbacks_file(self) -> str:
        """The file of the callbacks' state; empty where there is none."""
        return f"{self.name}.callbacks" if self.callbacks_sha256 else ""

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"step {self.step} of epoch {self.epoch + 1}" if self.step else f"the end of epoch {self.epoch}"


class Checkpoints:
    """Writes the checkpoints of one attempt. Rank 0 alone does.

    Args:
        store: the directory of the fit.
        keep: how many of the latest stay; the best epoch's stays besides.
    """

    def __init__(self, store: Store, keep: int) -> None:
        self._store = store
        self._keep = keep

    def save(self, checkpoint: Checkpoint, model: bytes, callbacks: bytes = b"") -> None:
        """Add a checkpoint; then drop the oldest.

        Args:
            checkpoint: the record; its digests are filled in here.
            model: `.keras` bytes, with the optimizer's state.
            callbacks: what they remember.

        Raises:
            StoreError: it can't be written; the earlier ones are as they were.
        """
        whole = replace(checkpoint, sha256=_digest(model), callbacks_sha256=_digest(callbacks) if callbacks else "")
        self._store.make()  # somebody may have removed it
        self._store.write(whole.model_file, model)
        if callbacks:
            self._store.write(whole.callbacks_file, callbacks)
        self._store.write(f"{whole.name}.json", json.dumps(asdict(whole)).encode())
        self._drop(whole)

    def _drop(self, newest: Checkpoint) -> None:
        # Those of later attempts aren't ours.
        known = [c for c in _records(self._store) if c.attempt <= newest.attempt]
        # Another number of workers can only begin at an epoch's end.
        staying = known[: self._keep] + [c for c in known if not c.step][:1]
        kept = {c.model_file for c in staying} | {newest.best_file}
        for old in known:
            if old not in staying:
                self._store.remove(f"{old.name}.json")
                if old.callbacks_file:
                    self._store.remove(old.callbacks_file)
                if old.model_file not in kept:
                    self._store.remove(old.model_file)
        bests = {c.best_file for c in known} - kept  # a best that has been beaten, and whose record is gone
        for name in bests:
            self._store.remove(name)


def latest(store: Store, whole_epochs: bool = False) -> tuple[Checkpoint, bytes] | None:
    """The newest checkpoint that is whole, with its model; warns of newer ones that are damaged.

    Args:
        store: the directory of the fit.
        whole_epochs: pass over those within an epoch.
    """
    for checkpoint in _records(store):
        if whole_epochs and checkpoint.step:
            continue
        try:
            model = store.read(checkpoint.model_file)
            callbacks = store.read(checkpoint.callbacks_file) if checkpoint.callbacks_file else b""
        except StoreError as error:
            problem = str(error)
        else:
            whole = not callbacks or _digest(callbacks) == checkpoint.callbacks_sha256
            if whole and _digest(model) == checkpoint.sha256:
                return checkpoint, model
            problem = "its content isn't what was written"
        warn(f"The checkpoint {store.url}/{checkpoint.model_file} can't be used: {problem}. An earlier one serves.", 2)
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _records(store: Store) -> list[Checkpoint]:
    """The checkpoints whose records can be read, newest first: a later attempt's before those of the one it follows."""
    return sorted(_read_all(store), key=lambda c: (c.attempt, c.epoch, c.step), reverse=True)


def _read_all(store: Store) -> Iterator[Checkpoint]:
    for name in store.names():
        if name.startswith("epoch-") and name.endswith(".json"):
            try:
                yield Checkpoint(**json.loads(store.read(name)))
            except (StoreError, ValueError, TypeError):
                continue  # cut short, or of another release
