"""`fit` from call to fitted model: `PEER_PYTHON=DIR/bin/python python scripts/bench/fit.py`.

1,000,000 rows of 64 floats in Parquet, a dense network 64-128-1, 3 epochs, 2 workers with 1024 rows a batch, on
local[2]. Each fit is the second in its Spark session. The peer is horovod.spark.keras.KerasEstimator, in an environment
of its own (`peer.sh` builds it); it is left out without PEER_PYTHON. The start of two ranks is compared with
`horovod.spark.run`, which runs in this environment. Ranks of spark_dl have initialised Horovod before their function is
called, so `horovod.spark.run` is measured twice: as it is, without importing TensorFlow, and with `hvd.init()`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from apart import second, seconds

ROWS, WIDTH, EPOCHS, BATCH, WORKERS, TURNS = 1_000_000, 64, 3, 1024, 2, 3


def peer(path: str) -> None:
    """Horovod's estimator, in its own environment."""
    import tensorflow as tf
    from horovod.spark.common.store import Store
    from horovod.spark.keras import KerasEstimator
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "4g")
    frame = builder.config("spark.ui.enabled", "false").getOrCreate().read.parquet(path)
    layers = [tf.keras.layers.Dense(128, activation="relu", input_shape=(WIDTH,)), tf.keras.layers.Dense(1)]

    def fit() -> None:
        with tempfile.TemporaryDirectory() as made:
            KerasEstimator(
                num_proc=WORKERS,
                store=Store.create(made),
                model=tf.keras.Sequential(layers),
                optimizer=tf.keras.optimizers.Adam(1e-3),
                loss="mse",
                feature_cols=["features"],
                label_cols=["label"],
                batch_size=BATCH,
                epochs=EPOCHS,
                verbose=0,
            ).fit(frame)

    second(fit)


def ours(path: str) -> None:
    """A fit of ours."""
    import keras
    from local import local_session

    from spark_dl import KerasRegressor

    frame = local_session().read.parquet(path)
    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(1)])
    options = {"numWorkers": WORKERS, "batchSize": BATCH, "epochs": EPOCHS, "tracking": None, "verbose": 0}
    second(lambda: KerasRegressor(model=model, optimizer="adam", loss="mse", **options).fit(frame))


def start_ours(path: str) -> None:
    """Two ranks of ours that do nothing."""
    from local import local_session

    from spark_dl import HorovodLauncher

    local_session()
    second(lambda: HorovodLauncher(WORKERS).run(int))


def start_peer(path: str) -> None:
    """Two of Horovod's."""
    import horovod.spark
    from local import local_session

    local_session()
    second(lambda: horovod.spark.run(int, num_proc=WORKERS, use_gloo=True, verbose=0))


def joined() -> int:
    """What a rank of `horovod.spark.run` does to join the others."""
    import horovod.tensorflow as hvd

    hvd.init()
    return int(hvd.rank())


def start_peer_joined(path: str) -> None:
    """Two of Horovod's that have joined each other."""
    import horovod.spark
    from local import local_session

    local_session()
    second(lambda: horovod.spark.run(joined, num_proc=WORKERS, use_gloo=True, verbose=0))


def make_rows(path: str) -> None:
    """The rows, in eight files."""
    from local import local_session
    from pyspark.sql import functions as F

    spark = local_session()
    features = F.array(*(F.rand(i).cast("float") for i in range(WIDTH))).alias("features")
    label = F.col("features")[0].alias("label")
    spark.range(0, ROWS, 1, 8).select(features).select("features", label).write.parquet(path)


def main() -> None:
    from compare import HEAD, compare

    print(HEAD)
    here = sys.executable
    with tempfile.TemporaryDirectory() as made:
        path = f"{made}/rows"
        subprocess.run([here, __file__, "make_rows", path], check=True, capture_output=True)

        def speed(python: str, what: str, amount: float) -> Callable[[], float]:
            return lambda: amount / seconds(python, __file__, what, path)

        starts = {
            "ours": speed(here, "start_ours", 60.0),
            "horovod.spark.run with hvd.init()": speed(here, "start_peer_joined", 60.0),
            "horovod.spark.run without": speed(here, "start_peer", 60.0),
        }
        compare("starts of two ranks, a minute", starts, TURNS, warm=False)
        if python := os.environ.get("PEER_PYTHON"):
            fits = {
                "ours": speed(here, "ours", EPOCHS * ROWS),
                "KerasEstimator": speed(python, "peer", EPOCHS * ROWS),
            }
            compare("whole fit, 3 epochs, 2 workers", fits, TURNS, warm=False)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(sys.argv[1:]))
        {f.__name__: f for f in (peer, ours, start_ours, start_peer, start_peer_joined, make_rows)}[sys.argv[1]](
            sys.argv[2]
        )
    else:
        main()
