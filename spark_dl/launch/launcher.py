"""The driver's side of a launch: submit the barrier stage, listen to the ranks, raise the first real cause."""

from __future__ import annotations

import functools
import pickle
import queue
import re
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
from pyspark.sql import Row, SparkSession

from spark_dl import options
from spark_dl.errors import RankError, explain
from spark_dl.launch import slots
from spark_dl.launch.barrier import RESULT_SCHEMA, RankJob, run_task
from spark_dl.launch.channel import Channel
from spark_dl.launch.failure import first_cause
from spark_dl.launch.rank_main import Rank, without_rank
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.watch import Watch
from spark_dl.session import running_session
from spark_dl.spark_job import SparkJob

__all__ = ["HorovodLauncher", "run_ranks"]


class HorovodLauncher:
    """Runs a function of your own on Horovod ranks, one in each task of a Spark barrier stage.

    Horovod is initialised when the function is called; `hvd.init()` in it does no harm. Each rank is a fresh
    process with the GPUs and threads that Spark gave its task.

    Args:
        numWorkers: number of ranks; each takes one slot.
        cpusPerWorker: cores of a rank's task; None, the default, for spark.task.cpus.
        gpusPerWorker: GPUs of a rank's task; None, the default, for spark.task.resource.gpu.amount.
        threadsPerWorker: computing threads of a rank; 0, the default, for as many as its task has cores.
        networkInterface: name or CIDR of the network between the ranks; None, the default, for the one that leads
            to rank 0.
        allowPlaintext: run although Spark is told to encrypt, and the ranks speak plain TCP; False by default.
        slotTimeout: seconds to wait until all ranks have a slot, 60 by default.

    Example:

        >>> from pyspark.sql import SparkSession
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> def train(rate):
        ...     import horovod.tensorflow as hvd
        ...     return hvd.rank(), hvd.size(), rate
        >>> HorovodLauncher(2).run(train, 0.1)
        [(0, 2, 0.1), (1, 2, 0.1)]
        >>> spark.stop()
    """

    def __init__(
        self,
        numWorkers: int,
        *,
        cpusPerWorker: int | None = None,
        gpusPerWorker: int | None = None,
        threadsPerWorker: int = 0,
        networkInterface: str | None = None,
        allowPlaintext: bool = False,
        slotTimeout: float = 60.0,
    ) -> None:
        self.numWorkers: int = options.NUM_WORKERS.check(numWorkers)
        self.settings = LaunchSettings(
            cpus=options.CPUS_PER_WORKER.check(cpusPerWorker),
            gpus=options.GPUS_PER_WORKER.check(gpusPerWorker),
            interface=options.NETWORK_INTERFACE.check(networkInterface),
            allow_plaintext=options.ALLOW_PLAINTEXT.check(allowPlaintext),
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
        spark = running_session()
        slots.check_cluster(spark, self.numWorkers, self.settings)
        return run_ranks(spark, functools.partial(without_rank, fn, args), self.numWorkers, self.settings)


def run_ranks(
    spark: SparkSession,
    function: Callable[[Rank], Any],
    size: int,
    settings: LaunchSettings,
    on_report: Callable[[dict[str, Any]], None] = lambda content: None,
    modules: Sequence[str] = (),
) -> list[Any]:
    """Call a function with its `Rank` on every rank.

    Args:
        spark: the session.
        function: is called on every rank.
        size: the number of ranks.
        settings: what each is given.
        on_report: gets what the ranks report, in this thread.
        modules: what the function imports, beside TensorFlow and Horovod: it is imported once for all calls.

    Returns:
        what each rank returned, in rank order.

    Raises:
        ClusterError: no slots in time, or ranks that don't meet in time.
        RankError: a rank raised, or its process died.
    """
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel.of(spark, messages) as channel:
        job = RankJob(
            payload=cloudpickle.dumps(function),
            channel=channel.address,
            modules=tuple(modules),
            threads=settings.threads,
            interface=settings.interface,
            share_gpus=settings.gpus is None and slots.tasks_share_gpus(spark),
            reach_timeout=10.0,
            collective_timeout=settings.collective_timeout,
        )
        frame = spark.range(0, size, 1, size).mapInArrow(
            functools.partial(run_task, job),
            RESULT_SCHEMA,
            barrier=True,
            profile=slots.resource_profile(spark, settings),
        )
        with SparkJob(frame, lambda: messages.put({"event": "ended"})) as spark_job:
            watch = Watch(size, settings, on_report, lambda facts: channel.tell({"ranks": facts}))
            while not watch.ended:
                watch.take(messages)
            watch.take_late(messages)
            return _values(spark_job.rows, watch)


def _values(collect: Callable[[], list[Row]], watch: Watch) -> list[Any]:
    try:
        rows = sorted(collect(), key=lambda row: int(row["rank"]))
    except Exception as error:
        if not watch.failures:
            # A client of Spark Connect is told of it with one l.
            cancelled = re.search("cancell?ed", str(error), re.IGNORECASE) is not None
            raise RankError(f"The Spark job that ran the ranks failed: {_said(error)}", lost=not cancelled) from error
        rows = []
    if not rows and watch.failures:
        raise watch.failed()
    failures = [pickle.loads(row["content"]) for row in rows if not row["ok"]]
    if failures:
        raise first_cause(failures).error()
    return [_value(row) for row in rows]


def _said(error: Exception) -> str:
    """What Spark says of a failed job, without the Java stack around it."""
    text = str(error)
    found = re.search(r"(ExecutorLostFailure|Could not recover from|Job aborted)[^\n]*", text)
    return found[0] if found else text


def _value(row: Row) -> Any:
    try:
        return pickle.loads(row["content"])  # our own executor's bytes, as every Spark result
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
