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
def spark(cpu_defaults: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    events = {
        "eventLog_enabled": "true",
        "eventLog_dir": tmp_path_factory.mktemp("events").as_uri(),
        "eventLog_compress": "false",
    }
    settings = {name.removeprefix("spark."): value for name, value in cpu_defaults.items()}
    with session("local[2]", **settings, **events) as made:
        yield made
