"""Training in steady state: `python scripts/bench/train.py`, against plain Keras on NumPy arrays in memory.

Rows/s of the epochs after the first, as `fit` reports them. One rank, and one plain process with one thread;
then two ranks with one thread each, and one plain process with both cores, with the global batch and with
the batch of one rank; and two independent plain processes with one thread each, the machine's upper limit for two
ranks. A dense network 64-128-1 with 1024 rows per rank, and a small CNN on 28 x 28 with 128 rows per rank.
"""

import contextlib
import functools
import io
import itertools
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent import futures

import keras
from compare import HEAD, compare
from keras import layers
from local import local_session
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl import KerasEstimator

EPOCHS = 8
CASES = {"dense": (500_000, 64, 1024), "cnn": (20_000, 784, 128)}


def network(name: str) -> keras.Model:
    if name == "dense":
        model = keras.Sequential([keras.Input((64,)), layers.Dense(128, "relu"), layers.Dense(1)])
    else:
        model = keras.Sequential(
            [
                keras.Input((784,)),
                layers.Reshape((28, 28, 1)),
                layers.Conv2D(16, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(32, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(1),
            ]
        )
    model.compile("adam", "mse")
    return model


def plain(name: str, batch: int, threads: int) -> float:
    """A process of its own, as its threads are set once."""
    ran = subprocess.run(
        [sys.executable, __file__, "plain", name, str(batch), str(threads)], capture_output=True, text=True, check=True
    )
    return float(json.loads(ran.stdout.splitlines()[-1]))


def apart(name: str, batch: int) -> float:
    """Rows/s of two independent processes of plain Keras together."""
    with futures.ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda _: plain(name, batch, 1), range(2)))


def plain_here(name: str, batch: int, threads: int) -> None:
    import time

    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    rows, width, _ = CASES[name]
    features = np.random.default_rng(0).random((rows, width), np.float32)
    ends: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            ends.append(time.perf_counter())

    network(name).fit(
        features, features[:, 0], batch_size=batch, epochs=EPOCHS, shuffle=True, verbose=0, callbacks=[Clock()]
    )
    print(statistics.median(rows / (b - a) for a, b in itertools.pairwise(ends)))


def ours(frame: DataFrame, name: str, batch: int, workers: int) -> float:
    estimator = KerasEstimator(
        model=network(name), numWorkers=workers, batchSize=batch, epochs=EPOCHS, tracking=None, verbose=2
    )
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        estimator.fit(frame)
    speeds = [float(speed.replace(",", "")) for speed in re.findall(r"([\d,]+) rows/s", said.getvalue())]
    return statistics.median(speeds[1:])


def main() -> None:
    spark = local_session()

    def frame(name: str) -> DataFrame:
        rows, width, _ = CASES[name]
        columns = F.array(*(F.rand(i).cast("float") for i in range(width))).alias("features")
        return spark.range(0, rows, 1, 8).select(columns).withColumn("label", F.col("features")[0])

    def row(name: str, workers: int, threads: int) -> tuple[str, dict[str, Callable[[], float]]]:
        batch = CASES[name][2]
        what = f"{name}, {workers} rank{'s' * (workers > 1)}, {batch} rows per rank"
        made = frame(name)
        ways = {"ours": lambda: ours(made, name, batch, workers)}
        for rows in sorted({batch * workers, batch}, reverse=True):
            peer = f"plain Keras, {threads} thread{'s' * (threads > 1)}, batch {rows}"
            ways[peer] = functools.partial(plain, name, rows, threads)
        if workers > 1:
            ways[f"two independent plain Keras processes, 1 thread, batch {batch}"] = lambda: apart(name, batch)
        return what, ways

    print(HEAD)
    for name, workers, threads in (("dense", 1, 1), ("dense", 2, 2), ("cnn", 1, 1), ("cnn", 2, 2)):
        compare(*row(name, workers, threads), turns=5)
    spark.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        plain_here(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
