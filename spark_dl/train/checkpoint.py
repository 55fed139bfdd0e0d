"""Checkpoints of one fit: a `.keras` file for each epoch, written whole, the latest and the best of them kept."""

from __future__ import annotations

import json
from typing import Any

from spark_dl.store import Store

__all__ = ["Checkpoints"]

_INDEX = "checkpoints.json"


class Checkpoints:
    """The checkpoints in a directory. Rank 0 alone writes.

    Args:
        store: the directory; no other fit writes in it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._best: str | None = None

    def save(self, epoch: int, model: bytes, logs: dict[str, float], best: bool) -> None:
        """Add an epoch's checkpoint; then drop those that are neither the latest nor the best.

        Args:
            epoch: from 0.
            model: `.keras` bytes, with the optimizer's state.
            logs: the epoch's metrics.
            best: whether it is the best so far.
        """
        name = f"epoch-{epoch + 1:06d}.keras"
        self._store.write(name, model)
        if best:
            self._best = name
        index: dict[str, Any] = {"epoch": epoch, "latest": name, "best": self._best, "logs": logs}
        self._store.write(_INDEX, json.dumps(index).encode())
        for other in self._store.names():
            if other.endswith(".keras") and other not in (name, self._best):
                self._store.remove(other)

    def best(self) -> bytes | None:
        """The best checkpoint's model, if any epoch was best."""
        return self._store.read(self._best) if self._best else None
