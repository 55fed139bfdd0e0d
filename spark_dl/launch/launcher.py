"""Launch on the driver: submits the barrier stage, monitors the ranks, and raises the first cause of a failure."""

from __future__ import annotations

import functools
import logging
import pickle
import queue
import re
from collections.abc import Callable
from typing import Any

import cloudpickle
from pyspark.sql import Row, SparkSession

from spark_dl.errors import RankError, explain
from spark_dl.launch import slots
from spark_dl.launch.barrier_task import RESULT_SCHEMA, RankJob, run_task
from spark_dl.launch.channel import Channel, MessageQueue
from spark_dl.launch.failure import first_cause
from spark_dl.launch.messages import JobEnded
from spark_dl.launch.monitor import RankEvents, RankMonitor
from spark_dl.launch.settings import LaunchSettings, ProcessSettings
from spark_dl.launch.slot_queue import SlotQueue
from spark_dl.spark.job import SparkJob
from spark_dl.world import Rank

__all__ = ["run_ranks"]

_log = logging.getLogger(__name__)

# The tasks close their connections before Spark reports the job's end.
_LATE_SECONDS = 0.5


def run_ranks(
    spark: SparkSession,
    function: Callable[[Rank], Any],
    size: int,
    settings: LaunchSettings,
    on_report: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda content: None,
    on_warning: Callable[[str], None] = lambda text: None,
    processes: ProcessSettings = ProcessSettings(),  # noqa: B008 (frozen)
) -> list[Any]:
    """Call a function on Horovod ranks, once earlier calls of this application have their slots.

    Args:
        spark: The session.
        function: The function that each rank calls with its `Rank`.
        size: The number of ranks.
        settings: The launch settings.
        on_report: Called in this thread with the ranks' reports. What it returns, unless None, is sent to all ranks.
        on_warning: Called in this thread with warnings about waiting for slots and about stuck ranks.
        processes: The settings of the ranks' processes.

    Returns:
        The values that the ranks returned, in rank order.

    Raises:
        ClusterError: There were no slots in time, or the ranks did not connect in time.
        RankError: A rank raised, is stuck, or was lost, or its result can't be unpickled.
    """
    messages: MessageQueue = queue.Queue()
    with (
        SlotQueue.of(spark).claim(size, on_warning) as claim,
        Channel.of(spark, messages) as channel,
    ):
        job = RankJob(
            payload=cloudpickle.dumps(function),
            channel=channel.address,
            modules=processes.modules,
            threads=settings.threads_per_worker,
            interface=settings.network_interface,
            share_gpus=settings.gpus_per_worker is None and slots.tasks_share_gpus(spark),
            reach_timeout=10.0,
            collective_timeout=settings.collective_timeout,
            log_level=logging.getLogger("spark_dl").getEffectiveLevel(),
            pool=processes.pool.membership(spark) if processes.pool else None,
        )
        frame = spark.range(0, size, 1, size).mapInArrow(
            functools.partial(run_task, job),
            RESULT_SCHEMA,
            barrier=True,
            profile=slots.resource_profile(spark, settings),
        )
        _log.info("Starting %d ranks.", size)
        with SparkJob(frame, lambda: messages.put(JobEnded())) as spark_job:
            events = RankEvents(on_report, on_warning, channel.broadcast)
            monitor = RankMonitor(size, settings, events, claim, lambda: spark_job.has_started(size))
            while not monitor.ended:
                monitor.take(messages)
            channel.wait_for_end(size, _LATE_SECONDS)
            monitor.take_rest(messages)
            return _values(spark_job.rows, monitor)


def _values(collect: Callable[[], list[Row]], monitor: RankMonitor) -> list[Any]:
    try:
        rows = sorted(collect(), key=lambda row: int(row["rank"]))
    except Exception as error:
        if not monitor.failures:
            # Spark Connect spells it with one l.
            cancelled = re.search("cancell?ed", str(error), re.IGNORECASE) is not None
            raise RankError(
                f"The Spark job that ran the ranks failed: {_job_error(error)}", lost=not cancelled
            ) from error
        rows = []
    if not rows and monitor.failures:
        raise monitor.failed()
    failures = [pickle.loads(row["content"]) for row in rows if not row["ok"]]
    if failures:
        raise first_cause(failures).error()
    return [_value(row) for row in rows]


def _job_error(error: Exception) -> str:
    """Extract Spark's message about a failed job from the Java stack trace around it."""
    text = str(error)
    found = re.search(r"(ExecutorLostFailure|Could not recover from|Job aborted)[^\n]*", text)
    return found[0] if found else text


def _value(row: Row) -> Any:
    try:
        return pickle.loads(row["content"])  # bytes of this application's executor, like any Spark result
    except Exception as error:
        raise RankError(
            explain(
                f"What rank {row['rank']} returned can't be read on the driver.",
                expected="a value whose class the driver can import, too",
                received=f"{type(error).__name__}: {error}",
                fix="Return plain values: numbers, strings, lists, dicts, NumPy arrays.",
            ),
            rank=row["rank"],
        ) from error
