"""The Spark session of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spark_dl.cli.keys import SessionKeys

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["session"]


@contextmanager
def session(command: str, keys: SessionKeys) -> Iterator[SparkSession]:
    """Open a Spark session, or use the process's; only one that is opened here is stopped.

    Args:
        command: The name of the command, for the application's name.
        keys: The session's keys.
    """
    from pyspark.sql import SparkSession

    from spark_dl._compat.spark import is_connect

    running = SparkSession.getActiveSession() is not None
    builder = SparkSession.builder
    if not running:
        # Spark's page has nobody to look at it, and its progress bars would be mixed with the command's own output.
        builder = builder.appName(f"spark-dl {command}").config("spark.ui.enabled", "false")
        builder = builder.config("spark.ui.showConsoleProgress", "false")
        builder = builder.master(keys.master) if keys.master else builder
    for name, value in (keys.spark_conf or {}).items():
        builder = builder.config(name, str(value).lower() if isinstance(value, bool) else str(value))
    spark = builder.getOrCreate()
    if not running and not is_connect(spark) and spark.conf.get("spark.log.level", None) is None:
        spark.sparkContext.setLogLevel("ERROR")  # Spark logs stack traces with warnings about what isn't wrong
    try:
        yield spark
    finally:
        if not running:
            spark.stop()
