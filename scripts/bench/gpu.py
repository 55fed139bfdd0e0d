"""Training on the GPUs of this machine, as a table: scripts/bench/gpu.sh runs it and says what it needs.

Rows a second of the epochs after the first, as `fit` reports them, of a small residual network on generated images:
one rank and one for each GPU, in float32 and mixed_float16, and with gradients as float16. Plain Keras in a process of
its own is measured on one GPU. With --cpu the same on two CPU ranks, with a smaller network and fewer rows.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
from keras import layers
from local import local_session
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasEstimator

DISCOVERY = Path(__file__).resolve().parents[2] / "conf" / "get_gpus.sh"
SIDE = 32
WIDTH = SIDE * SIDE * 3


def network(filters: int, policy: str) -> keras.Model:
    """Residual blocks on images of 32 x 32 x 3, in the rows' flat form, with ten classes."""
    with_policy = {"dtype": policy}
    image = keras.Input((WIDTH,))
    tensor = layers.Reshape((SIDE, SIDE, 3))(image)
    for level in range(3):
        wide = filters << level
        entry = layers.Conv2D(wide, 1, strides=2, **with_policy)(tensor)
        tensor = layers.Conv2D(wide, 3, strides=2, padding="same", activation="relu", **with_policy)(tensor)
        tensor = layers.Conv2D(wide, 3, padding="same", **with_policy)(tensor)
        tensor = layers.ReLU(**with_policy)(layers.Add(**with_policy)([tensor, entry]))
    output = layers.Dense(10, "softmax", dtype="float32")(layers.GlobalAveragePooling2D(**with_policy)(tensor))
    model = keras.Model(image, output)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def session(gpus: int) -> SparkSession:
    """One executor with all GPUs; without GPUs two local slots."""
    if not gpus:
        return local_session()
    settings = {"spark.executor.memory": "4g"}
    for kind in ("worker", "executor"):
        settings[f"spark.{kind}.resource.gpu.amount"] = str(gpus)
        settings[f"spark.{kind}.resource.gpu.discoveryScript"] = str(DISCOVERY)
    cores = max(gpus, len(os.sched_getaffinity(0)) // gpus * gpus)
    return local_session(f"local-cluster[1,{cores},5120]", settings)


def images(spark: SparkSession, rows: int) -> DataFrame:
    """Rows of uniform numbers, with labels."""

    def made(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column(0).to_numpy()
            numbers = np.random.default_rng(ids[:1]).random(len(ids) * WIDTH, np.float32)
            features = pa.ListArray.from_arrays(pa.array(np.arange(len(ids) + 1, dtype=np.int32) * WIDTH), numbers)
            yield pa.RecordBatch.from_arrays([features, pa.array(ids % 10, pa.int32())], names=["features", "label"])

    # 1,000 rows are 12 MB.
    small = spark.range(0, rows, 1, max(2, rows // 1000))
    return small.mapInArrow(made, "features array<float>, label int")


def plain(known: argparse.Namespace) -> None:
    """Plain Keras in this process: print its rows a second."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    random = np.random.default_rng(0)
    features = random.random((known.rows, WIDTH), np.float32)
    labels = random.integers(0, 10, known.rows)
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    model = network(known.filters, known.plain)
    model.fit(features, labels, batch_size=known.batch, epochs=known.epochs, verbose=0, callbacks=[clock])
    print(json.dumps(statistics.median(known.rows / (b - a) for a, b in itertools.pairwise(ends))))


def plain_apart(known: argparse.Namespace, policy: str) -> float:
    sizes = [f"--{name}={getattr(known, name)}" for name in ("rows", "batch", "epochs", "filters")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1" if known.cpu else "0"}
    command = [sys.executable, __file__, *sizes, "--plain", policy]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(ran.stdout.splitlines()[-1])


def ours(frame: DataFrame, known: argparse.Namespace, ranks: int, policy: str, compression: str) -> tuple[float, str]:
    """Rows a second, and the part of the time that collectives took, as `fit` reports them."""
    estimator = KerasEstimator(
        model=network(known.filters, policy),
        numWorkers=ranks,
        batchSize=known.batch,
        epochs=known.epochs,
        compression=compression,
        gpusPerWorker=None if known.cpu else 1,
        tracking=None,
        verbose=2,
    )
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        estimator.fit(frame)
    epochs = re.findall(r"([\d,]+) rows/s, [\d.]+ ms a step(?:, collectives (\d+)%)?", said.getvalue())[1:]
    speed = statistics.median(float(rows.replace(",", "")) for rows, _ in epochs)
    return speed, f"{statistics.median(int(part or 0) for _, part in epochs):.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true", help="two ranks on the CPU, small")
    parser.add_argument("--gpus", type=int, default=0, help="the number of GPUs")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=512, help="rows of a rank in a step")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--filters", type=int, default=64, help="of the first block")
    parser.add_argument("--plain", metavar="POLICY", help="measure plain Keras in this process instead")
    known = parser.parse_args()
    if known.plain:
        plain(known)
        return
    spark = session(0 if known.cpu else known.gpus)
    frame = images(spark, known.rows)
    most = 2 if known.cpu else known.gpus
    print("| ranks | dtype policy | gradients | rows/s | of one rank, each | collectives | of plain Keras, each |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for policy in ("float32", "mixed_float16"):
        if known.cpu and policy == "mixed_float16":
            continue  # CPUs compute float16 in software
        alone, peer = 0.0, plain_apart(known, policy)
        for ranks, compression in ((1, "none"), *(((most, "none"), (most, "fp16")) if most > 1 else ())):
            speed, joined = ours(frame, known, ranks, policy, compression)
            alone = alone or speed
            gradients = "float16" if compression == "fp16" else "float32"
            print(
                f"| {ranks} | {policy} | {gradients} | {speed:,.0f} | {speed / ranks / alone:.2f} | {joined} "
                f"| {speed / ranks / peer:.2f} |",
                flush=True,
            )
    spark.stop()


if __name__ == "__main__":
    main()
