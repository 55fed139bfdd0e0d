"""The two checks of the cluster: `preflight`, which runs before each fit, and `doctor`, the full one."""

from __future__ import annotations

import functools
import json
import logging
import queue
import re
import socket
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyspark.sql import SparkSession

from spark_dl._compat.spark import is_connect
from spark_dl.diagnosis import machine
from spark_dl.diagnosis.probe import ExecutorFacts, ProbeRequest, probe_executor
from spark_dl.diagnosis.report import Finding, Report
from spark_dl.diagnosis.stacks import stack_of
from spark_dl.errors import ClusterError, OptionError, StoreError, explain
from spark_dl.io.storage_options import StorageOptions
from spark_dl.io.store import Store
from spark_dl.io.workspace import Workspace
from spark_dl.launch.channel import Channel, MessageQueue
from spark_dl.launch.horovod_build import horovod_fault, unfit_horovod
from spark_dl.launch.messages import Arrived
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slot_queue import NOTICE_SECONDS, Claim, SlotQueue
from spark_dl.launch.slots import check_cluster, cores_now, encryption, no_slots, resource_profile, setting_of, slots_of
from spark_dl.redaction import warn
from spark_dl.spark.job import SparkJob
from spark_dl.spark.session import master_of, use_driver_python
from spark_dl.wire import decode

__all__ = ["doctor", "preflight"]

_log = logging.getLogger(__name__)

# For the full check: slots, an import of TensorFlow on each executor, and connections that may time out.
_LONGEST_SECONDS = 180.0
_SHARE = "Give a directory or URL that all machines share as cacheDir and checkpointDir."


def preflight(
    spark: SparkSession,
    workers: int,
    stores: Sequence[Store],
    settings: LaunchSettings,
    modules: Sequence[str] = (),
) -> None:
    """Check the cluster before a fit writes data, with one short job that takes all slots at once, as training does.

    Args:
        spark: The session.
        workers: The number of tasks that must run at once.
        stores: The directories that the driver and all executors must share; they must exist.
        settings: The launch settings of the ranks.
        modules: The top-level modules that the ranks will import, besides spark_dl's requirements.

    Raises:
        ClusterError: There are no slots in time, an executor's versions differ from the driver's, a module is missing,
            Horovod can't train with TensorFlow, or an executor can't reach the driver.
        StoreError: An executor can't use a directory, or its directory isn't the driver's.
    """
    use_driver_python(spark)
    fault = "" if is_connect(spark) else horovod_fault()  # a client of Spark Connect runs no rank
    if fault:
        raise unfit_horovod("driver", fault)
    with _probe(stores) as token:
        probed = _probe_slots(spark, workers, stores, token, settings, modules)
        own = machine.versions()
        for facts in probed:
            found = machine.same_packages(facts.executor, own, facts.versions)
            if found.fix:
                raise ClusterError(
                    explain(
                        f"The executor {found.where} isn't set up as the driver.",
                        expected="the driver's Python and the versions of its packages",
                        received=found.found,
                        fix=found.fix,
                    )
                )
            if facts.horovod:
                raise unfit_horovod(f"executor {facts.executor}", facts.horovod)
            if facts.absent:
                raise _without_modules(facts.executor, facts.absent)
            if facts.driver:
                raise ClusterError(facts.driver)
        for store in stores:
            _check_shared(store, token, probed)
    _log.info("Preflight has passed in %d slots.", workers)


