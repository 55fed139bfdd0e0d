"""Payloads for Spark's tasks, such as a model, which may exceed the message size of Spark Connect."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Payload"]

# From this size on, PySpark would broadcast the whole function of a classic session. A client of Spark Connect would
# send the bytes with each plan, in messages of at most 128 MB.
_LARGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Payload:
    """Bytes for Spark's tasks, sent within the task's function, as a broadcast, or as a file of the session.

    A Python worker keeps its tasks' function, and what is sent within it twice, but not what it reads of the others.

    Attributes:
        content: The bytes; empty if they are elsewhere.
        file: The name of the session's file, or "".
        broadcast: Spark's broadcast of the bytes, or None.
    """

    content: bytes = field(repr=False)
    file: str = ""
    broadcast: Any = field(default=None, repr=False)

    def ship(self, spark: SparkSession) -> Payload:
        """Prepare the payload for the tasks of a session: large bytes become a broadcast, on Spark Connect a file.

        Args:
            spark: The session, which keeps a file until its end.

        Returns:
            The payload to put into the tasks' function.
        """
        from spark_dl._compat.spark import is_connect  # imported here, so that this module needs no pyspark

        if len(self.content) < _LARGE_BYTES:
            return self
        if not is_connect(spark):
            return Payload(b"", broadcast=spark.sparkContext.broadcast(self.content))
        name = f"spark-dl-{hashlib.sha256(self.content).hexdigest()[:32]}"
        with tempfile.TemporaryDirectory(prefix="spark-dl-") as directory:
            path = Path(directory, name)
            path.write_bytes(self.content)
            spark.addArtifact(str(path), file=True)
        return Payload(b"", name)

    def load(self) -> bytes:
        """Return the bytes, on the driver or in a task."""
        if self.broadcast is not None:
            from spark_dl._compat.spark import read_broadcast

            return bytes(read_broadcast(self.broadcast))
        if not self.file:
            return self.content
        from pyspark import SparkFiles

        return Path(SparkFiles.get(self.file)).read_bytes()

    def write(self, path: str) -> None:
        """Write the bytes to a file, on the driver or in a task."""
        Path(path).write_bytes(self.load())
