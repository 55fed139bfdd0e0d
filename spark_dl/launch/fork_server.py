"""Fork server of the ranks: imports TensorFlow once for all ranks of its executor, fit after fit.

Run as `python -m spark_dl.launch.fork_server DIRECTORY EXECUTOR MODULE...`. A task that needs a rank connects to its
socket and sends the rank's environment with three file descriptors: for the rank's task, its output and its answers.
The server replies with the rank's process id and, in the end, its exit code. When the task closes the connection, the
rank is killed, even if it is frozen. The server ends with the executor, or after 120 s without a rank.

The server computes nothing and has one thread, so a forked rank has TensorFlow as it is after an import.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import hashlib
import importlib
import os
import select
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import psutil

from spark_dl.errors import ClusterError, explain
from spark_dl.gc_pause import gc_paused
from spark_dl.launch import rank as rank_main
from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.launch.messages import Exited, Forked, NotForked, RankRequest

__all__ = ["Descriptors", "connect", "log_tail", "request_rank"]

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_IDLE_SECONDS = 120.0
_TICK_SECONDS = 1.0
_STARTS_SECONDS = 60.0
# A task that connects and requests nothing must not block the others.
_REQUEST_SECONDS = 5.0
# Variables that libraries read when they are imported. Each rank gets all others in its own environment.
_READ_BY_IMPORTS = (
    *("ARROW_", "CUDA_", "GOTO_", "KERAS_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PROTOCOL_BUFFERS_"),
    *("PYTHON", "TF2_", "TF_", "XLA_"),
)
_NOT_READ_BY_IMPORTS = ("CUDA_VISIBLE_DEVICES", "PYTHONPATH", "PYTHON_")
# The path of a Unix socket has at most 107 bytes.
_LONGEST_PATH = 100
_SOCKET = "socket"


class Descriptors(NamedTuple):
    """The file descriptors of a rank's process.

    Attributes:
        task: The process reads its task from it.
        output: The process writes its standard output and error to it.
        answers: The process writes its messages to it.
    """

    task: int
    output: int
    answers: int


def connect(environment: Mapping[str, str], modules: Sequence[str]) -> tuple[socket.socket, Path]:
    """Connect to this executor's fork server for an environment, and start the server if there is none.

    Args:
        environment: The rank's variables, which override the task's own.
        modules: The modules that the server imports besides TensorFlow and Horovod.

    Returns:
        The connection, and the server's directory.

    Raises:
        ClusterError: No server can be started, or its directory belongs to or is open to another user.
    """
    # The rank needs what Spark put on this worker's path (addPyFile, spark-submit --py-files).
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    directory = _directory_for(variables, modules)
    command = [sys.executable, "-m", "spark_dl.launch.fork_server", str(directory), str(_executor()), *modules]
    end = time.monotonic() + _STARTS_SECONDS
    while time.monotonic() < end:
        # Under the lock, one task starts the server and the others find it; it can't end in between.
        with contextlib.suppress(FileExistsError, FileNotFoundError), _locked(directory):
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                return _connected(directory), directory
            (directory / _SOCKET).unlink(missing_ok=True)
            with (directory / "log").open("wb") as log:
                server = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables, start_new_session=True
                )
            while time.monotonic() < end and server.poll() is None:
                with contextlib.suppress(OSError):
                    return _connected(directory), directory
                time.sleep(0.01)
            break
    raise ClusterError(
        explain(
            f"{socket.gethostname()} can't start the process that ranks are forked from.",
            expected="a Python process with TensorFlow and Horovod",
            received=log_tail(directory),
            fix="Run `spark-dl doctor`.",
        )
    )


def request_rank(server: socket.socket, request: RankRequest, descriptors: Descriptors) -> None:
    """Request a rank from a fork server.

    Args:
        server: The connection to the server.
        request: The request.
        descriptors: The file descriptors of the rank's process.
    """
    with contextlib.suppress(OSError):  # the server is gone, which the end of the connection shows
        socket.send_fds(server, [b"r"], descriptors)
        with server.makefile("wb") as stream:
            write_frame(stream, request)


def log_tail(directory: Path) -> str:
    """Read the last 2000 characters that the fork server in a directory printed; "nothing" if there is no log."""
    try:
        return (directory / "log").read_text(errors="replace")[-2000:]
    except OSError:
        return "nothing"


def _directory_for(variables: Mapping[str, str], modules: Sequence[str]) -> Path:
    """Name the fork server's directory: one per executor, list of modules, and variables that imports read."""
    known = (name for name in sorted(variables) if name.startswith(_READ_BY_IMPORTS))
    read = [name for name in known if not name.startswith(_NOT_READ_BY_IMPORTS)]
    environment = [variables["PYTHONPATH"], *((name, variables[name]) for name in read)]
    key = repr([sys.executable, socket.gethostname(), os.getuid(), _executor(), *modules, environment])
    # Each executor has its own Spark directory, which Spark removes even after a crash of the executor.
    spark_directory = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    parent = spark_directory if os.path.isdir(spark_directory) else tempfile.gettempdir()
    return Path(parent, f"ranks-{hashlib.sha256(key.encode()).hexdigest()[:16]}")


