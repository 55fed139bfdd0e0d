"""Weak and strong scaling on one machine: `python scripts/bench/scaling.py`, about twenty minutes.

1, 2, 4 and 8 ranks with one computing thread each, in the slots of one Spark: a small CNN, bound by computing, and a
small dense network, bound by latency. Weak scaling: a fixed number of rows per rank. Strong: a fixed global batch.

More ranks than cores can't be faster, so the tables show work per resource: rows/s for each core that the ranks can
use, min(ranks, cores), and rows per CPU second of the ranks' processes, readers and Horovod's threads included; both
also relative to one rank. The upper limit without collectives is measured by the same number of independent processes
of plain Keras that train at the same time ("vs. independent", for weak scaling). Medians of the epochs after the first.
"""

import contextlib
import io
import os
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from local import local_session
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from train import network, plain

from spark_dl import KerasEstimator

RANKS, EPOCHS = (1, 2, 4, 8), 5
CORES = len(os.sched_getaffinity(0))
# Columns; then rows in a batch of a rank (weak) or of all ranks (strong), and rows in an epoch.
CASES = {
    "cnn": (784, {"weak": (512, 32_768), "strong": (512, 16_384)}),
    "dense": (64, {"weak": (1024, 1_228_800), "strong": (4096, 614_400)}),
}
SAID = re.compile(r"([\d,]+) rows/s, ([\d.]+) ms a step(?:, collectives (\d+)%)?")


class ProcessorTime(keras.callbacks.Callback):
    """Writes each epoch's processor time of its rank's process to a file of the rank."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = directory
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with open(f"{self._directory}/{os.environ['HOROVOD_RANK']}", "a") as file:
            file.write(f"{time.process_time() - self._began}\n")


@dataclass(frozen=True)
class Run:
    """A fit, in its steady state.

    Attributes:
        rows_per_second, step_ms, joining: as `fit` reports them; joining, the share of collectives, in percent.
        rows_per_cpu_second: rows per CPU second of all ranks.
        cores: busy cores.
    """

    rows_per_second: float
    step_ms: float
    joining: float
    rows_per_cpu_second: float
    cores: float


def run(frame: DataFrame, name: str, ranks: int, batch: int, rows: int) -> Run:
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as directory:
        estimator = KerasEstimator(
            model=network(name),
            callbacks=[ProcessorTime(directory)],
            numWorkers=ranks,
            batchSize=batch,
            epochs=EPOCHS,
            tracking=None,
            verbose=2,
            slotTimeout=120.0,
        )
        with contextlib.redirect_stderr(said):
            estimator.fit(frame)
        taken = [[float(line) for line in file.read_text().split()] for file in Path(directory).iterdir()]
    epochs = [[float((text or "0").replace(",", "")) for text in line] for line in SAID.findall(said.getvalue())]
    speed, step_ms, joining = (statistics.median(kind) for kind in zip(*epochs[1:], strict=True))
    processor = statistics.median(sum(epoch) for epoch in list(zip(*taken, strict=True))[1:])
    return Run(speed, step_ms, joining, rows / processor, processor * speed / rows)


def apart(name: str, batch: int, processes: int) -> float:
    """Rows/s of independent processes of plain Keras together."""
    with ThreadPoolExecutor(processes) as pool:
        return sum(pool.map(lambda _: plain(name, batch, 1), range(processes)))


def scale(spark: SparkSession, name: str, kind: str) -> None:
    width, kinds = CASES[name]
    given, rows = kinds[kind]
    columns = F.array(*(F.rand(i).cast("float") for i in range(width))).alias("features")
    frame = spark.range(0, rows, 1, 8).select(columns).withColumn("label", F.col("features")[0])
    print(f"\n{name}, {kind}: {given} rows {'per rank' if kind == 'weak' else 'over all ranks'}\n")
    print(
        "| ranks | rows per rank | rows/s | per core | relative | per CPU s | relative "
        "| cores busy | step, ms | collectives | vs. independent |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    first = None
    for ranks in RANKS:
        batch = given // (1 if kind == "weak" else ranks)
        found = run(frame, name, ranks, batch, rows)
        usable = found.rows_per_second / min(ranks, CORES)
        without = f"{found.rows_per_second / apart(name, batch, ranks):.2f}" if kind == "weak" else ""
        first = first or (usable, found.rows_per_cpu_second)
        print(
            f"| {ranks} | {batch} | {found.rows_per_second:,.0f} | {usable:,.0f} | {usable / first[0]:.2f} "
            f"| {found.rows_per_cpu_second:,.0f} | {found.rows_per_cpu_second / first[1]:.2f} | {found.cores:.1f} "
            f"| {found.step_ms:.1f} | {found.joining:.0f} % | {without} |",
            flush=True,
        )


if __name__ == "__main__":
    session = local_session(f"local[{max(RANKS)}]")
    for case in [name for name in CASES if name in sys.argv] or CASES:
        for chosen in [kind for kind in ("weak", "strong") if kind in sys.argv] or ("weak", "strong"):
            scale(session, case, chosen)
    session.stop()
