"""A rank's process, as its Spark task sees it: requested, sent a `RankTask`, read from, and always ended.

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
from typing import Any, BinaryIO, NamedTuple

from spark_dl.errors import ClusterError
from spark_dl.launch import fork_client
from spark_dl.launch.channel import Sender
from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.launch.messages import (
    DriverMessage,
    Exited,
    Forked,
    Idle,
    Membership,
    NoMoreReplies,
    NotForked,
    RankRequest,
    RankTask,
)
from spark_dl.launch.rank_request import Descriptors, send_request
from spark_dl.redaction import redact

__all__ = ["Exit", "RankProcess"]

_LOG_LINES = 60
_LEAVE_SECONDS, _KILL_SECONDS, _OUTPUT_SECONDS = 3.0, 5.0, 0.5
_KILLED = -9


class Exit(NamedTuple):
    """End of a rank's process.

    Attributes:
        code: The exit code; -n if signal n killed it.
        log: The last 60 lines that it printed.
    """

    code: int
    log: str


class RankProcess:
    """Process of one rank, forked from the fork server and ended when the `with` ends.

    Args:
        environment: The variables that override the task's own.
        modules: The modules that are imported besides TensorFlow and Horovod before the fork.
        name: The rank's name, which stands before each line of its output in the executor's log; "" for none.
        pool: The pool that the process belongs to; None for none. A process of a pool may have run for it before, and
            waits for its next task instead of ending, unless the pool is closed.

    Attributes:
        pid: The process id; 0 until the fork server has reported it.

    Raises:
        ClusterError: The fork server can't be started.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        modules: Sequence[str] = (),
        name: str = "",
        pool: Membership | None = None,
    ) -> None:
        # A killed rank leaves TensorFlow's temporary files; Spark removes its own directory even after a crash.
        spark_directory = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
        parent = spark_directory if os.path.isdir(spark_directory) else None
        self._directory = tempfile.TemporaryDirectory(prefix="spark-dl-rank-", dir=parent, ignore_cleanup_errors=True)
        self._prefix = f"[{name}] " if name else ""
        self.pid = 0
        self._code: int | None = None
        self._ended = threading.Event()
        self._log: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)
        self._server, self._server_directory = fork_client.connect(environment, modules)
        variables = {
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TMPDIR": self._directory.name,
        }
        membership = _joined(pool)
        request = RankRequest(
            variables, list(sys.path), os.getcwd(), dict(environment), pool if membership >= 0 else None
        )
        (task, own_task), (own_output, output), (own_answers, answers) = os.pipe(), os.pipe(), os.pipe()
        descriptors = Descriptors(task, output, answers, membership)
        with contextlib.suppress(OSError):  # the server is gone, which the end of its connection shows
            send_request(self._server, request, descriptors)
        descriptors.close()
        self._task = os.fdopen(own_task, "wb")
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
            self._server.shutdown(socket.SHUT_RDWR)
        self._watch.join()
        self._server.close()
        self._answers.close()
        with contextlib.suppress(BrokenPipeError):
            self._task.close()
        self._pump.join(_LEAVE_SECONDS)  # ends at once, unless a child of the rank holds the output open
        self._directory.cleanup()

    def kill(self) -> None:
        """Have the fork server kill the process, if it hasn't ended."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)

    def ready(self) -> bool:
        """Wait until the process can take a task; False if it has ended before."""
        return isinstance(read_frame(self._answers), Idle)

    def send(self, message: RankTask | DriverMessage | NoMoreReplies) -> None:
        """Send the process its `RankTask`, or a reply. If it has died meanwhile, `messages` ends at once."""
        with contextlib.suppress(BrokenPipeError):
            write_frame(self._task, message)

    def messages(self) -> Iterator[Any]:
        """Yield the process's messages until it ends: Started, Heartbeat, Report, Failed and Done."""
        while (message := read_frame(self._answers)) is not None:
            yield message

    def last_lines(self) -> str:
        """Return the last 60 lines that the process has printed so far."""
        # Messages and output take different pipes, so output may arrive after the message.
        self._pump.join(_OUTPUT_SECONDS)
        return "".join(self._log)

    def exit(self) -> Exit:
        """Wait for the end of the process."""
        self._ended.wait()
        self._pump.join(5)
        return Exit(self._code or 0, "".join(self._log))

    def _wait_for_end(self) -> None:
        try:
            with self._server.makefile("rb") as stream:
                while self._code is None and (reply := read_frame(stream)) is not None:
                    self._on_reply(reply)
            if self._code is None:
                self._code = _KILLED if self.pid else 1
                log = fork_client.log_tail(self._server_directory)
                self._log.append(f"The process that ranks are forked from has ended; its last output: {log}\n")
        finally:
            self._ended.set()

    def _on_reply(self, reply: Forked | NotForked | Exited) -> None:
        match reply:
            case Forked(pid):
                self.pid = pid
            case Exited(code):
                self._code = code
            case NotForked(reason):
                self._code = 1
                self._log.append(reason)

    def _forward_output(self, output: BinaryIO) -> None:
        with output:
            for line in output:
                text = redact(line.decode(errors="replace"))
                self._log.append(text)
                sys.stderr.write(self._prefix + text)
                sys.stderr.flush()


def _joined(pool: Membership | None) -> int:
    """Return the descriptor of a connection to a pool; -1 for none, or if the pool has been closed meanwhile."""
    with contextlib.suppress(ClusterError, OSError):
        return Sender(pool.driver).detach() if pool else -1
    return -1
