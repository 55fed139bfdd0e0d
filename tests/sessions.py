"""Spark sessions for the tests: real ones, with short waits and little noise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

# A JVM that lives for a minute or two gains nothing from its second compiler and a concurrent collector.
SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


@contextmanager
def session(master: str, **settings: str) -> Iterator[SparkSession]:
    """A session that is stopped at the end. Underscores in the settings stand for dots."""
    builder = (
        SparkSession.builder.master(master)
        .appName("spark_dl tests")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.extraJavaOptions", SHORT_LIVED)
        .config("spark.executor.extraJavaOptions", SHORT_LIVED)
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
