"""Importing: much at once, and what its bookkeeping costs a Python worker of Spark."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import zipimport
from collections.abc import Iterator

__all__ = ["forget_archives", "importing"]


def forget_archives() -> None:
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


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without looking for garbage: what TensorFlow makes stays, and to search it takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
