"""Fork server of the ranks: imports TensorFlow once for all ranks of its executor, fit after fit.

Run as `python -m spark_dl.launch.fork_server DIRECTORY EXECUTOR MODULE...`. A task that needs a rank connects to its
socket and sends the rank's environment with the file descriptors of its pipes (`rank_request`). The server replies with
the rank's process id and, in the end, its exit code. When the task closes the connection, the rank is killed, even if
it is frozen. The server ends with the executor, or after 120 s without a rank.

A rank that belongs to a pool (`pool`) waits for the next request of its pool when its task has ended. The server ends
it when its time is up, or when the driver closes the pool.

The server computes nothing and has one thread, so a forked rank has TensorFlow as it is after an import.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import select
import selectors
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from spark_dl.gc_pause import gc_paused
from spark_dl.launch import rank as rank_main
from spark_dl.launch.fork_client import locked, socket_address
from spark_dl.launch.frames import write_frame
from spark_dl.launch.messages import Exited, Forked, NotForked, RankRequest
from spark_dl.launch.rank_request import Descriptors, receive_request, send_request

__all__ = ["main"]

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_IDLE_SECONDS = 120.0
_TICK_SECONDS = 1.0
# A task that connects and requests nothing, or a rank that takes nothing, must not block the others.
_REQUEST_SECONDS = 5.0


@dataclass
class _Process:
    """A rank's process, as the server holds it.

    Attributes:
        control: The connection over which the process gets its requests, and says that it waits for the next one.
        request: The current request, or the last one of a process that waits.
        task: The connection to its task; None while the process waits.
        pool: The connection to the driver's pool; None for a rank without a pool.
        until: When a process that waits ends, by the monotonic clock.
    """

    control: socket.socket
    request: RankRequest
    task: socket.socket | None = None
    pool: socket.socket | None = None
    until: float = 0.0

    def close(self) -> None:
        """Close the connections: the process ends if it waits."""
        for connection in (self.control, self.task, self.pool):
            if connection is not None:
                connection.close()


class _ForkServer:
    """Fork server: forks ranks on request, kills them when their task disconnects, and reports their exit codes.

    Args:
        directory: The server's directory, which holds its socket.
        executor: The id of the process with which the server ends.
    """

    def __init__(self, directory: Path, executor: int) -> None:
        self._directory = directory
        self._executor = executor
        self._processes: dict[int, _Process] = {}  # by process id
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        with socket_address(directory) as address:
            self._listener.bind(address)
        self._listener.listen(128)

    def run(self) -> None:
        """Serve until the executor is gone or no rank was needed for a while, then remove the directory."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing)
        # Each file has the function to call when it can be read.
        self._selector.register(self._listener, selectors.EVENT_READ, self._serve_task)
        self._selector.register(reading, selectors.EVENT_READ, functools.partial(os.read, reading, 1 << 16))
        used = time.monotonic()
        while psutil.pid_exists(self._executor):
            if time.monotonic() - used > _IDLE_SECONDS and self._closes():
                return
            for key, _ in self._selector.select(_TICK_SECONDS):
                if self._selector.get_map().get(key.fd) is key:  # not closed by an earlier one of this round
                    key.data()
            for pid, code in _ended():
                self._on_end(pid, code)
            self._end_overdue()
            used = time.monotonic() if self._processes else used
        shutil.rmtree(self._directory, ignore_errors=True)

    def _closes(self) -> bool:
        """Remove the directory, so that no task finds this server; False if a task is connecting."""
        with locked(self._directory):
            if select.select([self._listener], [], [], 0)[0]:
                return False
            shutil.rmtree(self._directory)
            return True

    def refuse(self, reason: str) -> None:
        """Answer all requests with the reason why there is no rank, then end."""
        while not self._closes():
            with contextlib.suppress(OSError), self._accepted() as (connection, _, _):
                _reply(connection, NotForked(reason))
                connection.close()

    @contextlib.contextmanager
    def _accepted(self) -> Iterator[tuple[socket.socket, RankRequest | None, Descriptors | None]]:
        """Accept the next task's connection, with its request and its descriptors, which are closed at the end."""
        connection, _ = self._listener.accept()
        connection.settimeout(_REQUEST_SECONDS)
        descriptors = None
        try:
            request, descriptors = receive_request(connection)
            connection.settimeout(None)
            yield connection, request, descriptors
        except Exception:  # costs only this task its rank
            _reply(connection, NotForked(traceback.format_exc()))
            connection.close()
            raise
        finally:
            if descriptors:
                descriptors.close()

    def _serve_task(self) -> None:
        """Give the next task a rank: one that waits for this request, or a new one."""
        sys.stdout.flush()
        with contextlib.suppress(Exception), self._accepted() as (connection, request, descriptors):
            if request is None or descriptors is None:  # the task is gone
                connection.close()
                return
            pid = self._waiting_for(request) or self._fork(request, connection, descriptors)
            process = self._processes[pid]
            send_request(process.control, request, descriptors)
            process.request, process.task = request, connection
            self._watch(connection, functools.partial(self._kill, pid))
            if descriptors.pool >= 0:
                self._forget(process.pool)
                process.pool = socket.socket(fileno=os.dup(descriptors.pool))
                self._watch(process.pool, functools.partial(self._on_pool, pid))
            _reply(connection, Forked(pid))

    def _waiting_for(self, request: RankRequest) -> int | None:
        for pid, process in self._processes.items():
            if process.task is None and process.pool is not None and process.request.is_alike(request):
                return pid
        return None

    def _fork(self, request: RankRequest, task: socket.socket, descriptors: Descriptors) -> int:
        """Fork a process, which waits for its first request."""
        control, its_own = socket.socketpair()
        server = os.getpid()
        pid = os.fork()
        if not pid:
            for connection in (control, task, self._listener):
                connection.close()
            descriptors.close()
            self._selector.close()
            for process in self._processes.values():
                process.close()
            self._become_rank(its_own, server)
        its_own.close()
        control.settimeout(_REQUEST_SECONDS)
        self._processes[pid] = _Process(control, request)
        self._watch(control, functools.partial(self._on_control, pid))
        return pid

    @staticmethod
    def _become_rank(control: socket.socket, server: int) -> NoReturn:
        """Turn this forked process into a rank, and never return."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _end_with_parent(server)
            gc.enable()
            rank_main.serve(control)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _watch(self, connection: socket.socket, call: Callable[[], object]) -> None:
        self._selector.register(connection, selectors.EVENT_READ, call)

    def _forget(self, connection: socket.socket | None) -> None:
        if connection is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(connection)
            connection.close()

    def _kill(self, pid: int) -> None:
        """Kill a rank whose task has disconnected: it is gone, or ends the rank."""
        process = self._processes[pid]
        if process.task is not None:
            self._selector.unregister(process.task)
        os.kill(pid, signal.SIGKILL)

    def _on_control(self, pid: int) -> None:
        """Tell the task of a rank that waits for its next one that it has ended; nothing for a rank that has died."""
        process = self._processes[pid]
        if not process.control.recv(1):
            self._selector.unregister(process.control)
            return
        if process.task is not None:
            _reply(process.task, Exited(0))
            self._forget(process.task)
        process.task = None
        process.until = time.monotonic() + (process.request.pool.idle_timeout if process.request.pool else 0.0)

    def _on_pool(self, pid: int) -> None:
        """Note that the driver has closed a pool: a rank of it ends when it waits."""
        process = self._processes[pid]
        self._forget(process.pool)
        process.pool = None

    def _end_overdue(self) -> None:
        """Let ranks end that have waited long enough, and those whose pool is closed."""
        for process in self._processes.values():
            if process.task is None and (process.pool is None or time.monotonic() > process.until):
                self._forget(process.control)
                self._forget(process.pool)
                process.pool = None

    def _on_end(self, pid: int, code: int) -> None:
        process = self._processes.pop(pid)
        if process.task is not None:
            _reply(process.task, Exited(code))
        for connection in (process.control, process.task, process.pool):
            self._forget(connection)


def _ended() -> Iterator[tuple[int, int]]:
    """Yield the process ids and exit codes of the ranks that have ended since the last call."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _reply(connection: socket.socket, message: Forked | NotForked | Exited) -> None:
    """Send a task a message, if it is there."""
    with contextlib.suppress(OSError), connection.makefile("wb") as stream:
        write_frame(stream, message)


def _end_with_parent(parent: int) -> None:
    """Have the system kill this process when the fork server ends, even if it is frozen or in native code."""
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):  # Linux
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        library.prctl(_PR_SET_NAME, b"spark-dl-rank")
    if os.getppid() != parent:  # the server ended before the request took effect
        os._exit(1)


def main(directory: Path, executor: int, modules: Sequence[str]) -> None:
    """Import what ranks need, then run the fork server.

    Args:
        directory: The server's directory.
        executor: The id of the process with which the server ends.
        modules: The modules to import besides TensorFlow and Horovod.
    """
    server = _ForkServer(directory, executor)
    try:
        with gc_paused():
            import horovod.tensorflow  # noqa: F401

            for name in modules:
                importlib.import_module(name)
    except Exception:
        server.refuse(traceback.format_exc())
        return
    gc.disable()
    gc.freeze()  # keeps the memory pages of the imports shared with the ranks
    server.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
