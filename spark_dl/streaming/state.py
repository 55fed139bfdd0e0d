"""What a stream trainer keeps from one micro-batch to the next, committed as a whole.

Each commit writes new files under new names, then `state.json`, which names them, under a temporary name that is
renamed: before it the old state holds, from then on the new one. Files that it doesn't name are left over from a crash,
or of the state before, and are removed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spark_dl.errors import StoreError, explain
from spark_dl.io.store import Store

__all__ = ["StreamState", "commit", "read_file", "read_state"]

_STATE = "state.json"
_FORMAT = 1
_ROLES = ("model", "champion", "buffer")


@dataclass
class StreamState:
    """The state after a micro-batch, without the content of its files.

    Attributes:
        query: The id of the streaming query, which stays the same when it restarts from its checkpoint; "" for calls
            outside of a query.
        batch: The id of the last trained micro-batch of that query; -1 for none.
        run: The id of the query's MLflow run; "" without tracking.
        columns: The Spark schema of the columns that are read, as JSON.
        fed: The names of the columns of each model input, then of each label, then the weight, in the order in which
            they are fed; empty in states of releases that didn't keep it.
        classes: The number of classes of the model's output; 0 if it has none.
        files: The names of the files by their role: "model", "champion", "buffer".
        drift: The state of the drift detector.
        scale: The mean absolute error of the first batch, which scales those of later ones for the detector.
        contest: For each batch of the window: its rows, the metric of the model and that of the champion.
        version: The version of the registered model that the alias names.
        unpublished: The batch whose model is the champion and not yet registered; -1 for none.
        metrics: The metrics of the last batch.
        others: For each other query: the id of its last trained micro-batch, and that of its run.
    """

    query: str = ""
    batch: int = -1
    run: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    fed: list[list[str]] = field(default_factory=list)
    classes: int = 0
    files: dict[str, str] = field(default_factory=dict)
    drift: dict[str, Any] | None = None
    scale: float = 0.0
    contest: list[list[float]] = field(default_factory=list)
    version: str = ""
    unpublished: int = -1
    metrics: dict[str, Any] = field(default_factory=dict)
    others: dict[str, tuple[int, str]] = field(default_factory=dict)

    def enter(self, query: str) -> None:
        """Count the batches of a query from now on, from where it was when another one took its place."""
        if query == self.query:
            return
        if self.batch >= 0:
            self.others[self.query] = (self.batch, self.run)
        self.batch, self.run = self.others.pop(query, (-1, ""))
        self.query, self.metrics = query, {}


def read_state(store: Store) -> StreamState:
    """Read the last committed state; a new one if there is none.

    Raises:
        StoreError: The state is damaged, or was written by a newer release.
    """
    if _STATE not in store.names():
        return StreamState()
    try:
        found = json.loads(store.read(_STATE))
        if found.pop("format") != _FORMAT:
            raise ValueError("another format")
        return StreamState(**found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            explain(
                f"The stream trainer's state in {store.shown} can't be read.",
                expected="state.json as this release writes it",
                received=f"{type(error).__name__}: {error}",
                fix="Give another stateDir, or restore the directory.",
            )
        ) from error


def read_file(store: Store, state: StreamState, role: str) -> bytes | None:
    """Read the file of a role; None if the state has none."""
    return store.read(state.files[role]) if role in state.files else None


def commit(store: Store, state: StreamState, contents: Mapping[str, bytes]) -> None:
    """Write new contents of files, then the state that names them; remove the files that it doesn't name.

    Args:
        store: The directory of the state.
        state: The state; its `files` get the new names.
        contents: The new content of each role; files of other roles stay.

    Raises:
        StoreError: The directory can't be written. The state before holds.
    """
    names = {role: f"{role}-{state.batch}-{uuid.uuid4().hex[:8]}" for role in contents}
    for role, content in contents.items():
        store.write(names[role], content)
    state.files = {**state.files, **names}
    store.write(_STATE, json.dumps({"format": _FORMAT, **asdict(state)}).encode())
    for name in store.names():
        if name.partition("-")[0] in _ROLES and name not in state.files.values():
            store.remove(name)
