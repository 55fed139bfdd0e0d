"""One Spark Connect server, a process with two executors, and this process as its client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import SparkSession
from sessions import short_lived

_SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
_STARTS_SECONDS = 90.0
# What PySpark sets in a client's environment, and would make the next folder's sessions remote ones.
_REMOTE = ("SPARK_CONNECT_MODE_ENABLED", "SPARK_REMOTE", "SPARK_LOCAL_REMOTE")


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's URL."""
    log = tmp_path_factory.mktemp("connect") / "server.log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "spark.connect.grpc.binding.port": port,
        "spark.driver.extraJavaOptions": short_lived(),
        "spark.executor.extraJavaOptions": short_lived(),
        "spark.pyspark.python": sys.executable,
        "spark.sql.shuffle.partitions": 2,
        "spark.ui.enabled": "false",
    }
    command = [str(Path(pyspark.__file__).parent / "bin/spark-submit"), "--master", "local-cluster[2,1,1024]"]
    command += [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--class", _SERVER, "spark-internal"], stdout=output, stderr=output)
    try:
        _wait(process, port, log)
        yield f"sc://localhost:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="package")
def spark(server: str) -> Iterator[SparkSession]:
    session = SparkSession.builder.remote(server).getOrCreate()
    try:
        yield session
        session.stop()
    finally:
        for name in _REMOTE:
            os.environ.pop(name, None)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _STARTS_SECONDS
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"The server didn't start:\n{log.read_text()[-5000:]}")
