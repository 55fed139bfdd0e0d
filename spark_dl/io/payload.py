"""Payloads for Spark's tasks, such as a model, which may exceed the message size of Spark Connect."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Payload"]

# From this size on, PySpark broadcasts the function of a classic session. A client of Spark Connect would send the
# bytes with each plan, in messages of at most 128 MB.
_LARGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Payload:
    """Bytes for Spark's tasks, sent within the task's function or as a file of the session.

    Attributes:
        content: The bytes; empty if they are in a file.
        file: The name of the session's file, or "".
    """

    content: bytes = field(repr=False)
    file: str = ""

    def ship(self, spark: SparkSession) -> Payload:
        """Prepare the payload for the tasks of a session: large bytes of Spark Connect become a file of the session.

        Args:
            spark: The session, which keeps the file until its end.

        Returns:
            The payload to put into the tasks' function.
        """
        from spark_dl._compat.spark import is_connect  # imported here, so that this module needs no pyspark

        if len(self.content) < _LARGE_BYTES or not is_connect(spark):
            return self
        name = f"spark-dl-{hashlib.sha256(self.content).hexdigest()[:32]}"
        with tempfile.TemporaryDirectory(prefix="spark-dl-") as directory:
            path = Path(directory, name)
            path.write_bytes(self.content)
            spark.addArtifact(str(path), file=True)
        return Payload(b"", name)

    def load(self) -> bytes:
        """Return the bytes, on the driver or in a task."""
        if not self.file:
            return self.content
        from pyspark import SparkFiles

        return Path(SparkFiles.get(self.file)).read_bytes()
