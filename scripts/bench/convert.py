"""Converting a cached DataFrame: `python scripts/bench/convert.py`, against `df.write.parquet` of the same columns.

500,000 rows in 8 partitions on local[2]; also against a task that takes the same columns and only counts rows.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import keras
import pyarrow as pa
from compare import HEAD, compare
from local import local_session
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasEstimator
from spark_dl.data.convert import Packing, convert
from spark_dl.data.schema import Column
from spark_dl.data.transport import send
from spark_dl.store import Store

ROWS = 500_000


def frames(spark: SparkSession) -> dict[str, tuple[DataFrame, int, list[str]]]:
    """Name -> the DataFrame, the width of the model's input, and the feature columns."""
    rows = spark.range(0, ROWS, 1, 8)
    label = (F.col("id") % 10).cast("int").alias("label")
    floats = rows.select(label, F.array(*(F.rand(i).cast("float") for i in range(64))).alias("features"))
    kinds = ["double", "float", "int", "long"]
    scalars = [(F.rand(i) * 100).cast(kinds[i % 4]).alias(f"x{i}") for i in range(40)]
    return {
        "array<float>, 64": (floats, 64, ["features"]),
        "Vector, 64": (floats.withColumn("features", array_to_vector("features")), 64, ["features"]),
        "40 scalars of four types": (rows.select(label, *scalars), 40, [f"x{i}" for i in range(40)]),
    }


def checked(frame: DataFrame, width: int, columns: list[str]) -> Packing:
    """How `fit` would pack these columns."""
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(10)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    estimator = KerasEstimator(model=model, inputCols=columns)
    return estimator._check(frame, estimator._values()).packing


def ours(frame: DataFrame, packing: Packing, directory: str) -> float:
    store = Store.at(directory)
    store.make()
    began = time.perf_counter()
    convert(frame, replace(packing, store=store))
    seconds = time.perf_counter() - began
    shutil.rmtree(directory)
    return ROWS / seconds


def plain(frame: DataFrame, directory: str) -> float:
    began = time.perf_counter()
    frame.write.mode("overwrite").parquet(directory)
    return ROWS / (time.perf_counter() - began)


def counted(frame: DataFrame, columns: list[Column]) -> float:
    """What is left of a conversion without packing and writing: the columns' way to Python."""

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"rows": [sum(batch.num_rows for batch in batches)]})

    began = time.perf_counter()
    frame.select(send(columns)).mapInArrow(count, "rows long").collect()
    return ROWS / (time.perf_counter() - began)


spark = local_session()
print(HEAD)
with tempfile.TemporaryDirectory() as made:
    for name, (frame, width, columns) in frames(spark).items():
        kept = frame.cache()
        kept.count()
        job = checked(kept, width, columns)
        ways = {
            "ours": lambda kept=kept, job=job: ours(kept, job, f"{made}/blocks"),
            "df.write.parquet": lambda kept=kept: plain(kept, f"{made}/plain"),
            "a task that only counts rows": lambda kept=kept, job=job: counted(kept, job.columns),
        }
        compare(f"convert {name}", ways)
        kept.unpersist()
spark.stop()
