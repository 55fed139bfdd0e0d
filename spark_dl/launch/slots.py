"""Slots and resources of the ranks' tasks, and the cluster settings that are refused before any Spark job."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_dl.errors import ClusterError, SlotsError, explain
from spark_dl.launch.settings import LaunchSettings
from spark_dl.spark.job import SparkJob

__all__ = [
    "check_cluster",
    "check_settings",
    "cores_now",
    "encryption",
    "no_slots",
    "resource_profile",
    "setting_of",
    "slots_of",
    "task_gpus",
    "tasks_share_gpus",
]

Setting = Callable[[str, str], str]

_MANY_ROWS, _COUNT_SECONDS = 100_000, 20.0

_LOCAL = re.compile(r"local(\[(\d+|\*)(,\s*\d+)?\])?")
_LOCAL_CLUSTER = re.compile(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*\]")
# Settings that encrypt RPC between executors; spark.ssl.enabled covers the web UI only.
_ENCRYPTION = ("spark.network.crypto.enabled", "spark.authenticate.enableSaslEncryption", "spark.ssl.rpc.enabled")
_TASK_GPUS, _EXECUTOR_GPUS = "spark.task.resource.gpu.amount", "spark.executor.resource.gpu.amount"


def setting_of(spark: SparkSession) -> Setting:
    """Return a function that looks up a Spark setting with a default."""
    # Spark Connect checks a default against the setting's type, so it isn't passed on.
    return lambda key, default: spark.conf.get(key, None) or default


def slots_of(master: str, setting: Setting, settings: LaunchSettings) -> int | None:
    """Count the slots from the settings alone.

    Args:
        master: Spark's master URL.
        setting: The lookup of a Spark setting with a default.
        settings: The launch settings, with the resources of each rank.

    Returns:
        The number of slots, or None if only the cluster manager knows it.
    """
    task_cpus = settings.cpus_per_worker or int(setting("spark.task.cpus", "1"))
    for_task, gpus = task_gpus(setting, settings), int(setting(_EXECUTOR_GPUS, "0"))

    def of_executor(cores: int) -> int:
        if not for_task:
            return cores // task_cpus
        # Several tasks may share a GPU, but a task never has parts of two GPUs.
        by_gpus = gpus * int(1 / for_task) if for_task < 1 else int(gpus // for_task)
        return min(cores // task_cpus, by_gpus)

    if match := _LOCAL.fullmatch(master):
        count = match[2] or "1"
        return (os.cpu_count() or 1 if count == "*" else int(count)) // task_cpus
    if match := _LOCAL_CLUSTER.fullmatch(master):
        return int(match[1]) * of_executor(int(match[2]))
    executors, cores = setting("spark.executor.instances", ""), setting("spark.executor.cores", "")
    if _counts_executors(master) and executors.isdigit() and cores.isdigit():
        return int(executors) * of_executor(int(cores))
    return None


def cores_now(spark: SparkSession) -> int | None:
    """Count the cores of the running executors, by the number of partitions of a range.

    Returns:
        The number of cores, at least 2; None if a setting fixes the number of partitions, or after 20 s.
    """
    overrides = ("spark.default.parallelism", "spark.sql.leafNodeDefaultParallelism")
    if any(setting_of(spark)(key, "") for key in overrides):
        return None
    parts = spark.range(_MANY_ROWS).select(F.spark_partition_id().alias("part")).distinct()
    with SparkJob(parts) as job:
        return len(job.rows()) if job.wait(_COUNT_SECONDS) else None


def tasks_share_gpus(spark: SparkSession) -> bool:
    """Return whether spark.task.resource.gpu.amount is less than one GPU."""
    return 0 < float(setting_of(spark)(_TASK_GPUS, "0")) < 1


def resource_profile(spark: SparkSession, settings: LaunchSettings) -> ResourceProfile | None:
    """Build the resource profile of the ranks' tasks; None if they need what the application's tasks have."""
    if not _has_profile(setting_of(spark), settings):
        return None
    requests = TaskResourceRequests().cpus(settings.cpus_per_worker or int(setting_of(spark)("spark.task.cpus", "1")))
    # A profile inherits nothing from the application.
    if gpus := task_gpus(setting_of(spark), settings):
        requests = requests.resource("gpu", gpus)
    return ResourceProfileBuilder().require(requests).build


def check_cluster(spark: SparkSession, workers: int, settings: LaunchSettings) -> None:
    """Check the cluster's settings before any Spark job, since Spark would refuse them late or never.

    Args:
        spark: The session.
        workers: The number of workers.
        settings: The launch settings.

    Raises:
        ClusterError: Dynamic allocation is enabled outside of local mode, there are fewer slots than workers, executors
            lack the resources, or Spark is set to encrypt and allowPlaintext isn't set.
    """
    check_settings(setting_of(spark), workers, settings)


def check_settings(setting: Setting, workers: int, settings: LaunchSettings) -> None:
    """Check the cluster's settings, as `check_cluster`, by their lookup alone."""
    master = setting("spark.master", "")
    _check_executors_are_fixed(master, setting)
    if (encrypting := encryption(setting)) and not settings.allow_plaintext:
        raise ClusterError(
            explain(
                "Spark is configured to encrypt, but Horovod's ranks use plain TCP.",
                expected="allowPlaintext=True, on a network that you trust or that is encrypted itself",
                received=encrypting,
                fix="Let networkInterface name an encrypted interface (WireGuard, for example), "
                "and set allowPlaintext=True.",
            )
        )
    _check_resources(master, setting, settings)
    slots = slots_of(master, setting, settings)
    if slots is not None and workers > slots:
        cpus = settings.cpus_per_worker or setting("spark.task.cpus", "1")
        gpus = f" and {settings.gpus_per_worker} GPUs" if settings.gpus_per_worker else ""
        raise ClusterError(
            explain(
                f"numWorkers={workers} is more than the cluster's {slots} slots.",
                expected=f"numWorkers <= {slots}: every worker needs a slot at the same time",
                received=f"numWorkers={workers} on {master} with {cpus} cores{gpus} for each",
                fix="Lower numWorkers, or give the application more executors or cores.",
            )
        )


