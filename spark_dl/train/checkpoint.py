"""Checkpoints of one fit: what training needs to go on as if nothing had happened, written whole or not at all.

A checkpoint is a `.keras` file (weights, optimizer, compile options), a `.callbacks` file where the user's callbacks
remember something, an `.optimizers` file where optimizers have variables that Keras doesn't save, and, written after
them, a `.json` of the same name with the position and the digests. So a file that was cut short, or whose record is
missing, is no checkpoint. Names carry the attempt: one that was given up and still runs overwrites nothing of its
successor.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from spark_dl.errors import StoreError
from spark_dl.io.store import Store
from spark_dl.redaction import warn

__all__ = ["Checkpoint", "Checkpoints", "latest", "progress_of"]

# Whatever else stands in a record, it leads to no other file than these.
_MODEL_FILE = re.compile(r"epoch-\d+(-step-\d+)?(-attempt-\d+)?\.keras")


@dataclass(frozen=True)
class Checkpoint:
    """A position in the training, and what belongs to it.

    Attributes:
        epoch: epochs that are over.
        step: steps taken in the epoch after them; 0 at an epoch's end.
        workers: number of ranks that trained.
        attempt: which attempt wrote it, from 1.
        history: each metric's value after each epoch that is over; a list where it has several.
        best_epoch: the best of them, from 0; -1 where there was none.
        best_value: its value of the monitored metric.
        best_file: the model file of the best epoch.
        metrics: state of the metrics in the epoch under way, joined over the ranks; one list for each variable.
        seeds: rank 0's states of the random numbers, which a `.keras` file does not hold.
        sha256: digest of the model file.
        callbacks_sha256: digest of the callbacks' state; empty where there is none.
        optimizers_sha256: digest of what a `.keras` file leaves out of the optimizers; empty where it is nothing.
        stopped: Whether a callback has ended the training here.
    """

    epoch: int
    step: int
    workers: int
    attempt: int
    history: dict[str, list[Any]] = field(default_factory=dict)
    best_epoch: int = -1
    best_value: float = math.nan
    best_file: str = ""
    metrics: list[list[float]] = field(default_factory=list)
    seeds: list[list[int]] = field(default_factory=list)
    sha256: str = ""
    callbacks_sha256: str = ""
    optimizers_sha256: str = ""
    stopped: bool = False

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
    def optimizers_file(self) -> str:
        """The file of what a `.keras` file leaves out of the optimizers; empty where it is nothing."""
        return f"{self.name}.optimizers" if self.optimizers_sha256 else ""

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

    def save(self, checkpoint: Checkpoint, model: bytes, callbacks: bytes = b"", optimizers: bytes = b"") -> None:
        """Add a checkpoint; then drop the oldest.

        Args:
            checkpoint: the record; its digests are filled in here.
            model: `.keras` bytes, with the optimizer's state.
            callbacks: what they remember.
            optimizers: what a `.keras` file leaves out of them.

        Raises:
            StoreError: it can't be written; the earlier ones are as they were.
        """
        whole = replace(
            checkpoint,
            sha256=_digest(model),
            callbacks_sha256=_digest(callbacks),
            optimizers_sha256=_digest(optimizers),
        )
        self._store.make()  # somebody may have removed it
        self._store.write(whole.model_file, model)
        if callbacks:
            self._store.write(whole.callbacks_file, callbacks)
        if optimizers:
            self._store.write(whole.optimizers_file, optimizers)
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
                for file in filter(None, (old.callbacks_file, old.optimizers_file)):
                    self._store.remove(file)
                if old.model_file not in kept:
                    self._store.remove(old.model_file)
        # A best that has been beaten, and whose record is gone.
        bests = {c.best_file for c in known if c.best_file} - kept
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
            files = (checkpoint.callbacks_file, checkpoint.optimizers_file)
            callbacks, optimizers = (store.read(file) if file else b"" for file in files)
        except StoreError as error:
            problem = str(error)
        else:
            digests = (_digest(model), _digest(callbacks), _digest(optimizers))
            if digests == (checkpoint.sha256, checkpoint.callbacks_sha256, checkpoint.optimizers_sha256):
                return checkpoint, model
            problem = "its content isn't what was written"
        warn(f"The checkpoint {store.url}/{checkpoint.model_file} can't be used: {problem}. An earlier one serves.", 2)
    return None


def progress_of(store: Store) -> tuple[int, int]:
    """The epochs that the fit has done, by its newest checkpoint, and the steps that it has taken in the next one."""
    newest = _records(store)[:1]
    return (newest[0].epoch, newest[0].step) if newest else (0, 0)


def _digest(content: bytes) -> str:
    """Empty of nothing."""
    return hashlib.sha256(content).hexdigest() if content else ""


def _records(store: Store) -> list[Checkpoint]:
    """The checkpoints whose records can be read, newest first: a later attempt's before those of the one it follows."""
    return sorted(_read_all(store), key=lambda c: (c.attempt, c.epoch, c.step), reverse=True)


def _read_all(store: Store) -> Iterator[Checkpoint]:
    for name in store.names():
        if name.startswith("epoch-") and name.endswith(".json"):
            try:
                checkpoint = Checkpoint(**json.loads(store.read(name)))
            except (StoreError, ValueError, TypeError):
                continue  # cut short, or of another release
            if _names_own_files(checkpoint):
                yield checkpoint
            else:
                text = f"The record {store.url}/{name} isn't one of a checkpoint: it is passed over."
                warn(text, 2)


def _names_own_files(checkpoint: Checkpoint) -> bool:
    """Whether all files that a record leads to are those of checkpoints in its directory."""
    numbers = (checkpoint.epoch, checkpoint.step, checkpoint.workers, checkpoint.attempt)
    if not all(type(number) is int and number >= 0 for number in numbers):
        return False  # they are a part of the names
    best = checkpoint.best_file
    return best == "" or (isinstance(best, str) and _MODEL_FILE.fullmatch(best) is not None)
