"""The process that ranks are forked from: it imports TensorFlow once for all ranks of its executor, fit after fit.

Run as `python -m spark_dl.launch.fork_server DIRECTORY EXECUTOR MODULE...`. A task that wants a rank connects to its
socket and sends the rank's environment with three descriptors: for its orders, its output and its answers. It is told
the rank's process, and in the end its exit code. The connection is the rank's life: when it closes, the rank is killed,
even a frozen one. The host ends with the executor, or when it has had no rank for a while.

The host itself computes nothing: it has one thread, and what it forks finds TensorFlow as it is after an import.
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
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import psutil

from spark_dl.errors import ClusterError, explain
from spark_dl.gc_pause import gc_paused
from spark_dl.launch import rank as rank_main
from spark_dl.launch.frames import read_frame, write_frame

__all__ = ["Wanted", "ask", "connect", "last_words"]

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_IDLE_SECONDS = 120.0
_TICK_SECONDS = 1.0
_STARTS_SECONDS = 60.0
_DESCRIPTORS = 3
# A task that connects and asks for nothing must not hold the others up.
_REQUEST_SECONDS = 5.0
# What libraries read as they are imported. All else is the rank's own matter, which gets its whole environment.
_OF_IMPORTS = (
    *("ARROW_", "CUDA_", "GOTO_", "KERAS_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PROTOCOL_BUFFERS_"),
    *("PYTHON", "TF2_", "TF_", "XLA_"),
)
_NOT_OF_IMPORTS = ("CUDA_VISIBLE_DEVICES", "PYTHONPATH", "PYTHON_")
# A path of a socket has room for 107 bytes.
_LONGEST_PATH = 100
_SOCKET = "socket"


@dataclass(frozen=True)
class Wanted:
    """The rank that a task wants.

    Attributes:
        environment: all of its variables.
        path: its sys.path.
        directory: its working directory.
    """

    environment: dict[str, str]
    path: list[str]
    directory: str


def connect(environment: Mapping[str, str], modules: Sequence[str]) -> tuple[socket.socket, Path]:
    """A connection to this executor's host for ranks of such an environment, which is started where there is none, and
    the host's directory.

    Args:
        environment: a rank's, over the task's own.
        modules: what the host imports beside TensorFlow and Horovod.

    Raises:
        ClusterError: no host can be started.
    """
    # What Spark put on this worker's path (addPyFile, spark-submit --py-files) is the rank's, too.
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    place = _place(variables, modules)
    command = [sys.executable, "-m", "spark_dl.launch.fork_server", str(place), str(_executor()), *modules]
    end = time.monotonic() + _STARTS_SECONDS
    while time.monotonic() < end:
        # One task starts it, the others find it; and it doesn't end while one of them is on its way.
        with contextlib.suppress(FileExistsError, FileNotFoundError), _locked(place):
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                return _connected(place), place
            (place / _SOCKET).unlink(missing_ok=True)
            with (place / "log").open("wb") as log:
                host = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables, start_new_session=True
                )
            while time.monotonic() < end and host.poll() is None:
                with contextlib.suppress(OSError):
                    return _connected(place), place
                time.sleep(0.01)
            break
    raise ClusterError(
        explain(
            f"{socket.gethostname()} can't start the process that ranks are forked from.",
            received=last_words(place),
            fix="Run `spark-dl doctor`.",
        )
    )


def ask(host: socket.socket, wanted: Wanted, descriptors: Sequence[int]) -> None:
    """Ask for a rank: its orders are read from the first descriptor, its output and answers go to the others."""
    with contextlib.suppress(OSError):  # the host is gone: the end of the connection tells so
        socket.send_fds(host, [b"r"], descriptors)
        with host.makefile("wb") as stream:
            write_frame(stream, wanted)


def last_words(place: Path) -> str:
    """What a host in this directory printed last."""
    try:
        return (place / "log").read_text(errors="replace")[-2000:]
    except OSError:
        return "nothing"


def _place(variables: Mapping[str, str], modules: Sequence[str]) -> Path:
    """The directory of the host for such variables."""
    known = (name for name in sorted(variables) if name.startswith(_OF_IMPORTS))
    read = [name for name in known if not name.startswith(_NOT_OF_IMPORTS)]
    told = [variables["PYTHONPATH"], *((name, variables[name]) for name in read)]
    facts = repr([sys.executable, socket.gethostname(), os.getuid(), _executor(), *modules, told])
    # Spark removes its own directory, which no other executor has, even after a crash of the executor.
    given = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    parent = given if os.path.isdir(given) else tempfile.gettempdir()
    return Path(parent, f"ranks-{hashlib.sha256(facts.encode()).hexdigest()[:16]}")


@contextlib.contextmanager
def _address(place: Path) -> Iterator[str]:
    """The path of a host's socket, in the few bytes that it may have."""
    path = str(place / _SOCKET)
    if len(path) <= _LONGEST_PATH:
        yield path
        return
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{_SOCKET}"
    finally:
        os.close(directory)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Alone among those who start, find or end this host.

    Raises:
        FileNotFoundError: the directory went with a host that has ended.
    """
    place.mkdir(mode=0o700, exist_ok=True)
    _refuse_others(place)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(lock.fileno()), (place / "lock").stat()):
            raise FileNotFoundError(str(place))
        yield


def _refuse_others(place: Path) -> None:
    found = place.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise ClusterError(
            explain(
                f"{place} on {socket.gethostname()} isn't this user's alone.",
                expected=f"a directory of user {os.getuid()} with mode 700",
                received=f"user {found.st_uid}, {stat.filemode(found.st_mode)}",
                fix="Remove it.",
            )
        )


def _executor() -> int:
    """The process that this one's tasks end with: the daemon that Spark forks Python workers from."""
    parent = psutil.Process().parent()
    return parent.pid if parent and "pyspark.daemon" in parent.cmdline() else os.getpid()


