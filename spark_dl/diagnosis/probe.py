"""What a task looks at on its executor, in a barrier stage over all slots: so every executor is seen, at one time."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark import BarrierTaskContext

from spark_dl.diagnosis import machine
from spark_dl.diagnosis.report import Finding
from spark_dl.errors import SparkDLError, StoreError
from spark_dl.io.store import Store
from spark_dl.launch.channel import Address, Sender
from spark_dl.launch.horovod_build import horovod_fault
from spark_dl.spark.python_worker import keep_worker

__all__ = ["ProbeRequest", "probe_executor"]

_REACH_SECONDS = 5.0


@dataclass(frozen=True)
class ProbeRequest:
    """What the driver sends to the tasks.

    Attributes:
        urls: directories that all should share.
        token: name of the driver's file in each of them.
        driver: where the driver listens.
        modules: what must be there to be imported.
        thorough: look also at what takes seconds: Horovod, GPUs, space, the ways to the other executors.
    """

    urls: tuple[str, ...]
    token: str
    driver: Address
    modules: tuple[str, ...]
    thorough: bool


def probe_executor(order: ProbeRequest, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One row of JSON: executor, versions, Horovod (fault), absent modules, directories (url -> fault), driver (fault),
    findings.
    """
    keep_worker(batches)
    context = BarrierTaskContext.get()
    task = context.partitionId()
    executors = [info.address for info in context.getTaskInfos()]
    own = executors[task]
    facts: dict[str, Any] = {
        "executor": own,
        "versions": machine.versions(),
        "horovod": horovod_fault(),
        "absent": machine.absent(order.modules),
        "directories": {url: _use(Store(url), order.token, task) for url in order.urls},
        "driver": _way_to_driver(order.driver),
        "findings": [],
    }
    if order.thorough:
        first = executors.index(own) == task  # of the tasks on this executor
        ways = _ways_to_executors(context, own, first)
        if first:
            found = [ways, *machine.horovod_and_gpus(own), *(machine.space(own, Store(url)) for url in order.urls)]
            facts["findings"] = [vars(finding) for finding in found]
    yield pa.RecordBatch.from_pydict({"facts": [json.dumps(facts)]})


def _use(store: Store, token: str, task: int) -> str:
    """Read the driver's file and leave one; what went wrong, or ""."""
    try:
        store.read(token)
        store.write(f"{token}-{task}", b"executor")
    except StoreError as error:
        return str(error)
    return ""


def _way_to_driver(driver: Address) -> str:
    try:
        Sender(driver, _REACH_SECONDS).close()
    except SparkDLError as error:
        return str(error)
    return ""


def _ways_to_executors(context: BarrierTaskContext, own: str, first: bool) -> Finding:
    """Listen, learn where the others listen, and try to reach each of them."""
    closed = []
    with contextlib.ExitStack() as stack:
        port = 0
        with contextlib.suppress(OSError):
            if first:
                listener = stack.enter_context(socket.create_server((own.rpartition(":")[0], 0), backlog=1024))
                port = listener.getsockname()[1]
        places = dict(json.loads(text) for text in context.allGather(json.dumps([own, port] if first else ["", 0])))
        for other, there in places.items():
            if first and other not in ("", own):
                try:
                    socket.create_connection((other.rpartition(":")[0], there), _REACH_SECONDS).close()
                except OSError as error:
                    closed.append(f"{other} ({type(error).__name__}: {error})")
        context.barrier()  # nobody stops listening before all have tried
    others = len(set(places) - {"", own})
    fix = "Open the ports between the executors' hosts: Horovod connects each with each." if closed else ""
    found = "no way to " + ", ".join(closed) if closed else f"{others} of {others} reached"
    return Finding(own, "other executors", found, fix)
