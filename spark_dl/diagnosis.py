"""Is everything there that a fit needs? On the driver and on every executor, with the fix for each fault.

`fit` runs the quick part first: one short barrier job that takes all slots at once, as training will, compares
versions, and checks that all see the same directories.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from packaging.requirements import Requirement
from pyspark import TaskContext
from pyspark.sql import SparkSession

from spark_dl.errors import ClusterError, OptionError, SparkDLError, StoreError, explain
from spark_dl.launch.channel import Address, Channel, Sender
from spark_dl.launch.slots import check_cluster, slots_of
from spark_dl.launch.spark_job import SparkJob
from spark_dl.store import Store
from spark_dl.workspace import Workspace, free_bytes

__all__ = ["Finding", "Report", "doctor", "quick"]

_LEAST_FREE_BYTES = 1 << 30
# How long a task of the full check holds its slot, so that each executor gets some.
_HOLD_SECONDS = 1.0


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        where: "driver", or an executor's host.
        what: what was looked at.
        found: what was found.
        fix: what to do about it; "" where all is well.
    """

    where: str
    what: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """What `doctor` found. `print(report)` shows it as a table."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[Finding]:
        """The findings that need a fix."""
        return [finding for finding in self.findings if finding.fix]

    def __str__(self) -> str:
        rows = [("where", "what", "found", "")]
        rows += [(f.where, f.what, f.found, "FAULT" if f.fix else "ok") for f in self.findings]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        for fault in self.faults:
            lines.append(f"FAULT on {fault.where}, {fault.what}: {fault.found}. {fault.fix}")
        lines.append(f"{len(self.faults)} fault{'s' * (len(self.faults) != 1)} found.")
        return "\n".join(lines)


def quick(spark: SparkSession, workers: int, stores: Sequence[Store], slot_timeout: float) -> None:
    """What `fit` checks before it writes any data.

    Args:
        spark: the session.
        workers: how many tasks must run at once.
        stores: directories that the driver and all executors must share; they exist.
        slot_timeout: seconds to wait for the slots.

    Raises:
        ClusterError: no slots, or other versions on an executor than on the driver.
        StoreError: an executor can't use a directory, or sees another one.
    """
    token = f"probe-{uuid.uuid4().hex}"
    for store in stores:
        store.write(token, b"driver")
    try:
        visit = functools.partial(_visit, [store.url for store in stores], token)
        ended: queue.Queue[None] = queue.Queue()
        frame = spark.range(0, workers, 1, workers).mapInArrow(visit, "facts string", barrier=True)
        with SparkJob(frame, lambda: ended.put(None)) as job:
            try:
                ended.get(timeout=slot_timeout)
            except queue.Empty:
                raise ClusterError(
                    explain(
                        f"Spark did not give numWorkers={workers} slots at the same time within {slot_timeout:g} s.",
                        expected=f"{workers} free slots (executors x cores / spark.task.cpus)",
                        received="fewer",
                        fix="Lower numWorkers, give the application more executors, wait for other jobs to end, "
                        "or raise slotTimeout.",
                    )
                ) from None
            try:
                visits = [json.loads(row["facts"]) for row in job.rows()]
            except Exception as error:
                raise _unable(error) from error
        for finding in _compare(_versions(), visits):
            if finding.fix:
                raise ClusterError(
                    explain(
                        f"The executor on {finding.where} isn't set up as the driver.",
                        received=finding.found,
                        fix=finding.fix,
                    )
                )
        for store in stores:
            _check_shared(store, token, visits)
    finally:
        for store in stores:
            for name in store.names():
                if name.startswith(token):
                    store.remove(name)


def doctor(spark: SparkSession, cacheDir: str | None = None) -> Report:
    """Look at the driver and at every executor.

    Args:
        spark: the session to look at.
        cacheDir: the directory that fits will be given, if any.

    Returns:
        the findings; `print` it for a table.
    """
    master = spark.conf.get("spark.master", "") or ""
    findings = [
        *_packages(),
        _java(spark),
        *_horovod_and_gpus("driver"),
        *_cluster(spark, master),
    ]
    try:
        with Workspace(cacheDir, master) as store:
            findings += [_space("driver", store), *_executors(spark, store)]
    except (OptionError, StoreError) as error:
        findings.append(Finding("driver", "cache directory", cacheDir or "none", str(error)))
    return Report(tuple(findings))


def _visit(urls: list[str], token: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """On an executor: its versions, and what it sees of the directories."""
    context = TaskContext.get()
    seen = {}
    for url in urls:
        store = Store(url)
        try:
            store.read(token)
            store.write(f"{token}-{context.partitionId() if context else 0}", b"executor")
            seen[url] = ""
        except StoreError as error:
            seen[url] = str(error)
    facts = {"host": socket.gethostname(), "versions": _versions(), "seen": seen}
    yield pa.RecordBatch.from_pydict({"facts": [json.dumps(facts)]})


def _examine(
    urls: list[str], token: str, driver: Address, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """On an executor: the same, and what takes longer."""
    (batch,) = _visit(urls, token, batches)
    facts = json.loads(batch.column(0)[0].as_py())
    try:
        Sender(driver).close()
        facts["driver"] = ""
    except SparkDLError as error:
        facts["driver"] = str(error)
    facts["more"] = [vars(finding) for finding in _horovod_and_gpus(facts["host"])]
    time.sleep(_HOLD_SECONDS)
    yield pa.RecordBatch.from_pydict({"facts": [json.dumps(facts)]})


def _executors(spark: SparkSession, store: Store) -> list[Finding]:
    token = f"probe-{uuid.uuid4().hex}"
    store.write(token, b"driver")
    host = spark.conf.get("spark.driver.host") or "localhost"
    bind = spark.conf.get("spark.driver.bindAddress", host) or host
    slots = spark.range(0, 1 << 16).mapInArrow(_count, "n int").count()
    with Channel(host, bind, queue.Queue()) as channel:
        examine = functools.partial(_examine, [store.url], token, channel.address)
        rows = spark.range(0, slots, 1, slots).mapInArrow(examine, "facts string").collect()
    visits = {facts["host"]: facts for facts in (json.loads(row["facts"]) for row in rows)}
    findings = _compare(_versions(), list(visits.values()))
    for host, facts in visits.items():
        way = facts["driver"]
        findings.append(Finding(host, "way to the driver", "unreachable" if way else "open", way))
        findings += [Finding(**more) for more in facts["more"]]
        fault = facts["seen"][store.url]
        findings.append(Finding(host, "cache directory", "not shared" if fault else store.url, fault))
    return findings


def _count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One row for each partition: Spark makes as many as it has cores."""
    yield pa.RecordBatch.from_pydict({"n": pa.array([1], pa.int32())})


