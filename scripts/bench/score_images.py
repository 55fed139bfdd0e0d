"""Scoring images with a convolutional network, and a large model: `python scripts/bench/score_images.py`.

`speed`: `transform` of raw 28 x 28 images by the CNN of train.py in two tasks of one thread, with several Arrow batch
sizes, and in one task with two threads (`spark.task.cpus` of 2), against `predict` of the same network in one plain
Keras process with both cores, on arrays in memory. `memory`: a model of 400 MB in one and in two tasks at a time;
private memory is what a process doesn't share.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import keras
import numpy as np
import psutil
import pyarrow as pa
from local import local_session
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasModel

IMAGES, BATCH, TURNS = 100_000, 512, 5
ARROW_BATCHES = (1_000, 10_000)
# One layer of 10,000 x 10,000 numbers in float32 is 400 MB.
LARGE, LARGE_ROWS = 10_000, 4_000


def network() -> keras.Model:
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, "softmax"),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def images(spark: SparkSession) -> DataFrame:
    def made(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column(0).to_numpy()
            pixels = np.random.default_rng(ids[:1]).integers(0, 256, (len(ids), 784), np.uint8)
            yield pa.RecordBatch.from_arrays([pa.array([row.tobytes() for row in pixels])], names=["features"])

    frame = spark.range(0, IMAGES, 1, 2).mapInArrow(made, "features binary").cache()
    frame.count()
    return frame


def plain_here() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28, 1), np.uint8)
    model, taken = network(), []
    for _ in range(2):
        began = time.perf_counter()
        model.predict(pixels, batch_size=BATCH, verbose=0)
        taken.append(time.perf_counter() - began)
    print(json.dumps(IMAGES / taken[-1]))


def plain() -> float:
    command = [sys.executable, __file__, "plain"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(ran.stdout.splitlines()[-1])


def scored(model: KerasModel, frame: DataFrame) -> float:
    began = time.perf_counter()
    model.transform(frame).write.format("noop").mode("overwrite").save()
    return IMAGES / (time.perf_counter() - began)


def speed() -> None:
    print("| transform of images | rows/s | plain Keras, both cores | ratio |\n|---|---|---|---|")
    for cores in (1, 2):
        spark = local_session("local[2]", {"spark.task.cpus": str(cores)})
        frame = images(spark)
        model = KerasModel.fromKeras(network(), inputCols=["features"], binaryFormat="raw", scoreBatchSize=BATCH)
        found: dict[int, list[float]] = {rows: [] for rows in ARROW_BATCHES}
        peers: list[float] = []
        for turn in range(TURNS + 1):
            peers.append(plain())
            for rows, speeds in found.items():
                spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", rows)
                done = scored(model, frame)
                if turn:
                    speeds.append(done)
        peer = statistics.median(peers[1:])
        for rows, speeds in found.items():
            own = statistics.median(speeds)
            tasks = "2 tasks of 1 thread" if cores == 1 else "1 task of 2 threads"
            what = f"{tasks}, Arrow batches of {rows:,} rows"
            print(f"| {what} | {own:,.0f} | {peer:,.0f} | {own / peer:.2f} |", flush=True)
        spark.stop()


class Watch(threading.Thread):
    """The private memory of the Python workers below this process, in MB: the largest sum seen, and the last."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = self.last = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        own = psutil.Process(os.getpid())
        while not self._ended.wait(0.1):
            private = 0.0
            for process in own.children(recursive=True):
                try:
                    if "java" not in process.cmdline()[0]:
                        private += process.memory_full_info().uss / 1e6
                except (psutil.Error, IndexError):
                    continue
            self.last = private
            self.most = max(self.most, private)

    def end(self) -> None:
        self._ended.set()
        self.join()


def memory_here(cores: int) -> None:
    """Score with `2 // cores` tasks at a time, and print a row of the table."""
    large = keras.Sequential([keras.Input((LARGE,)), keras.layers.Dense(LARGE, use_bias=False), keras.layers.Dense(1)])
    spark = local_session("local[2]", {"spark.task.cpus": str(cores)})

    def made(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [bytes(LARGE)] * batch.num_rows
            yield pa.RecordBatch.from_arrays([pa.array(rows)], names=["features"])

    # Cached, since the Python workers that make rows would be further ones beside those that score.
    frame = spark.range(0, LARGE_ROWS, 1, 4).mapInArrow(made, "features binary").cache()
    frame.count()
    model = KerasModel.fromKeras(large, inputCols=["features"], binaryFormat="raw", scoreBatchSize=256)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 500)
    watch = Watch()
    watch.start()
    model.transform(frame).write.format("noop").mode("overwrite").save()
    watch.end()
    print(f"| {2 // cores} | {cores} | {watch.most:,.0f} | {watch.last:,.0f} |", flush=True)
    spark.stop()


def memory() -> None:
    """Each number of tasks in a process of its own, since workers of a stopped session may live on for a while."""
    print("\n| tasks at a time | threads of a task | peak private MB of all Python workers | at the end |")
    print("|---|---|---|---|", flush=True)
    for cores in (2, 1):
        subprocess.run([sys.executable, __file__, f"memory-{cores}"], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=("speed", "memory", "plain", "memory-1", "memory-2"))
    part = parser.parse_args().part
    if part == "plain":
        plain_here()
    elif part in ("memory-1", "memory-2"):
        memory_here(int(part[-1]))
    else:
        for name, run in (("speed", speed), ("memory", memory)):
            if part in (None, name):
                run()
