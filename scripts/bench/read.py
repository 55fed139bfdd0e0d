"""Reading converted rows into shuffled tf.data batches: `python scripts/bench/read.py`.

4,000,000 rows of 64 floats, batches of 1024, one rank; TensorFlow takes the batches in one call, as an epoch does.
The reader "petastorm" (where Petastorm can be imported), against the reader "arrow" and a bare pyarrow loop over our
files that shuffles and slices as we do, without TensorFlow. On a stack with pyarrow 14 also against Petastorm's own two
ways to tf.data, with 400,000 rows of array<float>: `make_spark_converter(df).make_tf_dataset()`, and by hand over a
Parquet file of the same (`make_petastorm_dataset`, unbatch, shuffle, batch).
"""

import functools
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from blocks import make_blocks
from compare import HEAD, compare
from local import local_session

from spark_dl.data.batches import tensorflow_batches
from spark_dl.data.dataset import FEATURES, ConvertedDataset
from spark_dl.data.readers import reader
from spark_dl.data.shards import shards

ROWS, WIDTH, BATCH, PEER_ROWS = 4_000_000, 64, 1024, 400_000


def taken(batches: tf.data.Dataset) -> int:
    """The number of rows in all batches."""
    return int(
        batches.reduce(np.int64(0), lambda rows, *batch: rows + tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0])
    )


def ours(name: str, data: ConvertedDataset) -> float:
    began = time.perf_counter()
    mine = [shards(data.blocks, 1, BATCH, 1)[0]]
    rows = taken(tensorflow_batches(data, mine, reader(name), seed=1, one_pass=True))
    return rows / (time.perf_counter() - began)


def bare(data: ConvertedDataset) -> float:
    began, rows, random = time.perf_counter(), 0, np.random.default_rng(1)
    blocks = random.permutation(len(data.blocks))
    for some in np.array_split(blocks, max(1, len(blocks) // 8)):
        files = [pq.read_table(f"{data.store.path}/{data.blocks[i].name}", columns=[FEATURES]) for i in some]
        pool = np.concatenate([np.frombuffer(f[FEATURES][0].as_buffer(), np.float32).reshape(-1, WIDTH) for f in files])
        pool = pool[random.permutation(len(pool))]
        for start in range(0, len(pool), BATCH):
            rows += len(pool[start : start + BATCH])
    return rows / (time.perf_counter() - began)


def petastorms(directory: str) -> dict[str, Callable[[], float]]:
    """Petastorm's own ways, which need the API that pyarrow removed in version 15."""
    if importlib.util.find_spec("petastorm") is None or not hasattr(pq, "ParquetDatasetPiece"):
        return {}
    from petastorm import make_batch_reader
    from petastorm.spark import SparkDatasetConverter, make_spark_converter
    from petastorm.tf_utils import make_petastorm_dataset

    url = f"file://{directory}/rows"
    numbers = np.random.default_rng(0).random((PEER_ROWS, WIDTH), np.float32)
    (Path(directory) / "rows").mkdir()
    pq.write_table(pa.table({"features": list(numbers)}), f"{directory}/rows/part.parquet", row_group_size=10_000)
    spark = local_session()
    spark.conf.set(SparkDatasetConverter.PARENT_CACHE_DIR_URL_CONF, f"file://{directory}/converted")
    converter = make_spark_converter(spark.read.parquet(url).repartition(4))

    def converted() -> float:
        began = time.perf_counter()
        # Petastorm prints a line when a reader ends.
        dataset = converter.make_tf_dataset(BATCH, num_epochs=1, shuffling_queue_capacity=10_000)
        with redirect_stdout(sys.stderr), dataset as batches:
            rows = taken(batches)
        return rows / (time.perf_counter() - began)

    def stock() -> float:
        began = time.perf_counter()
        with redirect_stdout(sys.stderr), make_batch_reader(url, num_epochs=1, workers_count=2) as batch_reader:
            rows = taken(make_petastorm_dataset(batch_reader).unbatch().shuffle(10_000).batch(BATCH))
        return rows / (time.perf_counter() - began)

    return {"Petastorm's make_tf_dataset": converted, "Petastorm's make_petastorm_dataset": stock}


with tempfile.TemporaryDirectory() as made:
    (Path(made) / "blocks").mkdir()
    data = make_blocks(f"{made}/blocks", ROWS, WIDTH)
    names = ["petastorm", "arrow"] if importlib.util.find_spec("petastorm") else ["arrow"]
    readers = {f"reader {name!r}": functools.partial(ours, name, data) for name in names}
    print(HEAD)
    compare(
        f"read with {names[0]!r}, shuffled, into tf.data",
        {**readers, **petastorms(made), "a bare pyarrow loop": lambda: bare(data)},
    )
