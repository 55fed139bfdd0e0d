"""Scoring, against others: `PEER_PYTHON=DIR/bin/python python scripts/bench/score_peers.py`.

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

ROWS, PEER_ROWS, WIDTH, TURNS = 600_000, 2_000, 64, 3
SAME = 1e-5


def peer(path: str) -> None:
    """Horovod's Transformer, in its own environment."""
    import tensorflow as tf
    from horovod.spark.common.store import Store
    from horovod.spark.keras import KerasEstimator
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "4g")
    frame = builder.config("spark.ui.enabled", "false").getOrCreate().read.parquet(path).cache()
    hidden = tf.keras.layers.Dense(128, activation="relu", input_shape=(WIDTH,))
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


def main() -> None:
    import keras
    import mlflow
    import numpy as np
    from compare import HEAD, compare
    from local import local_session
    from mlflow.models import infer_signature
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    from spark_dl import KerasClassifier

    spark = local_session()
    features = F.array(*(F.rand(i).cast("float") for i in range(WIDTH))).alias("features")
    frame = spark.range(0, ROWS, 1, 4).select(features, (F.col("id") % 10).cast("int").alias("label")).cache()
    frame.count()
    layers = [keras.layers.Dense(128, "relu"), keras.layers.Dense(10, "softmax")]
    network = keras.Sequential([keras.Input((WIDTH,)), *layers])
    fitted = KerasClassifier(model=network, batchSize=1024, tracking=None, verbose=0).fit(frame)
    fitted.setRawPredictionCol("")

    def timed(scored: DataFrame) -> float:
        began = time.perf_counter()
        scored.write.format("noop").mode("overwrite").save()
        return ROWS / (time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as made:
        mlflow.set_tracking_uri(f"sqlite:///{made}/mlflow.db")
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("scoring", f"file://{made}/artifacts"))
        model = fitted.keras()
        example = np.zeros((1, WIDTH), np.float32)
        with mlflow.start_run():
            signature = infer_signature(example, model.predict(example, verbose=0))
            logged = mlflow.keras.log_model(model, name="model", signature=signature)
        udf = mlflow.pyfunc.spark_udf(spark, logged.model_uri, result_type="array<float>", env_manager="local")

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
    peer(sys.argv[2]) if sys.argv[1:2] == ["peer"] else main()
