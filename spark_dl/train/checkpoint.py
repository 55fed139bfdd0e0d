"""Checkpoints of one fit: everything needed to resume training exactly, written completely or not at all.

A checkpoint is a `.keras` file (weights, optimizer, compile options), a `.callbacks` file if the user's callbacks have
state, an `.optimizers` file if optimizers have variables that Keras doesn't save, and a `.json` record of the same name
with the position and the digests. The record is written last: a file that was truncated or has no record is no
checkpoint. Names contain the attempt, so that an abandoned attempt that still runs can't overwrite files of its
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

# A record can't make the reader open any other file name than these.
_MODEL_FILE = re.compile(r"epoch-\d+(-step-\d+)?(-attempt-\d+)?\.keras")


@dataclass(frozen=True)
class Checkpoint:
    """Record of a training position and the files that belong to it.

    Attributes:
        epoch: The number of completed epochs.
        step: The number of steps taken in the next epoch; 0 at the end of an epoch.
        workers: The number of ranks that trained.
        attempt: The number of the attempt that wrote it, from 1.
        history: The values of each metric after each completed epoch; an epoch's value is a list if the metric has
            several.
        best_epoch: The best completed epoch, from 0; -1 if there is none.
        best_value: The monitored metric's value in the best epoch.
        best_file: The model file of the best epoch.
        metrics: The state of the metrics in the current epoch, joined over ranks; one list per variable.
        seeds: The random number generator states of rank 0, which a `.keras` file doesn't contain.
        sha256: The digest of the model file.
        callbacks_sha256: The digest of the callbacks' state; empty if there is none.
        optimizers_sha256: The digest of the optimizer state that a `.keras` file leaves out; empty if there is none.
        stopped: Whether a callback has stopped the training here.
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
        """File name without its extension."""
        step = f"-step-{self.step:08d}" if self.step else ""
        return f"epoch-{self.epoch:06d}{step}" + (f"-attempt-{self.attempt}" if self.attempt > 1 else "")

    @property
    def model_file(self) -> str:
        """Name of the model file."""
        return f"{self.name}.keras"

    @property
    def callbacks_file(self) -> str:
        """Name of the file with the callbacks' state; empty if there is none."""
        return f"{self.name}.callbacks" if self.callbacks_sha256 else ""

    @property
    def optimizers_file(self) -> str:
        """Name of the file with the optimizer state that a `.keras` file leaves out; empty if there is none."""
        return f"{self.name}.optimizers" if self.optimizers_sha256 else ""

    @property
    def position(self) -> str:
        """Position in words, for messages."""
        return f"step {self.step} of epoch {self.epoch + 1}" if self.step else f"the end of epoch {self.epoch}"


class Checkpoints:
    """Writer of the checkpoints of one attempt, used by rank 0 only.

    Args:
        store: The checkpoint directory of the fit.
        keep: The number of latest checkpoints to keep, in addition to the best epoch's model.
    """

    def __init__(self, store: Store, keep: int) -> None:
        self._store = store
        self._keep = keep

    def save(self, checkpoint: Checkpoint, model: bytes, callbacks: bytes = b"", optimizers: bytes = b"") -> None:
        """Write a checkpoint, then delete the oldest ones.

        Args:
            checkpoint: The record; its digests are filled in here.
            model: The `.keras` bytes, with the optimizer state.
            callbacks: The state of the callbacks.
            optimizers: The optimizer state that a `.keras` file leaves out.

        Raises:
            StoreError: The checkpoint can't be written; earlier ones are unchanged.
        """
        whole = replace(
            checkpoint,
            sha256=_digest(model),
            callbacks_sha256=_digest(callbacks),
            optimizers_sha256=_digest(optimizers),
        )
        self._store.make()  # it may have been removed meanwhile
        self._store.write(whole.model_file, model)
        if callbacks:
            self._store.write(whole.callbacks_file, callbacks)
        if optimizers:
            self._store.write(whole.optimizers_file, optimizers)
        self._store.write(f"{whole.name}.json", json.dumps(asdict(whole)).encode())
        self._drop(whole)

    def _drop(self, newest: Checkpoint) -> None:
        # Checkpoints of later attempts belong to other writers.
        known = [c for c in _records(self._store) if c.attempt <= newest.attempt]
        # Resuming with another number of workers may need a checkpoint at an epoch's end.
        staying = known[: self._keep] + [c for c in known if not c.step][:1]
        kept = {c.model_file for c in staying} | {newest.best_file}
        for old in known:
            if old not in staying:
                self._store.remove(f"{old.name}.json")
                for file in filter(None, (old.callbacks_file, old.optimizers_file)):
                    self._store.remove(file)
                if old.model_file not in kept:
                    self._store.remove(old.model_file)
        # Former best models whose records are already deleted.
        bests = {c.best_file for c in known if c.best_file} - kept
        for name in bests:
            self._store.remove(name)


def latest(store: Store, whole_epochs: bool = False) -> tuple[Checkpoint, bytes] | None:
    """Return the newest complete checkpoint and its model; warn of newer ones that are damaged.

    Args:
        store: The checkpoint directory of the fit.
        whole_epochs: Whether to skip checkpoints within an epoch.

    Returns:
        The record and the `.keras` bytes; None if there is no complete checkpoint.
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
        warn(f"The checkpoint {store.url}/{checkpoint.model_file} can't be used: {problem}. An earlier one is used.")
    return None


def progress_of(store: Store) -> tuple[int, int]:
    """Return the number of completed epochs and of steps in the next one, by the fit's newest checkpoint."""
    newest = _records(store)[:1]
    return (newest[0].epoch, newest[0].step) if newest else (0, 0)


def _digest(content: bytes) -> str:
    """Return the SHA-256 of the content as hex digits; empty for empty content."""
    return hashlib.sha256(content).hexdigest() if content else ""


def _records(store: Store) -> list[Checkpoint]:
    """Return the readable records, newest first: later attempts before earlier ones, then by position."""
    return sorted(_read_all(store), key=lambda c: (c.attempt, c.epoch, c.step), reverse=True)


def _read_all(store: Store) -> Iterator[Checkpoint]:
    for name in store.names():
        if name.startswith("epoch-") and name.endswith(".json"):
            try:
                checkpoint = Checkpoint(**json.loads(store.read(name)))
            except (StoreError, ValueError, TypeError):
                continue  # truncated, or written by another release
            if _names_own_files(checkpoint):
                yield checkpoint
            else:
                text = f"The record {store.url}/{name} isn't one of a checkpoint: it is passed over."
                warn(text)


def _names_own_files(checkpoint: Checkpoint) -> bool:
    """Return whether a record refers only to checkpoint files in its own directory."""
    numbers = (checkpoint.epoch, checkpoint.step, checkpoint.workers, checkpoint.attempt)
    if not all(type(number) is int and number >= 0 for number in numbers):
        return False  # these numbers are part of file names
    best = checkpoint.best_file
    return best == "" or (isinstance(best, str) and _MODEL_FILE.fullmatch(best) is not None)