def doctor(spark: SparkSession, cacheDir: str | None = None) -> Report:
    """Check the driver and every executor for what a fit needs.

    Args:
        spark: The session to check.
        cacheDir: The directory or URL that fits will get as cacheDir; None if they get none.

    Returns:
        The report; `print` shows it as a table.
    """
    use_driver_python(spark)
    master = master_of(spark)
    stack = stack_of("driver", machine.versions())
    findings = [stack, *machine.packages("driver"), _java(spark), *machine.horovod_and_gpus("driver")]
    try:
        check_cluster(spark, 1, LaunchSettings(allow_plaintext=True))
    except ClusterError as error:  # a barrier stage wouldn't run
        return Report((*findings, Finding("cluster", "settings", master, str(error))))
    if encrypting := encryption(setting_of(spark)):
        fix = "The ranks use plain TCP: trust their network or encrypt it, and set allowPlaintext=True."
        findings.append(Finding("cluster", "encryption", encrypting, fix))
    slots = slots_of(master, setting_of(spark), LaunchSettings())
    task_cpus = int(spark.conf.get("spark.task.cpus", "1") or 1)
    cores = cores_now(spark) or int(setting_of(spark)("spark.default.parallelism", "1"))
    counted = slots or max(1, cores // task_cpus)
    findings.append(Finding("cluster", "slots", f"{counted}{'' if slots else ' or more'} on {master}"))
    try:
        with Workspace(cacheDir, master, StorageOptions.of(None)) as store:
            findings += [machine.space("driver", store), *_executors(spark, store, counted)]
    except (OptionError, StoreError) as error:
        findings.append(Finding("driver", "cache directory", cacheDir or "none", str(error)))
    except ClusterError as error:
        findings.append(Finding("cluster", "executors", "can't be checked", str(error)))
    return Report(tuple(findings))


def _executors(spark: SparkSession, store: Store, slots: int) -> list[Finding]:
    with _probe([store]) as token:
        settings = LaunchSettings(slot_timeout=_LONGEST_SECONDS)
        probed = _probe_slots(spark, slots, [store], token, settings)
    findings, own = [], machine.versions()
    for executor, facts in sorted({facts.executor: facts for facts in reversed(probed)}.items()):
        findings.append(machine.same_packages(executor, own, facts.versions))
        way, fault = facts.driver, facts.directories[store.url]
        findings.append(Finding(executor, "connection to the driver", "unreachable" if way else "open", way))
        findings += [more for more in facts.findings if not (fault and more.what == "cache directory")]
        if fault:
            findings.append(Finding(executor, "cache directory", "not shared", fault))
    return findings


@contextmanager
def _probe(stores: Sequence[Store]) -> Iterator[str]:
    """Write a file of the driver into each directory; remove it and the executors' files when the `with` ends."""
    token = f"probe-{uuid.uuid4().hex}"
    for store in stores:
        store.write(token, b"driver")
    try:
        yield token
    finally:
        for store in stores:
            for name in store.names():
                if name.startswith(token):
                    store.remove(name)


def _probe_slots(
    spark: SparkSession,
    tasks: int,
    stores: Sequence[Store],
    token: str,
    settings: LaunchSettings,
    modules: Sequence[str] | None = None,
) -> list[ExecutorFacts]:
    """Run the probe in all slots.

    Args:
        spark: The session.
        tasks: The number of tasks.
        stores: The directories to check.
        token: The name of the driver's file in each directory.
        settings: The launch settings.
        modules: The modules to look for; None for the thorough checks.

    Returns:
        The facts of each task, in the order of the tasks.

    Raises:
        ClusterError: There are no slots in time, the tasks don't end in time, or the job failed.
    """
    messages: MessageQueue = queue.Queue()
    with Channel.of(spark, messages) as channel:
        request = ProbeRequest(tuple(stores), token, channel.address, tuple(modules or ()), modules is None)
        profile = resource_profile(spark, settings)
        frame = spark.range(0, tasks, 1, tasks).mapInArrow(
            functools.partial(probe_executor, request), "facts string", barrier=True, profile=profile
        )
        with SlotQueue.of(spark).claim(tasks, _warn) as claim, SparkJob(frame) as job:
            _wait(job, messages, claim, tasks, settings)
            try:
                return [decode(json.loads(row["facts"]), (ExecutorFacts,)) for row in job.rows()]
            except Exception as error:
                raise _unable(error) from error


def _wait(job: SparkJob, messages: MessageQueue, claim: Claim, tasks: int, settings: LaunchSettings) -> None:
    """Wait for the probe's end: slotTimeout for slots, then as long as ranks may take to start.

    Args:
        job: The job of the tasks.
        messages: The arrivals of the tasks.
        claim: The claim of the slots.
        tasks: The number of tasks.
        settings: The launch settings, which hold the timeouts.

    Raises:
        SlotsError: Spark started no task in time.
        ClusterError: The tasks had their slots and didn't end in time.
    """
    left = min(settings.slot_timeout, NOTICE_SECONDS)
    while not job.wait(left):
        answered = not messages.empty()  # Spark starts all tasks of a barrier stage at once
        left = 0.0 if answered else claim.left(settings.slot_timeout)
        if left > 0:
            continue
        started = answered or job.has_started(tasks)
        if not started:
            raise no_slots(tasks, settings.slot_timeout, started)
        if not job.wait(settings.start_timeout):
            raise _slow(messages, tasks, settings.start_timeout)
        return


def _slow(messages: MessageQueue, tasks: int, seconds: float) -> ClusterError:
    hosts = {message.rank: message.host for message in messages.queue if isinstance(message, Arrived)}
    return ClusterError(
        explain(
            f"The executors' checks did not end within {seconds:g} s.",
            expected=f"{tasks} tasks that start Python, use the directories and end",
            received=f"{len(hosts)} tasks that have started Python, on {', '.join(sorted(set(hosts.values())))}"
            if hosts
            else "tasks that Spark has started, of which none has answered from Python yet",
            fix="Check the executors' logs, whether their hosts reach cacheDir, and how fast Python starts; "
            "raise startTimeout if it takes so long.",
        )
    )


def _without_modules(executor: str, absent: Sequence[str]) -> ClusterError:
    return ClusterError(
        explain(
            f"The executor {executor} can't import modules of callbacks, losses, metrics or layers.",
            expected="their modules on every executor",
            received=f"no module {', '.join(map(repr, absent))}",
            fix=f"Install it there, or send it: spark.addArtifact('{absent[0]}.py', pyfile=True), or spark-submit "
            f"--py-files {absent[0]}.py.",
        )
    )


def _warn(text: str) -> None:
    warn(text)


def _unable(error: Exception) -> ClusterError:
    text = str(error)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("\t", " "))]
    # The last line of the Python worker's error says more than the JVM's first line. What a Python that can't start
    # has printed is indented; the line of one that isn't there has its path.
    errors = [line for line in lines if "Cannot run program" in line]
    errors = errors or re.findall(r"(?<=^Error from python worker:\n)(?:  .*\n)+", text, re.MULTILINE)
    errors = [errors[-1].rstrip().splitlines()[-1]] if errors else [line for line in lines if "Error" in line]
    return ClusterError(
        explain(
            "An executor can't run spark_dl.",
            expected="the same Python, with the same packages, on every executor as on the driver",
            received=(errors or lines or [type(error).__name__])[-1].strip(),
            fix="Install spark_dl there (a packed environment is for the platform that it was packed on), or name a "
            "Python that has it before the session is made: "
            f"PYSPARK_PYTHON={sys.executable} where executors share the driver's, or spark.pyspark.python.",
        )
    )


