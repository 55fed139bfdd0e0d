"""Spark sessions for the tests: real ones, with short waits and little noise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

# Also for the programs that tests start, which have only this folder.
sys.path.append(str(Path(__file__).parent.parent / "scripts"))

from jvm import short_lived

__all__ = ["session", "short_lived"]


@contextmanager
def session(master: str, **settings: str) -> Iterator[SparkSession]:
    """A session that is stopped at the end. Underscores in the settings stand for dots."""
    builder = (
        SparkSession.builder.master(master)
        .appName("spark_dl tests")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.extraJavaOptions", short_lived())
        .config("spark.executor.extraJavaOptions", short_lived())
        .config("spark.pyspark.python", sys.executable)
    )
    for name, value in settings.items():
        builder = builder.config("spark." + name.replace("_", "."), value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    try:
        yield spark
    finally:
        spark.stop()
