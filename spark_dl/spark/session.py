"""Session functions that differ between classic Spark and Spark Connect."""

from __future__ import annotations

import os
import socket
import sys

from pyspark.sql import SparkSession

from spark_dl._compat.spark import is_connect, server_host, set_worker_python

__all__ = [
    "application",
    "cancel",
    "driver_address",
    "is_case_sensitive",
    "master_of",
    "running_session",
    "started_stages",
    "tag_jobs",
    "use_driver_python",
]


def application(spark: SparkSession) -> object:
    """Return the object that lives in this process as long as the Spark application, shared by its sessions.

    For a client of Spark Connect it is the session, since the application is another process with other clients.
    """
    return spark if is_connect(spark) else spark.sparkContext


def master_of(spark: SparkSession) -> str:
    """Read spark.master; "" if it isn't set."""
    return spark.conf.get("spark.master", "") or ""


def running_session() -> SparkSession:
    """Return this thread's active session, classic or Spark Connect; build one if there is none."""
    return SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()


def is_case_sensitive() -> bool:
    """Return whether column names are case-sensitive in this thread's session (spark.sql.caseSensitive)."""
    spark = SparkSession.getActiveSession()
    return spark is not None and (spark.conf.get("spark.sql.caseSensitive", "false") or "").lower() == "true"


def tag_jobs(spark: SparkSession, tag: str) -> None:
    """Tag the jobs that this thread starts from now on, so that `cancel` finds them."""
    # In Spark 4.0.5, a classic session's own tags don't reach its jobs.
    if is_connect(spark):
        spark.addTag(tag)
    else:
        spark.sparkContext.addJobTag(tag)


def cancel(spark: SparkSession, tag: str) -> None:
    """Cancel the jobs with a tag; may be called from any thread."""
    if is_connect(spark):
        spark.interruptTag(tag)
    else:
        spark.sparkContext.cancelJobsWithTag(tag)


def started_stages(spark: SparkSession) -> dict[int, int] | None:
    """Return the stages of which Spark has started tasks and none has ended: the number of tasks by the stage's ID.

    Spark's record of tasks may be late, but a stage that waits for slots isn't in it. A client of Spark Connect can't
    ask for it: None.
    """
    if is_connect(spark):
        return None
    tracker = spark.sparkContext.statusTracker()
    stages = (tracker.getStageInfo(number) for number in tracker.getActiveStageIds())
    return {one.stageId: one.numTasks for one in stages if one and one.numActiveTasks and not one.numCompletedTasks}


def use_driver_python(spark: SparkSession) -> None:
    """Set the driver's Python for the Python workers of a local session, unless the user has configured one.

    Spark would run the first `python3` on PATH, which may have another version or lack the packages if the driver's
    virtual environment isn't activated. Sessions that aren't local stay unchanged, as executors on other hosts have
    their own Python.
    """
    if is_connect(spark) or not master_of(spark).startswith("local"):
        return
    named = "PYSPARK_PYTHON" in os.environ or spark.conf.get("spark.pyspark.python", None) is not None
    if not named and sys.executable:
        set_worker_python(spark, sys.executable)


def driver_address(spark: SparkSession) -> tuple[str, str]:
    """Find the address at which the executors reach this process, and the one to listen on.

    For a client of Spark Connect, both are this host's address towards the server, or spark.driver.host if the server
    is on this host.
    """
    host = spark.conf.get("spark.driver.host", "") or "localhost"
    if not is_connect(spark):
        return host, spark.conf.get("spark.driver.bindAddress", host) or host
    server = server_host(spark)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server, 1))  # sends nothing: it has the system choose the route
        own: str = probe.getsockname()[0]
    # If the server is on this host, the executors know it by spark.driver.host.
    return (host, host) if own.startswith("127.") else (own, own)
