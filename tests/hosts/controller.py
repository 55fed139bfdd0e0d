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
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
from sessions import short_lived

import spark_dl
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
            **without_packages(),
            "SPARK_LOCAL_IP": host.address,
            "SPARK_DAEMON_JAVA_OPTS": short_lived(),
            "SPARK_MASTER_OPTS": "-Dspark.worker.timeout=15",
        }
        with open(self.directory / f"{host.name}.log", "w") as log:
            command = host.command(str(script), f"org.apache.spark.deploy.{program}", *words)
            subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def submit(self) -> dict[str, Any]:
        """Train by scripts/submit_train.sh, with what workers have no packages for (see `without_packages`)."""
        folder = self.directory / "submitted"
        packed = write_project(folder, self.directory / "cache")
        options = {
            "spark.driver.host": self.boss.address,
            "spark.driver.bindAddress": self.boss.address,
            "spark.executor.memory": "512m",
            "spark.executor.cores": "1",
            "spark.cores.max": "2",
            "spark.ui.enabled": "false",
        }
        words = [word for key, value in options.items() for word in ("--conf", f"{key}={value}")]
        script = str(Path(__file__).parents[2] / "scripts/submit_train.sh")
        command = [
            "env",
            "-C",
            str(folder),
            script,
            "--master",
            self.master,
            "--environment",
            str(packed),
            *words,
            "train.yaml",
        ]
        environment = {**without_packages(), "SPARK_LOCAL_IP": self.boss.address}
        # For venv-pack; what comes first has a spark-submit.
        environment["PATH"] = os.pathsep.join(
            [f"{environment['SPARK_HOME']}/bin", environment["PATH"], f"{sys.prefix}/bin", os.environ["PATH"]]
        )
        ran = subprocess.run(self.boss.command(*command), env=environment, capture_output=True, text=True, check=False)
        unpacked = [str(path.relative_to(self.directory)) for path in self.directory.glob("work-*/*/*/environment")]
        python = os.path.realpath(packed / "bin/python")  # without the environment
        alone = subprocess.run(
            self.boss.command(python, "-I", "-c", "import spark_dl"), capture_output=True, check=False
        )
        return {
            "code": ran.returncode,
            "last": [*ran.stderr.splitlines()[-20:], *ran.stdout.splitlines()[-20:]],  # the program's are in stdout
            "unpacked": sorted(unpacked),
            "model": (folder / "fitted" / "metadata").exists(),
            "python_alone": alone.returncode,
        }

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


def without_packages() -> dict[str, str]:
    """Environment variables of a host that has Spark, Java and a Python, but none of this one's packages."""
    hidden = ("PYTHONPATH", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    paths = [path for path in os.environ["PATH"].split(os.pathsep) if not path.startswith(sys.prefix)]
    return {**kept, "PATH": os.pathsep.join(paths), "SPARK_HOME": str(Path(pyspark.__file__).parent)}


def write_project(folder: Path, cache: Path) -> Path:
    """Write rows, a model and a configuration; make an environment of spark_dl's files and links to other packages."""
    folder.mkdir()
    rows = {"features": [[number / 40, 1.0] for number in range(40)], "label": [number % 2 for number in range(40)]}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    (folder / "small.py").write_text(MODEL)
    (folder / "train.yaml").write_text(CONFIG.format(folder=folder, cache=cache))
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    site, own = (Path(sysconfig.get_path("purelib", vars={"base": str(base)})) for base in (environment, sys.prefix))
    for path in own.iterdir():
        if path.suffix != ".pth" and not path.name.startswith("__editable__"):
            (site / path.name).symlink_to(path)
    shutil.copytree(Path(spark_dl.__file__).parent, site / "spark_dl", ignore=shutil.ignore_patterns("__pycache__"))
    return environment


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


# Not a fault: another application, after the driver's.
SUBMITTED = "submitted"
MODEL = """
import keras


def build():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
"""
CONFIG = """
model: small:build
data: file://{folder}/rows.parquet
loss: sparse_categorical_crossentropy
numWorkers: 2
batchSize: 10
cacheDir: {cache}
output: file://{folder}/fitted
tracking: null
slotTimeout: 200
"""

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
    driver = cluster.driver([fault for fault in faults if fault != SUBMITTED])
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
    if SUBMITTED in faults:
        results[SUBMITTED] = cluster.submit()
    left = [process.pid for host in cluster.workers() for process in host.processes("spark-dl-rank")]
    files = sorted(path.name for path in (directory / "cache").iterdir())
    print(json.dumps({"faults": results, "processes": left, "files": files}), flush=True)
    os._exit(0)  # the hosts go with this process


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
