"""One local session for the folder, with the settings of conf/spark-defaults-cpu.conf."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from sessions import session

CPU_DEFAULTS = Path(__file__).parents[2] / "conf" / "spark-defaults-cpu.conf"


@pytest.fixture(scope="session")
def cpu_defaults() -> dict[str, str]:
    lines = CPU_DEFAULTS.read_text().splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="package")
def spark(cpu_defaults: dict[str, str]) -> Iterator[SparkSession]:
    with session("local[2]", **{name.removeprefix("spark."): value for name, value in cpu_defaults.items()}) as made:
        yield made