@contextlib.contextmanager
def _address(directory: Path) -> Iterator[str]:
    """Shorten the path of a fork server's socket to what the system allows, while the `with` lasts."""
    path = str(directory / _SOCKET)
    if len(path) <= _LONGEST_PATH:
        yield path
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_SOCKET}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock under which a fork server is started, found or ended, and make its directory.

    Raises:
        FileNotFoundError: The directory was removed meanwhile by a server that ended.
        ClusterError: The directory isn't this user's alone.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    _check_owner(directory)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(lock.fileno()), (directory / "lock").stat()):
            raise FileNotFoundError(str(directory))
        yield


def _check_owner(directory: Path) -> None:
    found = directory.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise ClusterError(
            explain(
                f"{directory} on {socket.gethostname()} isn't this user's alone.",
                expected=f"a directory of user {os.getuid()} with mode 700",
                received=f"user {found.st_uid}, {stat.filemode(found.st_mode)}",
                fix="Remove it.",
            )
        )


def _executor() -> int:
    """Return the id of the executor's daemon, from which Spark forks Python workers; this process's id without one."""
    own, parent = psutil.Process(), psutil.Process().parent()
    # Spark's daemon can be replaced (spark.python.daemon.module); what it forks has its command line.
    return parent.pid if parent and parent.cmdline() == own.cmdline() else os.getpid()


def _connected(directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _address(directory) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


class _ForkServer:
    """Fork server: forks ranks on request, kills them when their task disconnects, and reports their exit codes.

    Args:
        directory: The server's directory, which holds its socket.
        executor: The id of the process with which the server ends.
    """

    def __init__(self, directory: Path, executor: int) -> None:
        self._directory = directory
        self._executor = executor
        self._ranks: dict[int, socket.socket] = {}  # process id -> connection of the task
        self._listener = socket.socket(socket.AF_UNIX)
        with _address(directory) as address:
            self._listener.bind(address)
        self._listener.listen(128)

    def run(self) -> None:
        """Serve until the executor is gone or no rank was needed for a while, then remove the directory."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing)
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        selector.register(reading, selectors.EVENT_READ)
        used = time.monotonic()
        while psutil.pid_exists(self._executor):
            if time.monotonic() - used > _IDLE_SECONDS and self._closes():
                return
            for key, _ in selector.select(_TICK_SECONDS):
                if key.fileobj is self._listener:
                    pid, connection = self._fork()
                    if connection:
                        selector.register(connection, selectors.EVENT_READ, pid)
                elif key.fileobj == reading:
                    os.read(reading, 1 << 16)
                else:  # the task has disconnected: it is gone, or ends the rank
                    selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
            for pid, code in _ended():
                connection = self._ranks.pop(pid, None)
                if connection:
                    with contextlib.suppress(KeyError):
                        selector.unregister(connection)
                    _reply(connection, Exited(code))
                    connection.close()
            used = time.monotonic() if self._ranks else used
        shutil.rmtree(self._directory, ignore_errors=True)

    def _closes(self) -> bool:
        """Remove the directory, so that no task finds this server; False if a task is connecting."""
        with _locked(self._directory):
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
    def _accepted(self) -> Iterator[tuple[socket.socket, RankRequest | None, Descriptors]]:
        """Accept the next task's connection, with its request and its descriptors, which are closed at the end."""
        connection, _ = self._listener.accept()
        connection.settimeout(_REQUEST_SECONDS)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, len(Descriptors._fields))
        try:
            with connection.makefile("rb") as stream:
                request = read_frame(stream)
            connection.settimeout(None)
            yield connection, request, Descriptors(*descriptors)
        except Exception:  # costs only this task its rank
            _reply(connection, NotForked(traceback.format_exc()))
            connection.close()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self) -> tuple[int, socket.socket | None]:
        """Fork the next rank.

        Returns:
            The rank's process id and its task's connection; 0 and None if no rank was forked.
        """
        sys.stdout.flush()
        server = os.getpid()
        with contextlib.suppress(Exception), self._accepted() as (connection, request, descriptors):
            if request is None:  # the task is gone
                connection.close()
                return 0, None
            pid = os.fork()
            if not pid:
                connection.close()
                self._become_rank(request, descriptors, server)
            self._ranks[pid] = connection
            _reply(connection, Forked(pid))
            return pid, connection
        return 0, None

    def _become_rank(self, request: RankRequest, descriptors: Descriptors, server: int) -> NoReturn:
        """Turn this forked process into the rank, and never return."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _end_with_parent(server)
            for inherited in (self._listener, *self._ranks.values()):
                inherited.close()
            for own, standard in ((descriptors.task, 0), (descriptors.output, 1), (descriptors.output, 2)):
                os.dup2(own, standard)
            os.close(descriptors.task)
            os.close(descriptors.output)
            os.environ.clear()
            os.environ.update(request.environment)
            os.chdir(request.directory)
            sys.path[:] = request.path
            importlib.invalidate_caches()  # files may have been added since the server's imports
            tempfile.tempdir = None  # TMPDIR of the new environment applies
            np.random.seed()  # else all ranks of a server would draw the same numbers
            gc.enable()
            rank_main.serve(descriptors.answers)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)


def _ended() -> Iterator[tuple[int, int]]:
    """Yield the process ids and exit codes of the ranks that have ended since the last call."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _reply(connection: socket.socket, message: Forked | NotForked | Exited) -> None:
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
