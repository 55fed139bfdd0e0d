"""The Delta table that files belong to, and its version, from the table's log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
            when a part of the table's files was read.
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
    """Return the latest version whose files are those wanted, from the last checkpoint on or else from the first."""
    names = log.names()
    commits = sorted((int(found[1]), name) for name in names if (found := _COMMIT.fullmatch(name)))
    begin, active = _checkpoint(log, names)
    match = begin if active == wanted and begin >= 0 else None
    for version, name in commits:
        if version <= begin:
            continue
        for line in log.read(name).decode().splitlines():
            _apply(json.loads(line), active)
        if active == wanted:
            match = version
    return match


def _checkpoint(log: Store, names: Iterable[str]) -> tuple[int, set[str]]:
    """Return the version of the first checkpoint, and its files; -1 and none where the first commit is still there."""
    found = sorted((int(part[1]), name) for name in names if (part := _CHECKPOINT.fullmatch(name)))
    if f"{0:020d}.json" in names or not found:
        return -1, set()
    active: set[str] = set()
    filesystem, path = log.open()
    for version, name in found:
        if version == found[0][0]:
            column = pq.read_table(f"{path}/{name}", columns=["add"], filesystem=filesystem).column("add")
            active |= {unquote(one["path"]) for one in column.to_pylist() if one}
    return found[0][0], active


def _apply(action: dict[str, dict[str, str]], active: set[str]) -> None:
    if "add" in action:
        active.add(unquote(action["add"]["path"]))
    elif "remove" in action:
        active.discard(unquote(action["remove"]["path"]))