def _check_shared(store: Store, token: str, probed: list[ExecutorFacts]) -> None:
    """Check that all executors have read the driver's file and that the driver sees all of theirs.

    Raises:
        StoreError: An executor can't use the directory, or the driver doesn't see an executor's file.
    """
    for facts in probed:
        if facts.directories[store.url]:
            raise StoreError(
                explain(
                    f"The executor {facts.executor} doesn't share a directory with the driver.",
                    expected=f"{store.url} readable and writable on every executor",
                    received=facts.directories[store.url],
                    fix=_SHARE,
                )
            )
    written = [name for name in store.names() if name.startswith(token + "-")]
    if len(written) != len(probed):
        raise StoreError(
            explain(
                "The executors don't share a directory with the driver.",
                expected=f"{len(probed)} files from executors in {store.url}",
                received=f"{len(written)} on {socket.gethostname()}",
                fix=_SHARE,
            )
        )


def _java(spark: SparkSession) -> Finding:
    row = spark.sql("select java_method('java.lang.System', 'getProperty', 'java.version') as v").first()
    version = str(row["v"]) if row else "unknown"
    known = version.split(".")[0] in ("17", "21")
    return Finding("driver", "Java", version, "" if known else "Run Spark with Java 17 or 21 (JAVA_HOME).")
