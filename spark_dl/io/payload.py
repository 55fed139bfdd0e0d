"""Bytes on their way to Spark's tasks: a model, which may be larger than what a client of Spark Connect can send."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Payload"]

# From here on PySpark makes a broadcast of a classic session's function, and it would cost a client of Spark Connect
# more to send the bytes with each plan; its messages hold 128 MB.
_LARGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Payload:
    """Bytes for the tasks, which travel within the task's function, or as a file of the session.

    Attributes:
        content: the bytes; empty where they are in a file.
        file: name of the session's file, or "".
    """

    content: bytes = field(repr=False)
    file: str = ""

    def ship(self, spark: SparkSession) -> Payload:
        """What to put into a function for the tasks of this session; a file stays as long as the session does."""
        from spark_dl.spark.session import is_connect  # where there is a session, there is Spark

        if len(self.content) < _LARGE_BYTES or not is_connect(spark):
            return self
        name = f"spark-dl-{hashlib.sha256(self.content).hexdigest()[:32]}"
        with tempfile.TemporaryDirectory(prefix="spark-dl-") as directory:
            path = Path(directory, name)
            path.write_bytes(self.content)
            spark.addArtifact(str(path), file=True)
        return Payload(b"", name)

    def load(self) -> bytes:
        """The bytes, on the driver or in a task."""
        if not self.file:
            return self.content
        from pyspark import SparkFiles

        return Path(SparkFiles.get(self.file)).read_bytes()
