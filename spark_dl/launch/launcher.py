"""The driver's side of a launch: submit the barrier stage, listen to the ranks, raise the first real cause."""

from __future__ import annotations

import contextlib
import functools
import pickle
import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle
from pyspark.sql import Row, SparkSession

from spark_dl import options
from spark_dl.errors import ClusterError, RankError, explain
from spark_dl.launch import slots
from spark_dl.launch.barrier import RESULT_SCHEMA, RankJob, run_task
from spark_dl.launch.channel import Channel
from spark_dl.launch.failure import Failure, first_cause
from spark_dl.launch.rank_main import Rank
from spark_dl.launch.spark_job import SparkJob

__all__ = ["HorovodLauncher", "LaunchSettings", "run_ranks"]

# How long the other ranks may take to notice that one has failed, before the stage is cancelled.
_FAILURE_GRACE_SECONDS = 5.0
_LATE_SECONDS = 0.1


@dataclass(frozen=True)
class LaunchSettings:
    """How ranks are launched.

    Attributes:
        threads: computing threads of a rank; 0 for as many as its task has cores.
        slot_timeout: seconds to wait for all slots at once.
        start_timeout: seconds from the slots to the first collective.
        collective_timeout: seconds after which a silent peer counts as lost.
    """

    threads: int = 0
    slot_timeout: float = 60.0
    start_timeout: float = 180.0
    collective_timeout: int = 30


class HorovodLauncher:
    """Runs a function of your own on Horovod ranks, one in each task of a Spark barrier stage.

    Horovod is initialised when the function is called; `hvd.init()` in it does no harm. Each rank is a fresh
    process with the GPUs and threads that Spark gave its task.

    Args:
        numWorkers: number of ranks; each takes one slot.
        threadsPerWorker: computing threads of a rank; 0, the default, for as many as spark.task.cpus.
        slotTimeout: seconds to wait until all ranks have a slot, 60 by default.

    Example:

        def train(rate):
            import horovod.tensorflow as hvd
            return hvd.rank(), rate

        HorovodLauncher(2).run(train, 0.1)   # [(0, 0.1), (1, 0.1)]
    """

    def __init__(self, numWorkers: int, *, threadsPerWorker: int = 0, slotTimeout: float = 60.0) -> None:
        self.numWorkers: int = options.NUM_WORKERS.check(numWorkers)
        self.settings = LaunchSettings(
            threads=options.THREADS_PER_WORKER.check(threadsPerWorker),
            slot_timeout=options.SLOT_TIMEOUT.check(slotTimeout),
        )

    def run(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `fn(*args)` on every rank.

        Returns:
            what each rank returned, in rank order.

        Raises:
            ClusterError: the ranks can't be started.
            RankError: a rank raised; its exception is the `__cause__`.
        """
        spark = SparkSession.builder.getOrCreate()
        slots.check_cluster(spark, self.numWorkers)
        return run_ranks(spark, functools.partial(_without_rank, fn, args), self.numWorkers, self.settings)


def _without_rank(fn: Callable[..., Any], args: tuple[Any, ...], rank: Rank) -> Any:
    return fn(*args)


def run_ranks(
    spark: SparkSession,
    function: Callable[[Rank], Any],
    size: int,
    settings: LaunchSettings,
    on_report: Callable[[dict[str, Any]], None] = lambda content: None,
) -> list[Any]:
    """Call a function with its `Rank` on every rank; `on_report` gets what the ranks report, in this thread.

    Returns:
        what each rank returned, in rank order.

    Raises:
        ClusterError: no slots in time, or ranks that don't meet in time.
        RankError: a rank raised, or its process died.
    """
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    host = spark.conf.get("spark.driver.host") or "localhost"
    bind = spark.conf.get("spark.driver.bindAddress", host) or host
    with Channel(host, bind, messages) as channel:
        job = RankJob(
            payload=cloudpickle.dumps(function),
            channel=channel.address,
            threads=settings.threads,
            reach_timeout=10.0,
            collective_timeout=settings.collective_timeout,
        )
        frame = spark.range(0, size, 1, size).mapInArrow(functools.partial(run_task, job), RESULT_SCHEMA, barrier=True)
        with SparkJob(frame, lambda: messages.put({"event": "ended"})) as spark_job:
            watch = _Watch(size, settings, on_report)
            while not watch.ended:
                watch.take(messages)
            watch.take_late(messages)
            return _values(spark_job.rows, watch.failures)


def _values(collect: Callable[[], list[Row]], heard: Mapping[int, Failure]) -> list[Any]:
    try:
        rows = sorted(collect(), key=lambda row: int(row["rank"]))
    except Exception as error:
        if not heard:
            raise RankError(f"The Spark job that ran the ranks failed: {error}") from error
        rows = []
    if not rows and heard:
        raise first_cause(heard.values()).error()
    failures = [pickle.loads(row["content"]) for row in rows if not row["ok"]]
    if failures:
        raise first_cause(failures).error()
    return [pickle.loads(row["content"]) for row in rows]


class _Watch:
    """What is known of the ranks while they run, and until when the next thing must have happened."""

    def __init__(self, size: int, settings: LaunchSettings, on_report: Callable[[dict[str, Any]], None]) -> None:
        self.ended = False
        self.failures: dict[int, Failure] = {}
        self._size = size
        self._settings = settings
        self._on_report = on_report
        self._arrived: dict[int, str] = {}
        self._started: set[int] = set()
        self._deadline: float | None = time.monotonic() + settings.slot_timeout

    def take(self, messages: queue.Queue[dict[str, Any]]) -> None:
        """Wait for the next message, at most until the deadline."""
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        message = None
        with contextlib.suppress(queue.Empty):
            message = messages.get(timeout=left)
        if message is None:
            raise self._overdue()
        self._on(message)

    def take_late(self, messages: queue.Queue[dict[str, Any]]) -> None:
        """Take what was on its way when the job ended: its end and the reports come by different ways."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._on(messages.get(timeout=_LATE_SECONDS))

    def _on(self, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "ended":
            self.ended = True
        elif event == "report":
            self._on_report(message["content"])
        elif event == "failed":
            self.failures[message["rank"]] = Failure(**message["failure"])
            self._deadline = time.monotonic() + _FAILURE_GRACE_SECONDS
        elif event == "arrived":
            self._arrived[message["rank"]] = message["host"]
            if len(self._arrived) == self._size and not self.failures:
                self._deadline = time.monotonic() + self._settings.start_timeout
        elif event == "started":
            self._started.add(message["rank"])
            if len(self._started) == self._size and not self.failures:
                self._deadline = None

    def _overdue(self) -> Exception:
        if self.failures:
            return first_cause(self.failures.values()).error()
        if not self._arrived:
            return ClusterError(
                explain(
                    f"Spark did not give {self._size} slots at the same time within {self._settings.slot_timeout:g} s.",
                    expected=f"{self._size} free slots (executors x cores / spark.task.cpus)",
                    received="fewer",
                    fix="Lower numWorkers, give the application more executors, wait for other jobs to end, "
                    "or raise slotTimeout.",
                )
            )
        missing = sorted(set(range(self._size)) - self._started)
        return ClusterError(
            explain(
                f"The ranks did not meet within {self._settings.start_timeout:g} s.",
                expected=f"{self._size} ranks that import TensorFlow and reach each other",
                received="still missing: "
                + ", ".join(f"rank {rank} on {self._arrived.get(rank, 'an unknown host')}" for rank in missing),
                fix="Look at these executors' logs; check that the hosts reach each other on any port.",
            )
        )
