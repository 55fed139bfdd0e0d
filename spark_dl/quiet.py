"""Imports without TensorFlow's start-up lines, which no log level hides on every CPU."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterator

from spark_dl.gc_pause import gc_paused

__all__ = ["quiet_imports", "quiet_start"]

_STDERR = 2


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Drop what libraries write to the process's standard error in the `with`; if it fails, write it afterwards.

    TensorFlow logs in C++ while it is loaded, in part before it reads TF_CPP_MIN_LOG_LEVEL: the messages are caught at
    the file descriptor. No other thread may be in such a `with` at the same time.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    saved = os.dup(_STDERR)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), _STDERR)
        failed = True
        try:
            with gc_paused():
                yield
            failed = False
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            if failed:
                caught.seek(0)
                os.write(_STDERR, caught.read())


def quiet_start() -> None:
    """Import TensorFlow and Keras without the lines that TensorFlow prints when it is imported.

    For the first cell of a notebook, before `import keras`. TensorFlow's errors are still shown.
    """
    with quiet_imports():
        importlib.import_module("keras")
