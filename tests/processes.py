"""Processes that the tests look for."""

from __future__ import annotations

import contextlib
import os

import psutil


def ranks() -> list[psutil.Process]:
    """The ranks on this machine that this run of the tests has started."""
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.info["name"] == "spark-dl-rank"
                and process.environ().get("SPARK_DL_TEST_RUN") == os.environ["SPARK_DL_TEST_RUN"]
            ):
                found.append(process)
    return found
