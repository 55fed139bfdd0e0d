"""Where the time of a short fit goes: `python scripts/bench/timeline.py [--tracked] [MASTER]`.

A fit of 1,000 rows of 16 floats, a tenth of them for validation, a dense network 16-32-10, 2 epochs, 2 ranks, repeated
in one session. The first table has medians over the fits that are warm: the milliseconds of each step, and the CPU
milliseconds of the driver's Python and of rank 0 in it. The second has the CPU seconds of a whole fit by process. The
driver's steps come from the package's log, those of rank 0 from a callback of this script.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import mlflow
import psutil
from local import local_session
from pyspark.sql import functions as F

from spark_dl import KerasClassifier

ROWS, WIDTH, COLD, WARM = 1000, 16, 2, 7

# Each step ends with this mark: the beginning of a line of the log, or a call of the callback.
STEPS = {
    "check the options and the model": "Checked",
    "preflight": "Preflight",
    "convert": "Converted",
    "launch: slots, fork, Horovod": "All ranks have started Horovod",
    "load the model, open the data": "train begins",
    "first step, traced": "step 1",
    "other steps of epoch 1": "validation 1 begins",
    "validation, traced": "validation 1 ends",
    "checkpoint": "epoch 2 begins",
    "epoch 2 and its validation": "epoch 2 ends",
    "checkpoint, again": "train ends",
    "model, result, end of the job": "returned",
}


class Marks(keras.callbacks.Callback):
    """Writes when rank 0 reaches what, by the clock and in CPU seconds of its process."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.epoch = self.validations = 0

    def mark(self, name: str) -> None:
        if os.environ.get("HOROVOD_RANK") == "0":
            with open(self.path, "a") as file:
                file.write(f"{name}\t{time.time()}\t{time.process_time()}\n")

    def on_train_begin(self, logs: Any = None) -> None:
        self.mark("train begins")

    def on_train_end(self, logs: Any = None) -> None:
        self.mark("train ends")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch + 1
        self.mark(f"epoch {self.epoch} begins")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.mark(f"epoch {self.epoch} ends")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.epoch == 1 and batch == 0:
            self.mark("step 1")

    def on_test_begin(self, logs: Any = None) -> None:
        self.validations += 1
        self.mark(f"validation {self.validations} begins")

    def on_test_end(self, logs: Any = None) -> None:
        self.mark(f"validation {self.validations} ends")


class Records(logging.Handler):
    """The time and the CPU seconds of this process at each line of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, float, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), time.time(), time.process_time()))


def cpu_seconds() -> dict[str, float]:
    """Of the processes of this program, with those of them that have ended, by kind."""
    own, found = os.getpid(), {"driver's Python": 0.0, "JVM": 0.0, "Python workers": 0.0, "ranks": 0.0}
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        command, times = process.info["cmdline"] or [""], process.info["cpu_times"]
        server = "spark_dl.launch.fork_server" in command
        # A fork server is a process of its own, but names the daemon of its executor.
        try:
            beside = process.parents() if not server else psutil.Process(int(command[4])).parents()
        except psutil.NoSuchProcess:
            continue
        if process.pid != own and own not in [one.pid for one in beside]:
            continue
        kind = "ranks" if server else "JVM" if "java" in command[0] else "Python workers"
        if process.pid == own:
            found["driver's Python"] += times.user + times.system
        else:
            found[kind] += times.user + times.system + times.children_user + times.children_system
    return found


def timeline(records: Records, path: Path, began: float, ended: float) -> dict[str, tuple[float, float, float]]:
    """Milliseconds of each step, with the CPU milliseconds of the driver and of rank 0 where they are known."""
    driver = {end: (at, cpu) for text, at, cpu in records.found for end in STEPS.values() if text.startswith(end)}
    rank = {name: (float(at), float(cpu)) for name, at, cpu in (line.split("\t") for line in path.open())}
    steps, last, last_cpu = {}, began, {"driver": records.found[0][2], "rank": 0.0}
    for step, end in STEPS.items():
        where = "driver" if end in driver else "rank"
        at, cpu = {**driver, **rank, "returned": (ended, 0.0)}[end]
        used = 0.0 if end == "returned" else 1000 * (cpu - last_cpu[where])
        last_cpu[where] = cpu
        steps[step] = (1000 * (at - last), used if where == "driver" else 0.0, used if where == "rank" else 0.0)
        last = at
    return steps


def show(steps: list[Mapping[str, tuple[float, float, float]]], used: list[Mapping[str, float]]) -> None:
    print("| step | ms | CPU ms of the driver | CPU ms of rank 0 |\n|---|---|---|---|")
    for step in STEPS:
        wall, driver, rank = (statistics.median(one[step][i] for one in steps) for i in range(3))
        print(f"| {step} | {wall:,.0f} | {f'{driver:,.0f}' if driver else ''} | {f'{rank:,.0f}' if rank else ''} |")
    print(f"| all | {statistics.median(sum(wall for wall, *_ in one.values()) for one in steps):,.0f} | | |")
    print("\n| process | CPU seconds of a fit |\n|---|---|")
    for kind in used[0]:
        print(f"| {kind} | {statistics.median(one[kind] for one in used):.2f} |")
    print(f"| all | {statistics.median(sum(one.values()) for one in used):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tracked", action="store_true")
    parser.add_argument("master", nargs="?", default="local[2]")
    arguments = parser.parse_args()
    spark = local_session(arguments.master)
    features = F.array(*(F.rand(i).cast("float") for i in range(WIDTH))).alias("features")
    frame = spark.range(0, ROWS, 1, 2).select(features, (F.col("id") % 10).cast("int").alias("label")).cache()
    frame.count()
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(10, "softmax")]
    network = keras.Sequential([keras.Input((WIDTH,)), *layers])
    logger, steps, used = logging.getLogger("spark_dl"), [], []
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with tempfile.TemporaryDirectory() as made:
        mlflow.set_tracking_uri(f"sqlite:///{made}/mlflow.db")
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", f"file://{made}/artifacts"))
        classifier = KerasClassifier(
            model=network, batchSize=32, epochs=2, numWorkers=2, validationFraction=0.1, verbose=0
        ).setTracking("mlflow" if arguments.tracked else None)
        for fit in range(COLD + WARM):
            path, records = Path(made, f"marks-{fit}"), Records()
            records.found.append(("called", time.time(), time.process_time()))
            logger.addHandler(records)
            before, began = cpu_seconds(), time.time()
            classifier.fit(frame, {classifier.callbacks: [Marks(str(path))]})
            ended, after = time.time(), cpu_seconds()
            logger.removeHandler(records)
            if fit >= COLD:
                steps.append(timeline(records, path, began, ended))
                used.append({kind: after[kind] - before[kind] for kind in after})
        show(steps, used)
    spark.stop()


if __name__ == "__main__":
    main()
