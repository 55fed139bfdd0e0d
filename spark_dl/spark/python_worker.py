"""Reuse of Spark's Python workers, so that the next task finds the imports of this one."""

from __future__ import annotations

import gc
import os
import sys
import zipimport
from collections import deque
from collections.abc import Iterable

__all__ = ["keep_worker", "purge_zipimport_cache", "settle_imports"]


def keep_worker(batches: Iterable[object]) -> None:
    """Read and discard a task's input, so that Spark reuses the Python worker.

    Spark ends a worker whose function has left input unread, and the next task's worker must import everything again.

    Args:
        batches: The task's input.
    """
    purge_zipimport_cache()
    deque(batches, maxlen=0)


def purge_zipimport_cache() -> None:
    """Drop the cached importers of archives in this Python worker, and Spark's own jar from sys.path.

    When a task starts, PySpark 4.0 calls importlib.invalidate_caches, and Python 3.11 then reads the file list of every
    imported archive again, once per package, which may take longer than the task. Without the cached importers, this is
    skipped; later imports make them again. Spark's jar contains no Python.
    """
    sys.path[:] = [path for path in sys.path if not _is_spark_core(path)]
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]


def settle_imports() -> None:
    """Keep this worker's imports out of what Spark does for each of its tasks; to be called after large imports.

    PySpark collects garbage after each task of a worker that it keeps: with TensorFlow imported, a scan of all objects
    takes longer than many a task. What is imported stays, so it needs no scan. Objects of this moment are never freed:
    call this before models are loaded.
    """
    purge_zipimport_cache()
    if not gc.get_freeze_count():
        gc.freeze()


def _is_spark_core(path: str) -> bool:
    name = os.path.basename(path)
    return name.startswith("spark-core_") and name.endswith(".jar")
