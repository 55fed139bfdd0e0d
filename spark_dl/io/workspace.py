"""The temporary directory of one fit: owned by a `with`, found again by `spark-dl clean` after a killed driver."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
import uuid

from spark_dl.errors import OptionError, StoreError, explain
from spark_dl.io.store import Store
from spark_dl.redaction import warn

__all__ = ["Workspace", "clean", "free_bytes", "is_alive"]

_PREFIX = "spark-dl-"
_OWNER = "owner.json"


class Workspace:
    """A new directory below `cache_dir`, or a temporary one, removed when the `with` ends, well or not.

    Args:
        cache_dir: a directory or URL that driver and executors share; None for a temporary directory.
        master: Spark's master URL: a temporary directory does only where all is on one machine.

    Raises:
        OptionError: there is no cache_dir, and the executors are elsewhere; or Petastorm could not read it.
        StoreError: the directory can't be made.
    """

    def __init__(self, cache_dir: str | None, master: str) -> None:
        if cache_dir is None and not master.startswith("local"):
            raise OptionError(
                explain(
                    "The driver and the executors need a directory that they share.",
                    expected="cacheDir=<a path or URL that all of them can read and write>",
                    received=f"cacheDir=None on {master}",
                    fix="Set cacheDir, for example to a directory on NFS, HDFS or an object store.",
                )
            )
        if cache_dir is not None and any(mark in cache_dir for mark in "#?"):
            raise OptionError(
                explain(
                    "Petastorm reads paths as URLs, and would cut this one.",
                    expected="a cacheDir without # and ?",
                    received=f"cacheDir={cache_dir!r}",
                    fix="Give another directory.",
                )
            )
        self._parent = cache_dir
        self.store = Store("")

    def __enter__(self) -> Store:
        if self._parent is None:
            self.store = Store.at(tempfile.mkdtemp(prefix=_PREFIX))
        else:
            self.store = Store.at(self._parent).child(f"{_PREFIX}{uuid.uuid4().hex[:12]}")
        try:
            self.store.make()
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
            self.store.write(_OWNER, json.dumps(owner).encode())
        except BaseException:
            self.store.delete()
            raise
        return self.store

    def __exit__(self, *error: object) -> None:
        try:
            self.store.delete()
        except StoreError as left:  # neither a fitted model nor the real cause may be lost for it
            warn(f"{left} `spark-dl clean` removes it later.", 2)


def clean(cache_dir: str) -> list[str]:
    """Remove what killed drivers of this host left in a cache directory.

    Returns:
        the directories removed. Those of living processes, and of other hosts, stay.

    Raises:
        StoreError: there is no such directory.
    """
    removed = []
    parent = Store.at(cache_dir)
    if parent.is_local and not os.path.exists(parent.path):
        raise StoreError(explain("There is no such directory.", expected="a cache directory", received=cache_dir))
    for name in parent.names():
        if not name.startswith(_PREFIX):
            continue
        try:
            store = parent.child(name)
            owner = json.loads(store.read(_OWNER))
            host, pid = owner["host"], int(owner["pid"])
        except (StoreError, ValueError, KeyError, TypeError, OverflowError):
            continue  # not ours, or being made
        if host == socket.gethostname() and not is_alive(pid):
            store.delete()
            removed.append(store.shown)
    return removed


def is_alive(pid: int) -> bool:
    """Whether this host has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # the latter names no process; what names it isn't ours
        return True
    return True


def free_bytes(store: Store) -> int | None:
    """Free space of a local store's file system; None where it can't be told."""
    return shutil.disk_usage(store.path).free if store.is_local else None
