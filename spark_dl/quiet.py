"""Imports without TensorFlow's start-up lines, which no log level hides on every CPU."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import tempfile
from collections.abc import Iterator

from spark_dl.gc_pause import gc_paused

__all__ = ["quiet_imports", "quiet_start"]

_STDERR = 2
# Lines below the level of errors, by absl and by TensorFlow's own logging.
_START_UP = re.compile(
    rb"[IW]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: [IW] |WARNING: All log messages before absl"
    rb"|To enable the following instructions:"
)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Drop the lines that TensorFlow writes to the process's standard error while it is imported in the `with`.

    TensorFlow logs in C++ while it is loaded, in part before it reads TF_CPP_MIN_LOG_LEVEL: the messages are caught at
    the file descriptor. All other lines are written afterwards; so is everything if the import fails. No other thread
    may be in such a `with` at the same time.
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
            caught.seek(0)
            lines = caught.readlines()
            os.write(_STDERR, b"".join(line for line in lines if failed or not _START_UP.match(line)))


def quiet_start() -> None:
    """Import TensorFlow and Keras without the lines that TensorFlow prints when it is imported.

    For the first cell of a notebook, before `import keras`. TensorFlow's errors are still shown.
    """
    with quiet_imports():
        importlib.import_module("keras")
