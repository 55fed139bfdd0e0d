"""Training's input of images: `python scripts/bench/images.py [DIR]`, against a bare tf.data loop over the same files.

One rank's batches of 32 images of 224 x 224 x 3: JPEG files, and the same images as raw pixels. DIR is a directory of
JPEG files, at any depth; without it, 160 files of 500 x 375 are generated. An epoch has each image four times. The bare
loop reads the files in shuffled order, decodes and resizes them by `Dataset.map` with a parallel call for each of this
machine's cores, and makes batches. Images per second are given by wall-clock time and by CPU time of all threads, which
other programs on the machine affect less.
"""

import functools
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from compare import HEAD, compare
from local import local_session
from PIL import Image
from pyspark.sql import DataFrame

from spark_dl import KerasEstimator
from spark_dl.data.batches import tensorflow_batches
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.readers import reader
from spark_dl.data.shards import shards
from spark_dl.fit.conversion import convert_rows
from spark_dl.fit.spec import build_fit_spec
from spark_dl.io.store import Store

SHAPE, BATCH, COUNT, TIMES = (224, 224, 3), 32, 160, 4


def draw(directory: Path) -> None:
    """JPEG files with soft shapes and some noise, as photographs have."""
    for index in range(COUNT):
        random = np.random.default_rng(index)
        soft = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.clip(np.asarray(soft) + random.normal(0, 8, (375, 500, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(directory / f"{index}.jpg", quality=90)


def converted(rows: DataFrame, kind: str, directory: str) -> ConvertedDataset:
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    estimator = KerasEstimator(model=model, loss="mse", featuresCol="content", binaryFormat=kind, batchSize=BATCH)
    spec = build_fit_spec(estimator, rows.schema, estimator._options())
    return convert_rows(rows, spec.conversion, Store.at(directory))


def speed(batches: tf.data.Dataset, clock: Callable[[], float]) -> float:
    """Images a second of an epoch; a first one, which doesn't count, has traced the dataset."""
    began, images = clock(), 0
    for features, *_ in batches:
        images += int(features.shape[0])
    return images / (clock() - began)


def ours(data: ConvertedDataset) -> tf.data.Dataset:
    mine = [shards(data.blocks, 1, BATCH, 1)[0]]
    return tensorflow_batches(data, mine, reader("arrow"), seed=1, one_pass=True)


def decoded(path: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    return tf.ensure_shape(tf.image.resize(pixels, SHAPE[:2], antialias=True), SHAPE)


def raw(path: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.reshape(tf.io.decode_raw(tf.io.read_file(path), tf.uint8), SHAPE), tf.float32)


def bare(paths: list[str], read: Callable[[tf.Tensor], tf.Tensor]) -> tf.data.Dataset:
    names = tf.data.Dataset.from_tensor_slices((paths, np.zeros(len(paths), np.float32)))
    names = names.repeat(TIMES).shuffle(len(paths) * TIMES, seed=1)
    made = names.map(lambda path, label: (read(path), label), num_parallel_calls=os.cpu_count())
    return made.batch(BATCH).prefetch(2)


with tempfile.TemporaryDirectory() as made:
    folders = {kind: Path(made) / kind for kind in ("jpeg", "raw", "blocks-jpeg", "blocks-raw")}
    for folder in folders.values():
        folder.mkdir()
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else folders["jpeg"]
    if source == folders["jpeg"]:
        draw(source)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for index, path in enumerate(files):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            pixels = np.asarray(image.convert("RGB").resize(SHAPE[1::-1]))
        (folders["raw"] / f"{index}.bin").write_bytes(pixels.tobytes())
    spark = local_session()
    print(HEAD)
    for kind, read in (("jpeg", decoded), ("raw", raw)):
        paths = [str(path) for path in (files if kind == "jpeg" else sorted(folders["raw"].iterdir()))]
        rows = spark.createDataFrame(
            [(Path(path).read_bytes(), 0.0) for path in paths * TIMES], "content binary, label float"
        )
        data = converted(rows, "image" if kind == "jpeg" else "raw", str(folders[f"blocks-{kind}"]))
        ways = {"training's input": ours(data), "a bare tf.data loop": bare(paths, read)}
        for name, clock in (("", time.perf_counter), (", by CPU time", time.process_time)):
            timed = {way: functools.partial(speed, batches, clock) for way, batches in ways.items()}
            compare(f"{TIMES * len(paths)} {kind} images{name}", timed, turns=3)
    spark.stop()
