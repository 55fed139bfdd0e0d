"""Probe of an executor: a task of a barrier stage over all slots, so that all executors are checked at one time."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark import BarrierTaskContext

from spark_dl.diagnosis import machine
from spark_dl.diagnosis.report import Finding
from spark_dl.errors import SparkDLError, StoreError
from spark_dl.io.store import Store
from spark_dl.launch.channel import Sender
from spark_dl.launch.horovod_build import horovod_fault
from spark_dl.launch.messages import Address, Arrived
from spark_dl.spark.python_worker import keep_worker
from spark_dl.wire import encode

__all__ = ["ExecutorFacts", "ProbeRequest", "probe_executor"]

_REACH_SECONDS = 5.0


@dataclass(frozen=True)
class ProbeRequest:
    """Request of the driver to the tasks.

    Attributes:
        stores: The directories that all hosts should share.
        token: The name of the driver's file in each directory.
        driver: The address of the driver's channel.
        modules: The modules that the executor must be able to import.
        thorough: Whether to run the checks that take seconds, too: Horovod's build, GPUs, disk space, and connections
            to the other executors.
    """

    stores: tuple[Store, ...]
    token: str
    driver: Address
    modules: tuple[str, ...]
    thorough: bool


@dataclass(frozen=True)
class ExecutorFacts:
    """Answer of one task. A fault is a text, empty if there is none.

    Attributes:
        executor: The executor's address.
        versions: The versions of Python and of the packages.
        horovod: The fault of Horovod.
        absent: The modules that the executor can't import.
        directories: The fault of each directory, by URL.
        driver: The fault of the way to the driver.
        findings: The findings of the thorough checks.
    """

    executor: str
    versions: dict[str, str]
    horovod: str
    absent: tuple[str, ...]
    directories: dict[str, str]
    driver: str
    findings: tuple[Finding, ...]


def probe_executor(request: ProbeRequest, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Check the executor of this task.

    Args:
        request: The request.
        batches: The task's input, which is discarded.

    Yields:
        One row with `ExecutorFacts` as JSON.
    """
    keep_worker(batches)
    context = BarrierTaskContext.get()
    task = context.partitionId()
    executors = [info.address for info in context.getTaskInfos()]
    own = executors[task]
    way = _report_arrival(request.driver, task, own)
    facts = ExecutorFacts(
        executor=own,
        versions=machine.versions(),
        horovod=horovod_fault(),
        absent=tuple(machine.absent(request.modules)),
        directories={store.url: _use(store, request.token, task) for store in request.stores},
        driver=way,
        findings=(),
    )
    if request.thorough:
        first = executors.index(own) == task  # one task per executor runs the thorough checks
        ways = _ways_to_executors(context, own, first)
        if first:
            space = (machine.space(own, store) for store in request.stores)
            facts = replace(facts, findings=(ways, *machine.horovod_and_gpus(own), *space))
    yield pa.RecordBatch.from_pydict({"facts": [json.dumps(encode(facts))]})


def _use(store: Store, token: str, task: int) -> str:
    """Read the driver's file in a directory and write one; return the fault, or ""."""
    try:
        store.read(token)
        store.write(f"{token}-{task}", b"executor")
    except StoreError as error:
        return str(error)
    return ""


def _report_arrival(driver: Address, task: int, own: str) -> str:
    """Report to the driver that this task has its slot; return the fault of the way there, or ""."""
    try:
        with contextlib.closing(Sender(driver, _REACH_SECONDS)) as sender:
            sender.send(Arrived(task, own.rpartition(":")[0]))
    except SparkDLError as error:
        return str(error)
    return ""


def _ways_to_executors(context: BarrierTaskContext, own: str, first: bool) -> Finding:
    """Listen on a port, exchange the ports with the other executors, and try to reach each of them.

    Args:
        context: The task's context; all tasks of the stage must call this.
        own: This executor's address.
        first: Whether this task listens and connects; the others only take part in the barriers.
    """
    closed = []
    with contextlib.ExitStack() as stack:
        port = 0
        with contextlib.suppress(OSError):
            if first:
                listener = stack.enter_context(socket.create_server((own.rpartition(":")[0], 0), backlog=1024))
                port = listener.getsockname()[1]
        ports: dict[str, int] = {}  # by executor, of the tasks that listen
        for text in context.allGather(json.dumps({own: port} if first else {})):
            ports.update(json.loads(text))
        for other, other_port in ports.items():
            if first and other != own:
                try:
                    socket.create_connection((other.rpartition(":")[0], other_port), _REACH_SECONDS).close()
                except OSError as error:
                    closed.append(f"{other} ({type(error).__name__}: {error})")
        context.barrier()  # keeps all ports open until all tasks have tried
    others = len(ports.keys() - {own})
    fix = "Open the ports between the executors' hosts: Horovod connects each with each." if closed else ""
    found = "can't reach " + ", ".join(closed) if closed else f"{others} of {others} reached"
    return Finding(own, "other executors", found, fix)