def encryption(setting: Setting) -> str:
    """List the settings that have Spark encrypt RPC, as "key=true, key=true"; "" if there are none."""
    return ", ".join(f"{key}=true" for key in _ENCRYPTION if setting(key, "false").lower() == "true")


def _counts_executors(master: str) -> bool:
    """Return whether the master heeds spark.executor.instances; a standalone cluster heeds spark.cores.max instead."""
    return master == "yarn" or master.startswith("k8s://")


def task_gpus(setting: Setting, settings: LaunchSettings) -> float:
    """Return the number of GPUs of a worker's task; below 1 if tasks share a GPU."""
    return float(setting(_TASK_GPUS, "0")) if settings.gpus_per_worker is None else settings.gpus_per_worker


def _has_profile(setting: Setting, settings: LaunchSettings) -> bool:
    cpus, gpus = settings.cpus_per_worker, settings.gpus_per_worker
    other_cpus = cpus is not None and cpus != int(setting("spark.task.cpus", "1"))
    return other_cpus or (gpus is not None and gpus != float(setting(_TASK_GPUS, "0")))


def _check_executors_are_fixed(master: str, setting: Setting) -> None:
    # Spark ignores the setting in local mode.
    if _LOCAL.fullmatch(master) or setting("spark.dynamicAllocation.enabled", "false").lower() != "true":
        return
    raise ClusterError(
        explain(
            "Barrier stages can't run with dynamic allocation (SPARK-24942).",
            expected="spark.dynamicAllocation.enabled=false",
            received="spark.dynamicAllocation.enabled=true",
            fix="Start the application with a fixed number of executors (spark.executor.instances). On Databricks, "
            "give the cluster a number of workers in place of autoscaling (num_workers, not autoscale).",
        )
    )


def _check_resources(master: str, setting: Setting, settings: LaunchSettings) -> None:
    has = int(setting(_EXECUTOR_GPUS, "0"))
    if settings.gpus_per_worker and settings.gpus_per_worker > has:
        raise ClusterError(
            explain(
                f"gpusPerWorker={settings.gpus_per_worker}, but "
                + (f"an executor has {has} GPUs." if has else "the executors have no GPUs that Spark knows of."),
                expected=f"{_EXECUTOR_GPUS} >= {settings.gpus_per_worker}",
                received=f"{_EXECUTOR_GPUS}={setting(_EXECUTOR_GPUS, 'not set')} on {master}",
                fix=f"Start the application with {_EXECUTOR_GPUS} and a discovery script "
                "(spark.executor.resource.gpu.discoveryScript), or leave gpusPerWorker out.",
            )
        )
    cores = setting("spark.executor.cores", "1" if _counts_executors(master) else "")
    if settings.cpus_per_worker and cores.isdigit() and settings.cpus_per_worker > int(cores):
        raise ClusterError(
            explain(
                f"cpusPerWorker={settings.cpus_per_worker}, but an executor has {cores} cores.",
                expected=f"spark.executor.cores >= {settings.cpus_per_worker}",
                received=f"spark.executor.cores={setting('spark.executor.cores', 'not set')} on {master}",
                fix="Lower cpusPerWorker, or start the application with more cores for each executor.",
            )
        )
    if _LOCAL.fullmatch(master) and _has_profile(setting, settings):
        raise ClusterError(
            explain(
                "Tasks of local mode can't request resources.",
                expected="a cluster (standalone, YARN, Kubernetes, local-cluster)",
                received=f"{master} with cpusPerWorker={settings.cpus_per_worker} and "
                f"gpusPerWorker={settings.gpus_per_worker}",
                fix="Set spark.task.cpus for the session, and leave cpusPerWorker and gpusPerWorker out.",
            )
        )


def no_slots(workers: int, seconds: float, started: bool | None = False) -> SlotsError:
    """Build the error for slots that Spark didn't provide in time.

    Args:
        workers: The number of tasks.
        seconds: The time that was waited.
        started: False if Spark has started no task, None if it isn't known whether it has.
    """
    received, slow = "fewer: Spark has started no task", ""
    if started is None:
        received = "no answer of any task: fewer slots are free, or Python starts slowly on the executors"
        slow = ", also where Python starts slowly"
    return SlotsError(
        explain(
            f"Spark did not give {workers} slots at the same time within {seconds:g} s.",
            expected=f"{workers} free slots (executors x cores / cores of a task, and GPUs where they are asked for)",
            received=received,
            fix="Lower numWorkers, give the application more executors, wait for other jobs to end, "
            f"or raise slotTimeout{slow}.",
        )
    )
