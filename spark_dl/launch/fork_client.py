"""A task's way to the fork server of its executor: finds it by its directory, or starts it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from spark_dl.errors import ClusterError, explain

__all__ = ["connect", "locked", "log_tail", "socket_address"]

_STARTS_SECONDS = 60.0
# Variables that libraries read when they are imported. Each rank gets all others in its own environment.
_READ_BY_IMPORTS = (
    *("ARROW_", "CUDA_", "GOTO_", "KERAS_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PROTOCOL_BUFFERS_"),
    *("PYTHON", "TF2_", "TF_", "XLA_"),
)
_NOT_READ_BY_IMPORTS = ("CUDA_VISIBLE_DEVICES", "PYTHONPATH", "PYTHON_")
# The path of a Unix socket has at most 107 bytes.
_LONGEST_PATH = 100
_SOCKET = "socket"


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
        with contextlib.suppress(FileExistsError, FileNotFoundError), locked(directory):
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
def socket_address(directory: Path) -> Iterator[str]:
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
def locked(directory: Path) -> Iterator[None]:
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
        with socket_address(directory) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
