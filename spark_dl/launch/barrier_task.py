"""One task of the barrier stage: find the place among the ranks, start the rank's process, pass on its words."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark import BarrierTaskContext

from spark_dl.errors import ClusterError
from spark_dl.launch import channel, failure, resources
from spark_dl.launch.rank import RankTask
from spark_dl.launch.rank_process import RankProcess
from spark_dl.launch.rendezvous import Rendezvous
from spark_dl.spark.python_worker import keep_worker
from spark_dl.world import worlds

__all__ = ["RESULT_SCHEMA", "RankJob", "run_task"]

RESULT_SCHEMA = "rank int, ok boolean, content binary"


@dataclass(frozen=True)
class RankJob:
    """What the driver sends to every task.

    Attributes:
        payload: the cloudpickled function of one `Rank`.
        channel: where the driver listens.
        modules: what the ranks import beside TensorFlow and Horovod.
        threads: computing threads of a rank, 0 for the task's cores.
        interface: name or CIDR of the network between the ranks, or None.
        share_gpus: whether two ranks may be given the same GPU.
        reach_timeout: seconds for reaching rank 0.
        collective_timeout: seconds after which a silent peer counts as lost.
    """

    payload: bytes
    channel: channel.Address
    modules: tuple[str, ...]
    threads: int
    interface: str | None
    share_gpus: bool
    reach_timeout: float
    collective_timeout: int


def run_task(job: RankJob, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Run one rank; yield one row: its value, or its failure. A rank's error is a row, so that the stage ends.

    The input is read, although nothing is in it that matters: Spark keeps only such workers for its next task.
    """
    import cloudpickle

    keep_worker(batches)

    context = BarrierTaskContext.get()
    rank = context.partitionId()
    outcome = _tell(job, context)
    content = outcome if isinstance(outcome, bytes) else cloudpickle.dumps(outcome)
    yield pa.RecordBatch.from_pydict(
        {
            "rank": pa.array([rank], pa.int32()),
            "ok": pa.array([isinstance(outcome, bytes)]),
            "content": pa.array([content], pa.binary()),
        }
    )


def _tell(job: RankJob, context: BarrierTaskContext) -> bytes | failure.Failure:
    """Run the rank, and tell the driver at once if it failed: its row comes only when all have ended."""
    rank, host = context.partitionId(), socket.gethostname()
    try:
        with contextlib.closing(channel.Sender(job.channel)) as sender:
            try:
                outcome = _run_rank(job, context, sender)
            except Exception as error:
                outcome = failure.of_exception(error, rank, host)
            if isinstance(outcome, failure.Failure):
                sender.send({"event": "failed", "rank": rank, "failure": outcome.summary()})
            return outcome
    except ClusterError as error:  # there is no way to the driver
        return failure.of_exception(error, rank, host)


def _run_rank(job: RankJob, context: BarrierTaskContext, sender: channel.Sender) -> bytes | failure.Failure:
    rank = context.partitionId()
    hosts = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
    sender.send({"event": "arrived", "rank": rank, "host": hosts[rank]})
    given = context.resources().get("gpu")
    gpus = list(given.addresses) if given else []
    own = resources.interface_address(job.interface) if job.interface else None
    alone = len(set(hosts)) == 1
    environment = resources.task_environment(context.cpus(), gpus, job.threads)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(RankProcess(environment, job.modules))
        rendezvous = stack.enter_context(Rendezvous(own or resources.ipv4(hosts[0], alone))) if rank == 0 else None
        place = [rendezvous.host, rendezvous.port, rendezvous.token] if rendezvous else None
        facts = {"place": place, "gpus": resources.gpu_names(gpus)}
        # In hvd.init the ranks have little patience with each other: none goes there before all can.
        if not process.ready():
            return failure.crash(rank, hosts[rank], *process.exit())
        sender.send({"event": "ready", "rank": rank, "facts": facts})
        told = sender.receive()["ranks"]
        resources.check_gpus(hosts, [other["gpus"] for other in told], job.share_gpus)
        host, port, token = told[0]["place"]
        interface = resources.interface_towards(host, port, job.reach_timeout, own)
        world = worlds(hosts)[rank]
        variables = resources.horovod_environment(world, (host, port, token), interface, job.collective_timeout)
        process.begin(RankTask(world, variables, job.payload))
        for message in process.messages():
            if message["event"] == "done":
                return bytes(message["value"])
            if message["event"] == "failed":
                failed: failure.Failure = message["failure"]
                return replace(failed, log=process.last_lines())
            if message["event"] == "started" and rendezvous:
                rendezvous.stop()
            sender.send({**message, "rank": rank})
        return failure.crash(rank, hosts[rank], *process.exit())
