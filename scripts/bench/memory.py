"""Memory of ranks and of the driver: `python scripts/bench/memory.py`, ten minutes and 7 GB of disk.

1. Two ranks, each held to 1.5 GB, train ten epochs on rows of 1024 floats, of 0.6 and of 6 GB in all. The limit is the
   kernel's, on memory that is the process's own (RLIMIT_DATA: heaps, buffers and stacks, touched or not); a rank that
   asks for more fails. At the end of each epoch a callback notes the rank's resident memory, files that it maps
   included.
2. A driver with separate executors fits 10,000 and 10,000,000 rows of 16 floats: the maximum private memory of its
   Python, and of live objects on its JVM's heap after a collection, while `fit` runs. The JVM is left out without jcmd,
   which a JDK has.

`--gigabytes 0.2 --epochs 3 --rows 10000 100000` is a quick run.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import keras
import psutil
from local import local_session
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasRegressor

RANKS, BATCH = 2, 1024
RANK_WIDTH, DRIVER_WIDTH = 1024, 16
SECONDS_BETWEEN_LOOKS = 2.0


def memory(process: str = "self") -> dict[str, float]:
    """MB of a process: resident now, of its own, of files, the most there ever was."""
    status = Path(f"/proc/{process}/status").read_text()
    names = {"resident": "VmRSS", "own": "RssAnon", "files": "RssFile", "peak": "VmHWM", "claimed": "VmData"}
    found = {name: re.search(rf"^{entry}:\s+(\d+) kB", status, re.MULTILINE) for name, entry in names.items()}
    return {name: int(match[1]) * 1024 / 1e6 for name, match in found.items() if match}


class Held(keras.callbacks.Callback):
    """Holds the rank to a limit, and notes its memory at each epoch's end.

    Args:
        directory: for a file of each rank.
        limit: bytes.
    """

    def __init__(self, directory: str, limit: int) -> None:
        super().__init__()
        self.directory = directory
        self.limit = limit

    def on_train_begin(self, logs: object = None) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (self.limit, self.limit))

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        with Path(self.directory, os.environ["HOROVOD_RANK"]).open("a") as file:
            file.write(json.dumps(memory()) + "\n")


def rows_of(spark: SparkSession, rows: int, width: int) -> DataFrame:
    features = F.array_repeat(F.rand(0).cast("float"), width).alias("features")
    return spark.range(0, rows, 1, 16).select(features).withColumn("label", F.col("features")[0])


def estimator(width: int, epochs: int, directory: str, **others: object) -> KerasRegressor:
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)])
    return KerasRegressor(
        model=model,
        optimizer="adam",
        loss="mse",
        numWorkers=RANKS,
        batchSize=BATCH,
        epochs=epochs,
        cacheDir=directory,
        maxRestarts=0,
        tracking=None,
        verbose=0,
        **others,
    )


def ranks(gigabytes: float, limit: float, epochs: int) -> None:
    """The ranks' memory at each epoch's end, as rows of a table."""
    spark = local_session()
    rows = int(gigabytes * 1e9 / (4 * RANK_WIDTH))
    with tempfile.TemporaryDirectory() as made:
        held = Held(made, int(limit * 1e9))
        estimator(RANK_WIDTH, epochs, made, callbacks=[held]).fit(rows_of(spark, rows, RANK_WIDTH))
        for rank in range(RANKS):
            noted = [json.loads(line) for line in Path(made, str(rank)).read_text().splitlines()]
            peaks = " | ".join(f"{noted[-1][name]:,.0f}" for name in ("peak", "claimed"))
            after = " ".join(f"{each['resident']:,.0f}" for each in noted)
            print(f"| {gigabytes:g} GB, rank {rank} | {after} | {peaks} |", flush=True)
            if noted[-1]["peak"] > limit * 1000:
                raise SystemExit(f"rank {rank} took {noted[-1]['peak']:,.0f} MB")
    spark.stop()


def live_on_heap(jvm: int) -> float:
    """MB of the JVM's live objects: jcmd collects garbage before it counts them."""
    said = subprocess.run(["jcmd", str(jvm), "GC.class_histogram"], capture_output=True, text=True, check=True).stdout
    total = re.search(r"^Total\s+\d+\s+(\d+)", said, re.MULTILINE)
    return int(total[1]) / 1e6 if total else 0.0


def driver(rows: int) -> None:
    """One fit's driver, as a row of a table."""
    spark = local_session(f"local-cluster[{RANKS},1,2048]")
    (jvm,) = [child.pid for child in psutil.Process().children() if child.name() == "java"]
    seen: list[tuple[float, float]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            seen.append((memory()["own"], live_on_heap(jvm) if shutil.which("jcmd") else 0.0))

    with tempfile.TemporaryDirectory() as made:
        looking = threading.Thread(target=look)
        looking.start()
        try:
            estimator(DRIVER_WIDTH, 1, made).fit(rows_of(spark, rows, DRIVER_WIDTH))
        finally:
            over.set()
            looking.join()
    python, heap = (max(values) for values in zip(*seen, strict=True))
    print(f"| {rows:,} | {python:,.0f} | {heap:,.0f} | {len(seen)} |", flush=True)
    spark.stop()


def in_a_process(*words: object) -> None:
    """Called with these words, so that what one case leaves isn't the next one's."""
    subprocess.run([sys.executable, __file__, *map(str, words)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[0.6, 6.0], help="of the ranks' data")
    parser.add_argument("--limit", type=float, default=1.5, help="GB for each rank")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 10_000_000], help="of the driver's data")
    given = parser.parse_args()
    if given.gigabytes:
        print(f"A rank is held to {given.limit:g} GB of its own.")
        print("| data | RSS after each epoch, MB | peak RSS, MB | private MB, allocated |\n|---|---|---|---|")
    for gigabytes in given.gigabytes:
        in_a_process("ranks", gigabytes, given.limit, given.epochs)
    if given.rows:
        print("\n| rows | driver's Python, private MB | live JVM heap, MB | samples |\n|---|---|---|---|")
    for rows in given.rows:
        in_a_process("driver", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["ranks"]:
        ranks(float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["driver"]:
        driver(int(sys.argv[2]))
    else:
        main()
