"""A rank's process, as its Spark task sees it: requested, given a `RankTask`, read from, and always ended.

A rank isn't run in the Spark Python worker: a reused worker may have configured TensorFlow already, and a crash in
native code would end it. The process is forked from one that has imported TensorFlow (`fork_server`).
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from spark_dl.launch import fork_server
from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.redaction import redact

__all__ = ["RankProcess"]

_LOG_LINES = 60
_LEAVE_SECONDS, _KILL_SECONDS, _WORDS_SECONDS = 3.0, 5.0, 0.5
_KILLED = -9


class RankProcess:
    """Process of one rank, forked from the fork server and ended when the `with` ends.

    Args:
        environment: The variables that override the task's own.
        modules: The modules that are imported besides TensorFlow and Horovod before the fork.

    Attributes:
        pid: The process id; 0 until the fork server has reported it.

    Raises:
        ClusterError: The fork server can't be started.
    """

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str] = ()) -> None:
        # A killed rank leaves TensorFlow's temporary files; Spark removes its own directory even after a crash.
        spark_directory = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
        parent = spark_directory if os.path.isdir(spark_directory) else None
        self._directory = tempfile.TemporaryDirectory(prefix="spark-dl-rank-", dir=parent, ignore_cleanup_errors=True)
        self.pid = 0
        self._code: int | None = None
        self._ended = threading.Event()
        self._log: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)
        self._host, self._place = fork_server.connect(environment, modules)
        (orders, own_orders), (own_output, output), (own_answers, answers) = os.pipe(), os.pipe(), os.pipe()
        variables = {
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TMPDIR": self._directory.name,
        }
        fork_server.ask(
            self._host, fork_server.Wanted(variables, list(sys.path), os.getcwd()), (orders, output, answers)
        )
        for given in (orders, output, answers):
            os.close(given)
        self._orders = os.fdopen(own_orders, "wb")
        self._answers = os.fdopen(own_answers, "rb")
        self._pump = threading.Thread(target=self._forward_output, args=(os.fdopen(own_output, "rb"),), daemon=True)
        self._watch = threading.Thread(target=self._wait_for_end, daemon=True)
        self._pump.start()
        self._watch.start()

    def __enter__(self) -> RankProcess:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        # A rank that has answered gets time to shut Horovod down, unless an error suggests that the others are gone.
        self._ended.wait(_LEAVE_SECONDS if kind is None else 0)
        self.kill()
        # While the fork server is still importing, there is no rank to wait for: it will be killed once forked.
        if not self._ended.wait(_KILL_SECONDS if self.pid else 0) and self.pid:
            os.kill(self.pid, signal.SIGKILL)  # the fork server is frozen
        with contextlib.suppress(OSError):
            self._host.shutdown(socket.SHUT_RDWR)
        self._watch.join()
        self._host.close()
        self._answers.close()
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        self._pump.join(_LEAVE_SECONDS)  # ends at once, unless a child of the rank holds the output open
        self._directory.cleanup()

    def kill(self) -> None:
        """Have the fork server kill the process, if it hasn't ended."""
        with contextlib.suppress(OSError):
            self._host.shutdown(socket.SHUT_WR)

    def ready(self) -> bool:
        """Wait until the process can take a task; False if it has ended before."""
        message = read_frame(self._answers)
        return message is not None and message["event"] == "ready"

    def begin(self, order: Any) -> None:
        """Send the process its `RankTask`. If it has died meanwhile, `messages` ends at once."""
        with contextlib.suppress(BrokenPipeError):
            write_frame(self._orders, order)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the process's messages until it ends."""
        while (message := read_frame(self._answers)) is not None:
            yield message

    def last_lines(self) -> str:
        """Return the last 60 lines that the process has printed so far."""
        # Messages and output take different pipes, so output may arrive after the message.
        self._pump.join(_WORDS_SECONDS)
        return "".join(self._log)

    def exit(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and the last 60 lines that the process printed."""
        self._ended.wait()
        self._pump.join(5)
        return self._code or 0, "".join(self._log)

    def _wait_for_end(self) -> None:
        try:
            with self._host.makefile("rb") as stream:
                while self._code is None and (told := read_frame(stream)) is not None:
                    self.pid = told.get("pid", self.pid)
                    self._code = told.get("exit")
                    if "failed" in told:  # no rank was forked
                        self._code = 1
                        self._log.append(told["failed"])
            if self._code is None:
                self._code = _KILLED if self.pid else 1
                words = fork_server.last_words(self._place)
                self._log.append(f"The process that ranks are forked from has ended; it said last: {words}\n")
        finally:
            self._ended.set()

    def _forward_output(self, output: BinaryIO) -> None:
        with output:
            for line in output:
                text = redact(line.decode(errors="replace"))
                self._log.append(text)
                sys.stderr.write(text)
                sys.stderr.flush()
