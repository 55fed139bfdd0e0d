"""Fork server of the ranks: imports TensorFlow once for all ranks of its executor, fit after fit.

Run as `python -m spark_dl.launch.fork_server DIRECTORY EXECUTOR MODULE...`. A task that needs a rank connects to its
socket and sends the rank's environment with the file descriptors of its pipes (`rank_request`). The server replies with
the rank's process id and, in the end, its exit code. When the task closes the connection, the rank is killed, even if
it is frozen. The server ends with the executor, or after 120 s without a rank.

A rank that belongs to a pool (`pool`) waits for the next request of its pool when its task has ended. The server ends
it when its time is up, or when the driver closes the pool. Since it may be killed or frozen while it waits, the server
first asks it whether it takes a request, and forks another one if there is no answer.

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
from spark_dl.launch.rank_request import OFFER, TAKES, WAITS, Descriptors, receive_request, send_request

__all__ = ["main"]

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_IDLE_SECONDS = 120.0
_TICK_SECONDS = 1.0
# A task that connects and requests nothing, or a rank that takes nothing, must not block the others.
_REQUEST_SECONDS = 5.0
_RETRY_SECONDS = 0.1


@dataclass
class _Order:
    """A task's request for a process.

    Attributes:
        task: The connection to the task.
        request: The request.
        descriptors: The process's descriptors, open until a process has the request.
        pid: The id of the process that has it; 0 before.
    """

    task: socket.socket
    request: RankRequest
    descriptors: Descriptors
    pid: int = 0

    def close(self) -> None:
        """Close the connection and the descriptors."""
        self.descriptors.close()
        self.task.close()


@dataclass
class _Process:
    """A rank's process, as the server holds it.

    Attributes:
        control: The connection over which the process gets its requests, and says that it waits for the next one.
        request: The current request, or the last one of a process that waits.
        task: The connection to its task; None while the process waits.
        pool: The connection to the driver's pool; None for a rank without a pool.
        until: When a process that waits ends, by the monotonic clock.
        offered: The order that a process that waits was asked to take; None if it wasn't.
        answers_by: When it must have answered.
        ending: Whether it was killed.
    """

    control: socket.socket
    request: RankRequest
    task: socket.socket | None = None
    pool: socket.socket | None = None
    until: float = 0.0
    offered: _Order | None = None
    answers_by: float = 0.0
    ending: bool = False

    @property
    def waits(self) -> bool:
        """Whether it waits, and wasn't asked to take an order."""
        return self.task is None and self.offered is None and not self.ending

    def close(self) -> None:
        """Close the connections, and those of the order that it was asked to take."""
        for connection in (self.control, self.task, self.pool, self.offered):
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
            if order := self._accepted():
                order.descriptors.close()
                _refuse(order.task, reason)

    def _accepted(self) -> _Order | None:
        """Accept the next task's connection, with its request; None if it is gone, or its request can't be read."""
        try:
            task, _ = self._listener.accept()
        except OSError:  # too many open files: the task waits until others are closed
            time.sleep(_RETRY_SECONDS)
            return None
        task.settimeout(_REQUEST_SECONDS)
        try:
            request, descriptors = receive_request(task)
        except Exception:  # costs only this task its rank
            _refuse(task, traceback.format_exc())
            return None
        if request is None or descriptors is None:
            task.close()
            return None
        task.settimeout(None)
        return _Order(task, request, descriptors)

    def _serve_task(self) -> None:
        """Give the next task a rank: one that waits for this request, or a new one."""
        sys.stdout.flush()
        if order := self._accepted():
            self._watch(order.task, functools.partial(self._on_task_end, order))
            self._place(order)

    def _place(self, order: _Order) -> None:
        """Ask a process that waits for such a request whether it takes it; without one, fork a process.

        A process that waits may have been killed or frozen, so it gets no request before it has answered.
        """
        for process in self._processes.values():
            if process.waits and process.pool is not None and process.request.is_alike(order.request):
                process.offered, process.answers_by = order, time.monotonic() + _REQUEST_SECONDS
                with contextlib.suppress(OSError):  # it has died: `_on_end` places the order again
                    process.control.sendall(OFFER)
                return
        try:
            self._give(self._fork(order), order)
        except Exception:  # costs only this task its rank
            order.descriptors.close()
            self._forget(order.task, lambda: _refuse(order.task, traceback.format_exc()))

    def _fork(self, order: _Order) -> int:
        """Fork a process, which waits for its first request."""
        control, its_own = socket.socketpair()
        server = os.getpid()
        pid = os.fork()
        if not pid:
            for connection in (control, order, self._listener):
                connection.close()
            self._selector.close()
            for process in self._processes.values():
                process.close()
            self._become_rank(its_own, server)
        its_own.close()
        control.settimeout(_REQUEST_SECONDS)
        self._processes[pid] = _Process(control, order.request)
        self._watch(control, functools.partial(self._on_control, pid))
        return pid

    def _give(self, pid: int, order: _Order) -> None:
        """Send a process its request; if that fails, the process is killed.

        Raises:
            OSError: The process is gone, or there are too many open files.
        """
        process = self._processes[pid]
        try:
            pool = os.dup(order.descriptors.pool) if order.descriptors.pool >= 0 else -1
            self._forget(process.pool)
            process.pool = socket.socket(fileno=pool) if pool >= 0 else None
            if process.pool is not None:
                self._watch(process.pool, functools.partial(self._on_pool, pid))
            send_request(process.control, order.request, order.descriptors)
        except BaseException:
            self._end(pid)
            raise
        process.request, process.task, order.pid = order.request, order.task, pid
        order.descriptors.close()
        _reply(order.task, Forked(pid))

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

    def _forget(self, connection: socket.socket | None, end: Callable[[], object] | None = None) -> None:
        """Watch a connection no longer, and close it; `end` does so, if given."""
        if connection is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(connection)
            (end or connection.close)()

    def _end(self, pid: int) -> None:
        """Kill a process: even if it is frozen, it ends, and is given no request."""
        self._processes[pid].ending = True
        os.kill(pid, signal.SIGKILL)

    def _on_task_end(self, order: _Order) -> None:
        """Kill the rank of a task that has disconnected: it is gone, or ends the rank."""
        if order.pid:
            self._selector.unregister(order.task)  # it gets the exit code
            self._end(order.pid)
            return
        for process in self._processes.values():
            process.offered = None if process.offered is order else process.offered
        order.descriptors.close()
        self._forget(order.task)

    def _on_control(self, pid: int) -> None:
        """Take a process's word: that it takes what was offered, or waits for its next request."""
        process = self._processes[pid]
        word = b""
        with contextlib.suppress(OSError):  # a process that dies without having read its request resets the connection
            word = process.control.recv(1)
        if not word:
            self._selector.unregister(process.control)
        elif word == TAKES and process.offered is not None:
            order, process.offered = process.offered, None
            try:
                self._give(pid, order)
            except OSError:
                self._place(order)
        elif word == WAITS:
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
        """End the ranks that have waited long enough, those whose pool is closed, and those that don't answer."""
        now = time.monotonic()
        for pid, process in list(self._processes.items()):
            if process.waits and (process.pool is None or now > process.until):
                self._end(pid)
            if process.offered is not None and now > process.answers_by:
                order, process.offered = process.offered, None
                self._end(pid)
                self._place(order)

    def _on_end(self, pid: int, code: int) -> None:
        process = self._processes.pop(pid, None)
        if process is None:  # no rank
            return
        if process.task is not None:
            _reply(process.task, Exited(code))
        for connection in (process.control, process.task, process.pool):
            self._forget(connection)
        if process.offered is not None:
            self._place(process.offered)


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


def _refuse(task: socket.socket, reason: str) -> None:
    """Tell a task that it gets no rank, and close its connection."""
    _reply(task, NotForked(reason))
    task.close()


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
