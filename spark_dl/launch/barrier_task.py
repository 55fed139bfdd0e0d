"""One task of the barrier stage: starts the process of its rank, and forwards its messages to the driver."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark import BarrierTaskContext

from spark_dl.errors import ClusterError
from spark_dl.launch import failure, resources
from spark_dl.launch.channel import Sender
from spark_dl.launch.messages import (
    Address,
    Arrived,
    Done,
    Failed,
    Membership,
    NoMoreReplies,
    Peers,
    RankTask,
    Ready,
    Reply,
    Started,
)
from spark_dl.launch.rank_process import RankProcess
from spark_dl.launch.rendezvous import Rendezvous
from spark_dl.spark.python_worker import keep_worker
from spark_dl.world import worlds

__all__ = ["RESULT_SCHEMA", "RankJob", "run_task"]

RESULT_SCHEMA = "rank int, ok boolean, content binary"


@dataclass(frozen=True)
class RankJob:
    """The part of a launch that is the same for all tasks.

    Attributes:
        payload: The cloudpickled function, which is called with a `Rank`.
        channel: The address of the driver's channel.
        modules: The modules that ranks import besides TensorFlow and Horovod.
        threads: The number of computing threads of a rank; 0 for as many as the task has cores.
        interface: The name or CIDR of the network between the ranks; None for the one that reaches rank 0.
        share_gpus: Whether two ranks may have the same GPU.
        reach_timeout: The seconds to wait for a connection to rank 0.
        collective_timeout: The seconds after which a silent peer counts as lost.
        log_level: The level of the logger `spark_dl` on the driver, which ranks take over.
        pool: The pool that the ranks belong to; None for none.
    """

    payload: bytes
    channel: Address
    modules: tuple[str, ...]
    threads: int
    interface: str | None
    share_gpus: bool
    reach_timeout: float
    collective_timeout: int
    log_level: int
    pool: Membership | None = None


def run_task(job: RankJob, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Run one rank in a task of the barrier stage.

    The unused input is read, since Spark reuses only Python workers that have read theirs.

    Args:
        job: The launch.
        batches: The task's input, which is discarded.

    Yields:
        One row of `RESULT_SCHEMA`: the rank's value or its failure. A failure is a row, so that the stage ends well.
    """
    import cloudpickle

    keep_worker(batches)

    context = BarrierTaskContext.get()
    rank = context.partitionId()
    outcome = _run_reported(job, context)
    content = outcome if isinstance(outcome, bytes) else cloudpickle.dumps(outcome)
    yield pa.RecordBatch.from_pydict(
        {
            "rank": pa.array([rank], pa.int32()),
            "ok": pa.array([isinstance(outcome, bytes)]),
            "content": pa.array([content], pa.binary()),
        }
    )


def _run_reported(job: RankJob, context: BarrierTaskContext) -> bytes | failure.Failure:
    """Run the rank, and report a failure to the driver at once: the driver gets rows only when all tasks have ended."""
    rank, host = context.partitionId(), socket.gethostname()
    try:
        with contextlib.closing(Sender(job.channel)) as sender:
            try:
                outcome = _run_rank(job, context, sender)
            except Exception as error:
                outcome = failure.of_exception(error, rank, host)
            if isinstance(outcome, failure.Failure):
                sender.send(Failed(outcome.without_exception()))
            return outcome
    except ClusterError as error:  # the driver can't be reached
        return failure.of_exception(error, rank, host)


def _run_rank(job: RankJob, context: BarrierTaskContext, sender: Sender) -> bytes | failure.Failure:
    rank = context.partitionId()
    hosts = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
    sender.send(Arrived(rank, hosts[rank]))
    resource = context.resources().get("gpu")
    gpus = list(resource.addresses) if resource else []
    own = resources.interface_address(job.interface) if job.interface else None
    alone = len(set(hosts)) == 1
    environment = resources.task_environment(context.cpus(), gpus, job.threads)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(RankProcess(environment, job.modules, f"rank {rank}", job.pool))
        rendezvous = stack.enter_context(Rendezvous(own or resources.ipv4(hosts[0], alone))) if rank == 0 else None
        # hvd.init times out soon, so no rank calls it before all are ready.
        if not process.ready():
            return failure.crash(rank, hosts[rank], *process.exit())
        sender.send(Ready(rank, resources.gpu_names(gpus), rendezvous.address if rendezvous else None))
        peers = sender.receive(Peers)
        resources.check_gpus(hosts, peers.gpus, job.share_gpus)
        address = peers.rendezvous
        interface = resources.interface_towards(address.host, address.port, job.reach_timeout, own)
        world = worlds(hosts)[rank]
        variables = resources.horovod_environment(world, address, interface, job.collective_timeout)
        process.send(RankTask(world, variables, job.payload, job.log_level))
        threading.Thread(target=_forward_replies, args=(sender, process), daemon=True).start()
        for message in process.messages():
            match message:
                case Done(value):
                    return value
                case Failed(failed):
                    return replace(failed, log=process.last_lines())
                case Started() if rendezvous:
                    rendezvous.stop()
            sender.send(message)
        return failure.crash(rank, hosts[rank], *process.exit())


def _forward_replies(sender: Sender, process: RankProcess) -> None:
    """Forward the driver's replies to the rank; tell it when they end, so that it doesn't wait for more."""
    with contextlib.suppress(ClusterError, OSError, ValueError):
        while True:
            process.send(sender.receive(Reply))
    with contextlib.suppress(OSError, ValueError):  # the process has ended, too
        process.send(NoMoreReplies())
