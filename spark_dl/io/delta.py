"""The Delta table that files belong to, and its version, from the table's log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from spark_dl.errors import StoreError
from spark_dl.io.store import Store

__all__ = ["DeltaTable", "delta_table"]

_LOG = "_delta_log"
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.\d{10})?\.parquet")


@dataclass(frozen=True)
class DeltaTable:
    """A Delta table at a version.

    Attributes:
        path: The path or URL of its directory.
        version: The latest version that consists of the files; None if none of those that the log still has does, as
            when a part of the table's files was read, or if versions differ only in which rows of the files they have
            deleted (deletion vectors).
    """

    path: str
    version: int | None


def delta_table(files: Sequence[str]) -> DeltaTable | None:
    """Find the Delta table that files belong to.

    Only local paths are looked at, mounts included: the driver may lack the credentials that Spark has for others.

    Args:
        files: The files that Spark has read, as URLs.

    Returns:
        The table; None if the files belong to none, to several, or if its log can't be read.
    """
    try:
        stores = {Store.at(unquote(file)): None for file in files}
        if not stores or not all(store.is_local for store in stores):
            return None
        names = [store.path for store in stores]
        root = _root(names[0])
        if root is None or not all(name.startswith(f"{root}/") for name in names):
            return None
        wanted = {name.removeprefix(f"{root}/") for name in names}
        return DeltaTable(root, _version(Store.at(root).child(_LOG), wanted))
    except (StoreError, OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


def _root(file: str) -> str | None:
    """Return the nearest directory above a file that has a log of Delta."""
    place = file.rpartition("/")[0]
    while place:
        if _LOG in Store.at(place).names():
            return place
        place = place.rpartition("/")[0]
    return None


def _version(log: Store, wanted: set[str]) -> int | None:
    """Return the latest version whose files are those wanted, from the first checkpoint on or else from the first."""
    names = log.names()
    commits = sorted((int(found[1]), name) for name in names if (found := _COMMIT.fullmatch(name)))
    last, active = _checkpoint(log, names)
    match, deleted = (last, dict(active)) if last >= 0 and set(active) == wanted else (None, active)
    for version, name in commits:
        if version <= last:
            continue
        if version != last + 1:  # commits are missing, or a checkpoint of another form
            return None
        last = version
        _apply([json.loads(line) for line in log.read(name).decode().splitlines()], active)
        if set(active) == wanted:
            if match is not None and deleted != active:
                return None
            match, deleted = version, dict(active)
    return match


def _checkpoint(log: Store, names: Iterable[str]) -> tuple[int, dict[str, str]]:
    """Return the version of the first checkpoint, and its files; -1 and none where the first commit is still there.

    Returns:
        The version, and the text of the deletion vector of each file, "" without one.
    """
    found = sorted((int(part[1]), name) for name in names if (part := _CHECKPOINT.fullmatch(name)))
    if f"{0:020d}.json" in names or not found:
        return -1, {}
    active: dict[str, str] = {}
    filesystem, path = log.open()
    for version, name in found:
        if version == found[0][0]:
            column = pq.read_table(f"{path}/{name}", columns=["add"], filesystem=filesystem).column("add")
            _apply([{"add": one} for one in column.to_pylist() if one], active)
    return found[0][0], active


def _apply(actions: Sequence[dict[str, Any]], active: dict[str, str]) -> None:
    """Apply the actions of a commit, which may come in any order."""
    for action in actions:
        if "remove" in action:
            active.pop(unquote(action["remove"]["path"]), None)
    for action in actions:
        if "add" in action:
            vector = action["add"].get("deletionVector") or {}
            parts = (vector.get(name) for name in ("storageType", "pathOrInlineDv", "offset"))
            active[unquote(action["add"]["path"])] = json.dumps(list(parts)) if vector else ""
