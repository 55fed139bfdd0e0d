"""What a task does so that Spark can give its Python worker to the next task, with all that is imported in it."""

from __future__ import annotations

import os
import sys
import zipimport
from collections import deque
from collections.abc import Iterable

__all__ = ["keep_worker", "purge_zipimport_cache"]


def keep_worker(batches: Iterable[object]) -> None:
    """Take a task's input where only the task itself matters.

    Spark ends a worker whose function has left input unread, and the next task's imports all anew.
    """
    purge_zipimport_cache()
    deque(batches, maxlen=0)


def purge_zipimport_cache() -> None:
    """Let this Python worker of Spark forget what it has read of archives, and Spark's own jar, which holds no Python.

    As each task begins, PySpark 4.0 calls importlib.invalidate_caches, and Python 3.11 reads the list of files of every
    archive that was imported from again, once for each package: longer than many a task. The next tasks are spared it;
    what is imported later finds its archive again.
    """
    sys.path[:] = [path for path in sys.path if not _is_spark_core(path)]
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]


def _is_spark_core(path: str) -> bool:
    name = os.path.basename(path)
    return name.startswith("spark-core_") and name.endswith(".jar")
