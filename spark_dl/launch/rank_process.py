"""A rank's process, as its Spark task sees it: started, told what to do, listened to, never left behind.

A process of its own, and not the Spark Python worker: the worker may be a used one whose TensorFlow is
configured already, it would be lost with a crash in native code, and its import of TensorFlow would hold up
the barrier's allGather. Here the import runs beside it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

__all__ = ["RankProcess", "read_frame", "write_frame"]

_HEADER = struct.Struct("<Q")
_LOG_LINES = 60
_LEAVE_SECONDS = 3.0


def write_frame(stream: BinaryIO, message: Any) -> None:
    """Write one pickled message with its length before it."""
    content = pickle.dumps(message)
    stream.write(_HEADER.pack(len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: BinaryIO) -> Any:
    """Read one message, or None at the end of the stream."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    content = stream.read(length)
    return pickle.loads(content) if len(content) == length else None


class RankProcess:
    """A fresh Python process for one rank, which ends with the `with`.

    Args:
        environment: variables to set over the task's own before Python starts.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        # TensorFlow writes files that only an orderly end of Python would remove. Spark removes its own directory even
        # after a crash of the task.
        spark_directory = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
        parent = spark_directory if os.path.isdir(spark_directory) else None
        self._directory = tempfile.TemporaryDirectory(prefix="spark-dl-rank-", dir=parent, ignore_cleanup_errors=True)
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spark_dl.launch.rank_main", str(writing), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            # What Spark put on this worker's path (addPyFile, spark-submit --py-files) is the rank's, too.
            env={
                **os.environ,
                **environment,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "TMPDIR": self._directory.name,
            },
        )
        os.close(writing)
        self._orders, self._output = self._process.stdin, self._process.stdout
        self._messages = os.fdopen(reading, "rb")
        self._log: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)
        self._pump = threading.Thread(target=self._forward_output, daemon=True)
        self._pump.start()

    def __enter__(self) -> RankProcess:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A rank that has answered leaves Horovod in good order, unless the others are gone.
            self._process.wait(_LEAVE_SECONDS if kind is None else 0)
        self._process.kill()
        self._process.wait()
        self._messages.close()
        with contextlib.suppress(BrokenPipeError):
            cast(BinaryIO, self._orders).close()
        self._pump.join(_LEAVE_SECONDS)  # it closes the output, at once unless a grandchild holds it
        self._directory.cleanup()

    def begin(self, order: Any) -> None:
        """Tell the process what to do. It may have died meanwhile: `messages` then ends at once."""
        with contextlib.suppress(BrokenPipeError):
            write_frame(cast(BinaryIO, self._orders), order)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the process says, until it ends."""
        while (message := read_frame(self._messages)) is not None:
            yield message

    def exit(self) -> tuple[int, str]:
        """Wait for the end: the exit code, and the last lines that the process printed."""
        code = self._process.wait()
        self._pump.join(5)
        return code, "".join(self._log)

    def _forward_output(self) -> None:
        with cast(BinaryIO, self._output) as output:
            for line in output:
                text = line.decode(errors="replace")
                self._log.append(text)
                sys.stderr.write(text)
                sys.stderr.flush()
