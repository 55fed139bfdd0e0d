"""Callback that runs TensorFlow's profiler over some steps of a rank."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from spark_dl.io.store import Store
from spark_dl.train.plan import PROFILE

__all__ = ["TraceSteps"]

# In the first steps TensorFlow compiles and caches fill.
_FIRST, _COUNT = 10, 20


class TraceSteps(keras.callbacks.Callback):
    """Callback that profiles 20 steps after the first 10 (fewer in short epochs, at least one) and saves the trace.

    Args:
        workspace: The store that takes the trace, under the name PROFILE.
        steps: The number of steps in an epoch.
    """

    def __init__(self, workspace: Store, steps: int) -> None:
        super().__init__()
        self._workspace = workspace
        self._next = min(_FIRST, max(1, steps - _COUNT))
        self._left = _COUNT
        self._seen = 0
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start the profiler at the first step to trace."""
        if self._seen == self._next and self._left:
            self._directory = tempfile.TemporaryDirectory(prefix="spark-dl-profile-")
            tf.profiler.experimental.start(self._directory.name)
        self._seen += 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop the profiler after the last step to trace."""
        if self._directory is not None:
            self._left -= 1
            if not self._left:
                self._end()

    def on_train_end(self, logs: Any = None) -> None:
        """Stop the profiler if training ended earlier."""
        self._end()

    def _end(self) -> None:
        if self._directory is None:
            return
        tf.profiler.experimental.stop()
        with self._directory as name:
            self._workspace.write(PROFILE, next(Path(name).rglob("*.xplane.pb")).read_bytes())
        self._directory, self._left = None, 0
