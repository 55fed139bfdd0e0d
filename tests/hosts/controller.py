"""A Spark standalone cluster over hosts that are namespaces, and faults that are done to it when an event is seen.

Run as `python controller.py DIRECTORY WORKERS CORES FAULT...`, alone in namespaces (`unshare --net --mount --pid --fork
--kill-child --mount-proc`), with the number of hosts that have a worker, and its cores. The last line that it prints is
JSON: for each fault what became of the fit, and the seconds from the fault to the line that tells of it, and from there
to training again; of a driver that died, its last lines.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pyspark
from sessions import short_lived

from hosts.network import Host, Network


class Cluster:
    """A master and the driver on one host, a worker on each of some others, and a host that is none of theirs."""

    def __init__(self, directory: Path, workers: int, cores: int) -> None:
        self.directory = directory
        self.names = [f"node-{letter}" for letter in "abcdefgh"[:workers]]
        self.network = Network(["boss", *self.names, "stranger"], directory)
        self.boss = self.network.hosts["boss"]
        self.master = f"spark://{self.boss.address}:7077"
        self._start(self.boss, "master.Master", "--host", self.boss.address, "--port", "7077", "--webui-port", "0")
        for name in self.names:
            work = directory / f"work-{name}"
            words = ["--cores", str(cores), "--memory", "1g", "--work-dir", str(work), "--webui-port", "0", self.master]
            self._start(self.network.hosts[name], "worker.Worker", "--host", self.network.hosts[name].address, *words)

    def _start(self, host: Host, program: str, *words: str) -> None:
        script = Path(pyspark.__file__).parent / "bin" / "spark-class"
        environment = {
            **os.environ,
            "SPARK_LOCAL_IP": host.address,
            "SPARK_DAEMON_JAVA_OPTS": short_lived(),
            "SPARK_MASTER_OPTS": "-Dspark.worker.timeout=15",
        }
        with open(self.directory / f"{host.name}.log", "w") as log:
            command = host.command(str(script), f"org.apache.spark.deploy.{program}", *words)
            subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def training(self) -> list[Host]:
        """The hosts on which ranks run."""
        return [host for host in self.workers() if host.processes("spark-dl-rank")]

    def workers(self) -> list[Host]:
        """The hosts of workers that have not crashed."""
        return [self.network.hosts[n] for n in self.names if Path(f"/proc/{self.network.hosts[n].pid}").exists()]

    def driver(self, faults: list[str]) -> subprocess.Popen[str]:
        program = str(Path(__file__).with_name("driver.py"))
        command = self.boss.command(sys.executable, program, self.master, str(self.directory / "cache"), *faults)
        environment = {**os.environ, "SPARK_LOCAL_IP": self.boss.address}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def stranger(self) -> subprocess.Popen[str]:
        """Start the stranger, who looks at every host but its own."""
        program = str(Path(__file__).with_name("stranger.py"))
        addresses = [self.network.hosts[name].address for name in ["boss", *self.names]]
        command = self.network.hosts["stranger"].command(sys.executable, program, *addresses)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def signal_one(cluster: Cluster, word: str, number: signal.Signals) -> None:
    """Send a signal to a process of the last host that trains."""
    cluster.training()[-1].processes(word)[-1].send_signal(number)


def kill_workers(cluster: Cluster) -> None:
    """Kill Spark's Python workers of the last host that trains: that of the rank, and those kept for later tasks."""
    daemons = cluster.training()[-1].processes("pyspark.daemon")
    workers = [process for process in daemons if process.ppid() in {daemon.pid for daemon in daemons}]
    assert workers
    for worker in workers:
        worker.kill()


# What is done when the second epoch's line is seen; nothing, for those that aren't here.
FAULTS: dict[str, Callable[[Cluster], None]] = {
    "rank killed": lambda cluster: signal_one(cluster, "spark-dl-rank", signal.SIGKILL),
    "worker killed": kill_workers,
    "executor killed": lambda cluster: signal_one(cluster, "CoarseGrainedExecutorBackend", signal.SIGKILL),
    "rank frozen": lambda cluster: signal_one(cluster, "spark-dl-rank", signal.SIGSTOP),
    "network partition": lambda cluster: cluster.network.partition(cluster.training()[-1].name),
    "host crashed": lambda cluster: cluster.training()[-1].crash(),
    "no spare": lambda cluster: cluster.training()[-1].crash(),
}


def numbered(lines: Iterator[str]) -> Iterator[tuple[float, str]]:
    for line in lines:
        print(f"{time.monotonic():.2f} {line.rstrip()}", file=sys.stderr, flush=True)
        yield time.monotonic(), line.strip()


def main(directory: Path, workers: int, cores: int, faults: list[str]) -> None:
    cluster = Cluster(directory, workers, cores)
    driver = cluster.driver(faults)
    # What nothing ends must not run for ever.
    threading.Timer(100 + 100 * len(faults), driver.kill).start()
    results: dict[str, dict[str, Any]] = {}
    fault, done, at = "", False, 0.0
    stranger = None
    last: collections.deque[str] = collections.deque(maxlen=40)
    for now, line in numbered(iter(driver.stdout or [])):
        last.append(line)
        if line.startswith("BEGIN "):
            fault, done = line.removeprefix("BEGIN "), False
            results[fault] = {"said": []}
            stranger = cluster.stranger() if fault == "a stranger" else None
        elif line.startswith("END "):
            if fault == "network partition":
                for name in cluster.names:
                    cluster.network.heal(name)
            results[fault].update(json.loads(line.removeprefix("END ")))
            if stranger:
                results[fault]["stranger"] = json.loads(stranger.communicate()[0])
        elif line.startswith("Epoch 2/") and not done:
            FAULTS.get(fault, lambda cluster: None)(cluster)
            done, at = True, time.monotonic()
        elif "Restarting from" in line:
            results[fault]["said"].append(line)
            results[fault].setdefault("noticed", round(now - at, 1))
        elif line.startswith("Epoch 3/") and results[fault].get("said") and "trained" not in results[fault]:
            results[fault]["trained"] = round(now - at, 1)
    if driver.wait() != 0 and fault:
        results[fault].update(died=driver.returncode, last=list(last))
    left = [process.pid for host in cluster.workers() for process in host.processes("spark-dl-rank")]
    files = sorted(path.name for path in (directory / "cache").iterdir())
    print(json.dumps({"faults": results, "processes": left, "files": files}), flush=True)
    os._exit(0)  # the hosts go with this process


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