def _connected(place: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _address(place) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


class _Host:
    """Listens, forks, kills, and tells of ends.

    Args:
        place: its directory.
        executor: the process that it ends with.
    """

    def __init__(self, place: Path, executor: int) -> None:
        self._place = place
        self._executor = executor
        self._ranks: dict[int, socket.socket] = {}  # by process, the connections of their tasks
        self._listener = socket.socket(socket.AF_UNIX)
        with _address(place) as address:
            self._listener.bind(address)
        self._listener.listen(128)

    def run(self) -> None:
        """Until the executor is gone, or nobody has wanted a rank for a while; its ranks and directory end with it."""
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
                else:  # the task says nothing more: it is gone, or wants the rank's end
                    selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
            for pid, code in _ended():
                connection = self._ranks.pop(pid, None)
                if connection:
                    with contextlib.suppress(KeyError):
                        selector.unregister(connection)
                    _tell(connection, {"exit": code})
                    connection.close()
            used = time.monotonic() if self._ranks else used
        shutil.rmtree(self._place, ignore_errors=True)

    def _closes(self) -> bool:
        """Stop listening, unless a task is on its way."""
        with _locked(self._place):
            if select.select([self._listener], [], [], 0)[0]:
                return False
            shutil.rmtree(self._place)
            return True

    def refuse(self, why: str) -> None:
        """Tell all that want a rank why there is none, and end."""
        while not self._closes():
            with contextlib.suppress(OSError), self._accepted() as (connection, _, _):
                _tell(connection, {"failed": why})
                connection.close()

    @contextlib.contextmanager
    def _accepted(self) -> Iterator[tuple[socket.socket, Wanted | None, list[int]]]:
        """The next task's connection, what it wants, and its descriptors, which are closed at the end."""
        connection, _ = self._listener.accept()
        connection.settimeout(_REQUEST_SECONDS)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, _DESCRIPTORS)
        try:
            with connection.makefile("rb") as stream:
                wanted = read_frame(stream)
            connection.settimeout(None)
            yield connection, wanted, descriptors
        except Exception:  # only this task's rank is lost
            _tell(connection, {"failed": traceback.format_exc()})
            connection.close()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self) -> tuple[int, socket.socket | None]:
        """The next rank, and the connection of its task; None where there is none."""
        sys.stdout.flush()
        host = os.getpid()
        with contextlib.suppress(Exception), self._accepted() as (connection, wanted, descriptors):
            if wanted is None:  # the task is gone
                connection.close()
                return 0, None
            pid = os.fork()
            if not pid:
                connection.close()
                self._become(wanted, descriptors, host)
            self._ranks[pid] = connection
            _tell(connection, {"pid": pid})
            return pid, connection
        return 0, None

    def _become(self, wanted: Wanted, descriptors: Sequence[int], host: int) -> NoReturn:
        """What is a rank from here on."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _end_with_parent(host)
            for inherited in (self._listener, *self._ranks.values()):
                inherited.close()
            orders, output, answers = descriptors
            for own, standard in ((orders, 0), (output, 1), (output, 2)):
                os.dup2(own, standard)
            os.close(orders)
            os.close(output)
            os.environ.clear()
            os.environ.update(wanted.environment)
            os.chdir(wanted.directory)
            sys.path[:] = wanted.path
            importlib.invalidate_caches()  # of what was not there when the host looked
            tempfile.tempdir = None  # as the environment says
            np.random.seed()  # else all ranks of a host would draw the same
            gc.enable()
            rank_main.serve(answers)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)


def _ended() -> Iterator[tuple[int, int]]:
    """Ranks that have ended since the last look, with their exit codes."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _tell(connection: socket.socket, message: dict[str, int | str]) -> None:
    with contextlib.suppress(OSError), connection.makefile("wb") as stream:
        write_frame(stream, message)


def _end_with_parent(parent: int) -> None:
    """Let the system kill this process with its host: also when it is frozen or deep in native code."""
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):  # Linux
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        library.prctl(_PR_SET_NAME, b"spark-dl-rank")
    if os.getppid() != parent:  # it was gone before this could be asked for
        os._exit(1)


def main(place: Path, executor: int, modules: Sequence[str]) -> None:
    """Be a host."""
    host = _Host(place, executor)
    try:
        with gc_paused():
            import horovod.tensorflow  # noqa: F401

            for name in modules:
                importlib.import_module(name)
    except Exception:
        host.refuse(traceback.format_exc())
        return
    gc.disable()
    gc.freeze()  # the pages of what is imported stay shared with the ranks
    host.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
