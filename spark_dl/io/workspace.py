"""Temporary directory of one fit, removed when its `with` ends, or by `spark-dl clean` if the driver was killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
import uuid

from spark_dl.errors import OptionError, StoreError, explain
from spark_dl.io.storage_options import StorageOptions
from spark_dl.io.store import Store
from spark_dl.redaction import warn

__all__ = ["Workspace", "clean", "free_bytes", "is_alive"]

_PREFIX = "spark-dl-"
_OWNER = "owner.json"


class Workspace:
    """New directory below `cache_dir`, or in the system's temporary directory, removed when the `with` ends.

    Args:
        cache_dir: The directory or URL that driver and executors share; None for a local temporary directory.
        master: Spark's master URL. Only a local master can do without `cache_dir`.
        options: The options of the file system of `cache_dir`; None for none.

    Attributes:
        store: The directory, once the `with` has begun.

    Raises:
        OptionError: `cache_dir` is None and the master isn't local.
        StoreError: The directory can't be made.
    """

    def __init__(self, cache_dir: str | None, master: str, options: StorageOptions | None = None) -> None:
        if cache_dir is None and not master.startswith("local"):
            raise OptionError(
                explain(
                    "The driver and the executors need a directory that they share.",
                    expected="cacheDir=<a path or URL that all of them can read and write>",
                    received=f"cacheDir=None on {master}",
                    fix="Set cacheDir, for example to a directory on NFS, HDFS or an object store.",
                )
            )
        self._parent, self._options = cache_dir, options
        self.store = Store("")

    def __enter__(self) -> Store:
        if self._parent is None:
            self.store = Store.at(tempfile.mkdtemp(prefix=_PREFIX))
        else:
            self.store = Store.at(self._parent, self._options).child(f"{_PREFIX}{uuid.uuid4().hex[:12]}")
        try:
            self.store.make()
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
            self.store.write(_OWNER, json.dumps(owner).encode())
        except BaseException:
            with contextlib.suppress(StoreError):  # where the directory can't be made, it can't be removed either
                self.store.delete()
            raise
        return self.store

    def __exit__(self, *error: object) -> None:
        try:
            self.store.delete()
        except StoreError as left:  # must cost neither the fitted model nor the original error
            warn(f"{left} `spark-dl clean` removes it later.")


def clean(cache_dir: str) -> list[str]:
    """Remove the workspaces that killed drivers of this host have left in a cache directory.

    Args:
        cache_dir: The cache directory or its URL.

    Returns:
        The removed directories. Those of running processes and of other hosts stay.

    Raises:
        StoreError: There is no such directory, or it can't be read or written.
        OptionError: The variable SPARK_DL_STORAGE_OPTIONS can't be used.
    """
    removed = []
    parent = Store.at(cache_dir, StorageOptions.of(None))
    if parent.is_local and not os.path.exists(parent.path):
        raise StoreError(
            explain(
                "There is no such directory.",
                expected="a cache directory",
                received=cache_dir,
                fix="Check the path: cacheDir is the option of the fits.",
            )
        )
    for name in parent.names():
        if not name.startswith(_PREFIX):
            continue
        try:
            store = parent.child(name)
            owner = json.loads(store.read(_OWNER))
            host, pid = owner["host"], int(owner["pid"])
        except (StoreError, ValueError, KeyError, TypeError, OverflowError):
            continue  # not a workspace, or one that is being made
        if host == socket.gethostname() and not is_alive(pid):
            store.delete()
            removed.append(store.shown)
    return removed


def is_alive(pid: int) -> bool:
    """Return whether this host has a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's process, or no valid process id
        return True
    return True


def free_bytes(store: Store) -> int | None:
    """Return the free bytes of a local store's file system; None for other stores."""
    return shutil.disk_usage(store.path).free if store.is_local else None
