"""What a classic Spark session and one of Spark Connect do in different ways."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, cast

from pyspark.sql import SparkSession

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession as ConnectSession

__all__ = [
    "application",
    "cancel",
    "driver_address",
    "is_connect",
    "master_of",
    "running_session",
    "tag_jobs",
    "takes_case_apart",
    "use_driver_python",
]


def is_connect(spark: SparkSession) -> bool:
    """Whether the session is a client of Spark Connect, whose driver is another process."""
    # The class itself can't be imported without gRPC, which only such a client needs.
    return type(spark).__module__.startswith("pyspark.sql.connect")


def application(spark: SparkSession) -> object:
    """Give the object of this process that lives as long as its Spark application: sessions of one share it.

    For a client of Spark Connect it is the session; the application is another process, which others may use too.
    """
    return spark if is_connect(spark) else spark.sparkContext


def master_of(spark: SparkSession) -> str:
    """Read spark.master; empty where a session doesn't say."""
    return spark.conf.get("spark.master", "") or ""


def running_session() -> SparkSession:
    """The session of this thread, of whichever kind; a classic one is started where there is none."""
    return SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()


def takes_case_apart() -> bool:
    """Tell whether this thread's session takes names that differ in case only for different columns."""
    spark = SparkSession.getActiveSession()
    return spark is not None and (spark.conf.get("spark.sql.caseSensitive", "false") or "").lower() == "true"


def tag_jobs(spark: SparkSession, tag: str) -> None:
    """The jobs that this thread starts from here on can be cancelled by the tag."""
    # The session's own tags reach no job of a classic session in Spark 4.0.5.
    if is_connect(spark):
        cast("ConnectSession", spark).addTag(tag)
    else:
        spark.sparkContext.addJobTag(tag)


def cancel(spark: SparkSession, tag: str) -> None:
    """Cancel the jobs with the tag, from any thread."""
    if is_connect(spark):
        cast("ConnectSession", spark).interruptTag(tag)
    else:
        spark.sparkContext.cancelJobsWithTag(tag)


def use_driver_python(spark: SparkSession) -> None:
    """Have a local session's Python workers run the driver's own Python, where the user has named none.

    Spark would run the first `python3` on PATH, which a virtual environment that isn't activated doesn't change: one of
    another version, or without the packages. Executors on other machines have Pythons of their own.
    """
    if is_connect(spark) or not master_of(spark).startswith("local"):
        return
    named = "PYSPARK_PYTHON" in os.environ or spark.conf.get("spark.pyspark.python", None) is not None
    if not named and sys.executable:
        spark.sparkContext.pythonExec = sys.executable


def driver_address(spark: SparkSession) -> tuple[str, str]:
    """Where the executors reach this process, and the address to listen on for it.

    For a client of Spark Connect the first is this host's address towards the server.
    """
    host = spark.conf.get("spark.driver.host", "") or "localhost"
    if not is_connect(spark):
        return host, spark.conf.get("spark.driver.bindAddress", host) or host
    server = cast("ConnectSession", spark).client.host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server, 1))  # sends nothing; only asks the system for the way
        own: str = probe.getsockname()[0]
    # A server on this host is known to the executors by its own name.
    return (host, host) if own.startswith("127.") else (own, own)
