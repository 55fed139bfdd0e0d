"""Spark's Python daemon where what it imports for scoring is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_without_tensorflow_workers_start_all_the_same_and_a_line_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libcuda is missing')")
    paths = [str(tmp_path), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHON_WORKER_FACTORY_SECRET": "none"}
    environment.pop("PYTHON_UNIX_DOMAIN_ENABLED", None)
    command = [sys.executable, "-m", "spark_dl.spark.python_daemon", "pyspark.worker"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as daemon:
        assert daemon.stdin
        assert daemon.stdout
        assert daemon.stderr
        port = int.from_bytes(daemon.stdout.read(4), "big")
        daemon.stdin.close()  # Spark ends its daemons so
        daemon.terminate()
        written = daemon.stderr.read().decode()
    assert 1024 < port < 65536
    assert f"{sys.executable} can't import what scoring needs (libcuda is missing)" in written
    assert "set PYSPARK_PYTHON" in written
    assert "Traceback" not in written
