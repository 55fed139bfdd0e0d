"""Where the tests' runs are written: MLflow on a sqlite file, and MLflow's own server over HTTP with a password."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow

_USER, _PASSWORD = "admin", "a-long-password"
_VARIABLES = {"MLFLOW_TRACKING_USERNAME": _USER, "MLFLOW_TRACKING_PASSWORD": _PASSWORD}


@functools.cache
def _empty_store() -> bytes:
    """An MLflow database with all its tables and no rows, which takes seconds of migrations to make."""
    before = mlflow.get_tracking_uri()
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        try:
            mlflow.search_experiments()
        finally:
            mlflow.set_tracking_uri(before)
        # The default experiment, which names this folder: each store makes its own.
        with contextlib.closing(sqlite3.connect(f"{folder}/mlflow.db")) as connection, connection:
            connection.execute("DELETE FROM experiments")
        return Path(folder, "mlflow.db").read_bytes()


def prepare_store(database: Path) -> None:
    """Put a database there that has MLflow's tables, unless there is one."""
    if not database.exists():
        database.write_bytes(_empty_store())


@contextlib.contextmanager
def sqlite_store(folder: Path, experiment: str) -> Iterator[str]:
    """A new store in this folder, whose artifacts lie beside it; the experiment is the current one."""
    prepare_store(folder / "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment(experiment, artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment)
    try:
        yield experiment
    finally:
        mlflow.set_tracking_uri(before)


@dataclass(frozen=True)
class Server:
    """A tracking server.

    Attributes:
        url: its address, on this host's loopback.
        group: the process group of all its processes.
        folder: where all its files are.
    """

    url: str
    group: int
    folder: Path


@contextlib.contextmanager
def tracking_server(folder: Path, largest: int | None = None, encrypted: bool = False) -> Iterator[Server]:
    """A server with an artifact proxy, whose password this process's environment has while the `with` lasts.

    Args:
        folder: where all its files are.
        largest: bytes of a file beyond which it has no room; None where the disk alone tells.
        encrypted: whether it speaks TLS, with a certificate of its own, `certificate.pem` in the folder.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    prepare_store(folder / "store.db")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = MANAGE\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {_USER}\nadmin_password = {_PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    options = ["--backend-store-uri", f"sqlite:///{folder}/store.db", "--port", str(port), "--workers", "1"]
    options += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"), "--app-name", "basic-auth"]
    if encrypted:
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        made = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests -keyout {key} -out {certificate}"
        subprocess.run([*made.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        options += ["--uvicorn-opts", f"--ssl-keyfile={key} --ssl-certfile={certificate}"]
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    room = [] if largest is None else ["prlimit", f"--fsize={largest}"]
    command = [*room, sys.executable, "-m", "mlflow", "server", *options]
    log = folder / "server.log"
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written, env=environment, start_new_session=True)
    before_uri, before = mlflow.get_tracking_uri(), {name: os.environ.get(name) for name in _VARIABLES}
    try:
        url = f"http{'s' * encrypted}://127.0.0.1:{port}"
        _wait(url, process, log)
        os.environ.update(_VARIABLES)
        mlflow.set_tracking_uri(url)
        yield Server(url, process.pid, folder)
    finally:
        mlflow.set_tracking_uri(before_uri)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        with contextlib.suppress(ProcessLookupError):  # a test may have killed it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5, context=anyone).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
