"""How many tasks can run at once, as far as the settings alone tell, and what Spark refuses to barrier stages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pyspark.sql import SparkSession
from pyspark.sql.utils import is_remote

from spark_dl.errors import ClusterError, SlotsError, explain

__all__ = ["check_cluster", "no_slots", "slots_of"]

Setting = Callable[[str, str], str]

_LOCAL = re.compile(r"local(\[(\d+|\*)(,\s*\d+)?\])?")
_LOCAL_CLUSTER = re.compile(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*\]")


def slots_of(master: str, setting: Setting) -> int | None:
    """The number of slots, or None where only the cluster knows.

    Args:
        master: Spark's master URL.
        setting: looks up a Spark setting with a default.
    """
    task_cpus = int(setting("spark.task.cpus", "1"))
    if match := _LOCAL.fullmatch(master):
        count = match[2] or "1"
        return (os.cpu_count() or 1 if count == "*" else int(count)) // task_cpus
    if match := _LOCAL_CLUSTER.fullmatch(master):
        return int(match[1]) * (int(match[2]) // task_cpus)
    executors, cores = setting("spark.executor.instances", ""), setting("spark.executor.cores", "")
    if executors.isdigit() and cores.isdigit():
        return int(executors) * (int(cores) // task_cpus)
    return None


def check_cluster(spark: SparkSession, workers: int) -> None:
    """Refuse at once what Spark would refuse late or never.

    Raises:
        ClusterError: a Connect session, dynamic allocation, or fewer slots than workers.
    """
    if is_remote():
        raise ClusterError(
            explain(
                "Training over Spark Connect isn't supported yet.",
                expected="a classic SparkSession, in the driver's own process",
                received=type(spark).__module__,
                fix="Run the program with spark-submit, or make the session with .master(...).",
            )
        )

    def setting(key: str, default: str) -> str:
        return spark.conf.get(key, default) or default

    if setting("spark.dynamicAllocation.enabled", "false").lower() == "true":
        raise ClusterError(
            explain(
                "Barrier stages can't run with dynamic allocation (SPARK-24942).",
                expected="spark.dynamicAllocation.enabled=false",
                received="spark.dynamicAllocation.enabled=true",
                fix="Start the application with a fixed number of executors (spark.executor.instances).",
            )
        )
    master = setting("spark.master", "")
    slots = slots_of(master, setting)
    if slots is not None and workers > slots:
        raise ClusterError(
            explain(
                f"numWorkers={workers} is more than the cluster's {slots} slots.",
                expected=f"numWorkers <= {slots}: every worker needs a slot at the same time",
                received=f"numWorkers={workers} on {master} with spark.task.cpus={setting('spark.task.cpus', '1')}",
                fix="Lower numWorkers, or give the application more executors or cores.",
            )
        )


def no_slots(workers: int, seconds: float) -> SlotsError:
    """The error for slots that Spark did not give in time."""
    return SlotsError(
        explain(
            f"Spark did not give {workers} slots at the same time within {seconds:g} s.",
            expected=f"{workers} free slots (executors x cores / spark.task.cpus)",
            received="fewer",
            fix="Lower numWorkers, give the application more executors, wait for other jobs to end, "
            "or raise slotTimeout.",
        )
    )
