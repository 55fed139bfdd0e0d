"""Scoring, against others: `PEER_PYTHON=DIR/bin/python python scripts/bench/score_peers.py [ROWS]`.

Rows of 64 floats in an array column, a dense network 64-128-10, on local[2]; every row is computed and none is written
(the "noop" sink). `transform` of 600,000 rows, against `mlflow.pyfunc.spark_udf` over the same model and rows, logged
by `mlflow.keras` with its signature; that both predict the same is checked before. And against the KerasModel of
horovod.spark.keras with a network 64-128-1, in an environment of its own (`peer.sh` builds it), over 2,000 rows, the
second call; it is left out without PEER_PYTHON.
"""

import os
import sys
import tempfile
import time

from apart import second, seconds

ROWS, PEER_ROWS, TURNS = 600_000, 2_000, 3
SAME = 1e-5


def peer(path: str) -> None:
    """Horovod's Transformer, in its own environment."""
    import tensorflow as tf
    from horovod.spark.common.store import Store
    from horovod.spark.keras import KerasEstimator
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "4g")
    frame = builder.config("spark.ui.enabled", "false").getOrCreate().read.parquet(path).cache()
    hidden = tf.keras.layers.Dense(128, activation="relu", input_shape=(len(frame.head(1)[0].features),))
    with tempfile.TemporaryDirectory() as made:
        model = KerasEstimator(
            num_proc=1,
            store=Store.create(made),
            model=tf.keras.Sequential([hidden, tf.keras.layers.Dense(1)]),
            optimizer=tf.keras.optimizers.Adam(1e-3),
            loss="mse",
            feature_cols=["features"],
            label_cols=["label"],
            batch_size=1024,
            epochs=1,
            verbose=0,
        ).fit(frame)
        second(lambda: model.transform(frame).write.format("noop").mode("overwrite").save())


def main(rows: int) -> None:
    import numpy as np
    from compare import HEAD, compare
    from dense_scoring import dense_network, feature_array, log_mlflow_udf, run_without_writing
    from local import local_session
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    from spark_dl import KerasClassifier

    spark = local_session()
    features, label = feature_array().alias("features"), (F.col("id") % 10).cast("int").alias("label")
    frame = spark.range(0, rows, 1, 4).select(features, label).cache()
    frame.count()
    fitted = KerasClassifier(model=dense_network(), batchSize=1024, tracking=None, verbose=0).fit(frame)
    fitted.setRawPredictionCol("")

    def timed(scored: DataFrame) -> float:
        began = time.perf_counter()
        run_without_writing(scored)
        return rows / (time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as made:
        udf = log_mlflow_udf(spark, fitted.keras(), made)
        some = frame.limit(1000)
        both = fitted.transform(some).withColumn("theirs", udf("features")).collect()
        apart = max(abs(row.probability.toArray() - np.array(row.theirs)).max() for row in both)
        if apart > SAME:
            raise SystemExit(f"The two don't predict the same: {apart}")

        print(HEAD)
        ways = {
            "ours": lambda: timed(fitted.transform(frame)),
            "mlflow.pyfunc.spark_udf": lambda: timed(frame.withColumn("probability", udf("features"))),
        }
        compare("transform, an array column", ways, TURNS)
        if python := os.environ.get("PEER_PYTHON"):
            few = frame.limit(PEER_ROWS).repartition(2)
            few.withColumn("label", F.col("features")[0]).write.parquet(f"{made}/rows")
            ways = {
                "ours": lambda: timed(fitted.transform(frame)),
                "Horovod's KerasModel": lambda: PEER_ROWS / seconds(python, __file__, "peer", f"{made}/rows"),
            }
            compare("transform, an array column", ways, TURNS, warm=False)
    spark.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        peer(sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