def _unable(error: Exception) -> ClusterError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    # The Python worker's last words say more than the JVM's first.
    said = [line for line in lines if "Error" in line and not line.startswith(("\t", " "))]
    return ClusterError(
        explain(
            "An executor can't run spark_dl.",
            expected="the same Python, with the same packages, on every executor as on the driver",
            received=(said or lines or [type(error).__name__])[-1].strip(),
            fix="Install spark_dl there, or set spark.pyspark.python to a Python that has it.",
        )
    )


def _check_shared(store: Store, token: str, visits: list[dict[str, Any]]) -> None:
    """Each executor has read the driver's file; has the driver got theirs?"""
    for facts in visits:
        if facts["seen"][store.url]:
            raise StoreError(
                explain(
                    f"The executor on {facts['host']} doesn't share a directory with the driver.",
                    expected=f"{store.url} readable and writable on every executor",
                    received=facts["seen"][store.url],
                    fix="Give a directory or URL that all machines share as cacheDir and checkpointDir.",
                )
            )
    written = [name for name in store.names() if name.startswith(token + "-")]
    if len(written) != len(visits):
        raise StoreError(
            explain(
                "The executors don't share a directory with the driver.",
                expected=f"{len(visits)} files from executors in {store.url}",
                received=f"{len(written)} on {socket.gethostname()}",
                fix="Give a directory or URL that all machines share as cacheDir and checkpointDir.",
            )
        )


