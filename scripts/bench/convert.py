"""Converting a cached DataFrame: `python scripts/bench/convert.py`, against `df.write.parquet` of the same columns.

500,000 rows, or 400,000 images, in 8 partitions on local[2]; also against a task that takes the same columns and only
counts rows.
"""

import functools
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf
from compare import HEAD, compare
from local import local_session
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasEstimator
from spark_dl.data.column import Column
from spark_dl.data.convert import convert
from spark_dl.data.projection import arrow_projection
from spark_dl.data.specs import ConversionSpec
from spark_dl.io.store import Store

ROWS, IMAGES = 500_000, 400_000


def images(spark: SparkSession, contents: list[bytes]) -> DataFrame:
    """Rows of these images, over and over, each with its number at the end: Parquet would write equal ones once."""

    def numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = batch.column(0).to_pylist()
            chosen = pa.array([contents[row % len(contents)][:-8] + row.to_bytes(8, "big") for row in rows])
            label = pa.array([row % 10 for row in rows], pa.int32())
            yield pa.RecordBatch.from_arrays([chosen, label], names=["features", "label"])

    return spark.range(0, IMAGES, 1, 8).mapInArrow(numbered, "features binary, label int")


def frames(spark: SparkSession) -> dict[str, tuple[DataFrame, tuple[int, ...], list[str], str]]:
    """Name -> the DataFrame, the shape of the model's input, the feature columns, and what binary ones hold."""
    random = np.random.default_rng(0)
    digits = [random.integers(0, 256, 784, np.uint8).tobytes() for _ in range(100)]
    smooth = [tf.image.resize(random.integers(0, 256, (8, 8, 3)), (64, 64)) for _ in range(100)]
    jpegs = [tf.io.encode_jpeg(tf.cast(picture, tf.uint8)).numpy() + bytes(8) for picture in smooth]
    rows = spark.range(0, ROWS, 1, 8)
    label = (F.col("id") % 10).cast("int").alias("label")
    floats = rows.select(label, F.array(*(F.rand(i).cast("float") for i in range(64))).alias("features"))
    kinds = ["double", "float", "int", "long"]
    scalars = [(F.rand(i) * 100).cast(kinds[i % 4]).alias(f"x{i}") for i in range(40)]
    return {
        "array<float>, 64": (floats, (64,), ["features"], "raw"),
        "Vector, 64": (floats.withColumn("features", array_to_vector("features")), (64,), ["features"], "raw"),
        "40 scalars of four types": (rows.select(label, *scalars), (40,), [f"x{i}" for i in range(40)], "raw"),
        "28 x 28 uint8 images, raw": (images(spark, digits), (28, 28, 1), ["features"], "raw"),
        f"JPEG images, {sum(map(len, jpegs)) / 100 / 1000:.1f} KB": (
            images(spark, jpegs),
            (64, 64, 3),
            ["features"],
            "image",
        ),
    }


def checked(frame: DataFrame, shape: tuple[int, ...], columns: list[str], binary: str) -> ConversionSpec:
    """How `fit` would pack these columns."""
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    estimator = KerasEstimator(model=model, inputCols=columns, binaryFormat=binary)
    return estimator._checked(frame)[0].conversion


def ours(frame: DataFrame, rows: int, conversion: ConversionSpec, directory: str) -> float:
    store = Store.at(directory)
    store.make()
    began = time.perf_counter()
    convert(frame, replace(conversion, store=store))
    seconds = time.perf_counter() - began
    shutil.rmtree(directory)
    return rows / seconds


def plain(frame: DataFrame, rows: int, directory: str) -> float:
    began = time.perf_counter()
    frame.write.mode("overwrite").parquet(directory)
    return rows / (time.perf_counter() - began)


def counted(frame: DataFrame, rows: int, columns: list[Column]) -> float:
    """What is left of a conversion without packing and writing: the columns' way to Python."""

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"rows": [sum(batch.num_rows for batch in batches)]})

    began = time.perf_counter()
    frame.select(arrow_projection(columns)).mapInArrow(count, "rows long").collect()
    return rows / (time.perf_counter() - began)


spark = local_session()
print(HEAD)
with tempfile.TemporaryDirectory() as made:
    for name, (frame, *described) in frames(spark).items():
        kept = frame.cache()
        rows = kept.count()
        job = checked(kept, *described)
        ways = {
            "ours": functools.partial(ours, kept, rows, job, f"{made}/blocks"),
            "df.write.parquet": functools.partial(plain, kept, rows, f"{made}/plain"),
            "a task that only counts rows": functools.partial(counted, kept, rows, job.columns),
        }
        compare(f"convert {name}", ways)
        kept.unpersist()
spark.stop()
