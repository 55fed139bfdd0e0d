"""TensorFlow's profiler over some steps of one rank."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from spark_dl.io.store import Store
from spark_dl.train.plan import PROFILE

__all__ = ["TraceSteps"]

# Steps before it are those in which TensorFlow compiles and caches are filled.
_FIRST, _COUNT = 10, 20


class TraceSteps(keras.callbacks.Callback):
    """Traces 20 steps, from the tenth on or, in short epochs, from the second; the trace goes to the workspace.

    Args:
        workspace: takes the trace, under the name PROFILE.
        steps: steps in an epoch.
    """

    def __init__(self, workspace: Store, steps: int) -> None:
        super().__init__()
        self._workspace = workspace
        self._next = min(_FIRST, max(1, steps - _COUNT))
        self._left = _COUNT
        self._seen = 0
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begin to trace, if it is time."""
        if self._seen == self._next and self._left:
            self._directory = tempfile.TemporaryDirectory(prefix="spark-dl-profile-")
            tf.profiler.experimental.start(self._directory.name)
        self._seen += 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count; end when there are enough."""
        if self._directory is not None:
            self._left -= 1
            if not self._left:
                self._end()

    def on_train_end(self, logs: Any = None) -> None:
        """There were fewer steps."""
        self._end()

    def _end(self) -> None:
        if self._directory is None:
            return
        tf.profiler.experimental.stop()
        with self._directory as name:
            self._workspace.write(PROFILE, next(Path(name).rglob("*.xplane.pb")).read_bytes())
        self._directory, self._left = None, 0