def _requirements() -> list[Requirement]:
    """What setup.py asks for, without the extras."""
    texts = importlib.metadata.requires("spark_dl") or []
    return [r for r in map(Requirement, texts) if r.marker is None or r.marker.evaluate({"extra": "cpu"})]


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    names = [requirement.name for requirement in _requirements()]
    for name in ["spark_dl", *names]:
        found[name] = _version(name)
    return found


def _version(name: str) -> str:
    # TensorFlow comes as tensorflow, with GPUs, or as tensorflow-cpu.
    for candidate in (name, name.removesuffix("-cpu")):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "missing"


def _compare(driver: dict[str, str], visits: list[dict[str, Any]]) -> list[Finding]:
    findings = {}
    for facts in visits:
        other = {n: v for n, v in facts["versions"].items() if driver.get(n) != v}
        text = ", ".join(f"{name} {version} (driver: {driver.get(name)})" for name, version in sorted(other.items()))
        fix = "Install the same packages on every executor as on the driver." if other else ""
        findings[facts["host"]] = Finding(facts["host"], "packages", text or "as on the driver", fix)
    return list(findings.values())


def _packages() -> list[Finding]:
    findings = []
    for requirement in _requirements():
        version = _version(requirement.name)
        fits = version != "missing" and requirement.specifier.contains(version, prereleases=True)
        fix = "" if fits else f"pip install '{requirement.name}{requirement.specifier}'"
        findings.append(Finding("driver", requirement.name, version, fix))
    return findings


def _java(spark: SparkSession) -> Finding:
    row = spark.sql("select java_method('java.lang.System', 'getProperty', 'java.version') as v").first()
    version = str(row["v"]) if row else "unknown"
    known = version.split(".")[0] in ("17", "21")
    return Finding("driver", "Java", version, "" if known else "Run Spark with Java 17 or 21 (JAVA_HOME).")


def _horovod_and_gpus(where: str) -> list[Finding]:
    program = (
        "import json, horovod.tensorflow as hvd, tensorflow as tf;"
        "print(json.dumps([hvd.gloo_built(), hvd.nccl_built(), len(tf.config.list_physical_devices('GPU'))]))"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ran.returncode != 0:
        last = ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else f"exit code {ran.returncode}"
        return [Finding(where, "Horovod", last, "Install the wheel that scripts/setup.sh builds.")]
    gloo, nccl, seen = json.loads(ran.stdout.strip().splitlines()[-1])
    there = _gpus_of_the_machine()
    flags = f"Gloo {'yes' if gloo else 'no'}, NCCL {'yes' if nccl else 'no'}"
    no_gloo = "" if gloo else "Build Horovod with HOROVOD_WITH_GLOO=1 (scripts/setup.sh does)."
    unused = "Run scripts/setup.sh --gpu." if there and not (seen and nccl) else ""
    return [
        Finding(where, "Horovod", flags, no_gloo),
        Finding(where, "GPUs", f"{seen} for TensorFlow, {there} in the machine", unused),
    ]


def _gpus_of_the_machine() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return len(listed.stdout.splitlines()) if listed.returncode == 0 else 0


def _cluster(spark: SparkSession, master: str) -> list[Finding]:
    try:
        check_cluster(spark, 1)
    except ClusterError as error:
        return [Finding("driver", "cluster", master, str(error))]
    slots = slots_of(master, lambda key, default: spark.conf.get(key, default) or default)
    return [Finding("driver", "slots", f"{slots if slots is not None else 'set by the cluster'} on {master}")]


def _space(where: str, store: Store) -> Finding:
    free = free_bytes(store)
    if free is None:
        return Finding(where, "cache directory", store.url)
    fix = "" if free >= _LEAST_FREE_BYTES else "Free some space, or set cacheDir elsewhere."
    return Finding(where, "cache directory", f"{store.url}, {free / 1e9:.1f} GB free", fix)
