"""The first `transform` of a session, and later ones: `python scripts/bench/first_score.py`.

1,000 rows of 64 floats and a dense network, against `predict_batch_udf` with the same network and batch size. Each way
runs in sessions of its own, in turns: as Spark comes, and with `spark_dl.spark.python_daemon` as Spark's Python daemon,
which has imported TensorFlow for its workers. A session's query on the rows comes before; the first call starts the
Python workers.
"""

import json
import statistics
import subprocess
import sys
import time

import keras
import numpy as np
from local import local_session
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl import KerasModel
from spark_dl.train.model.serialization import to_bytes

ROWS, WIDTH, BATCH, LATER, TURNS = 1000, 64, 1024, 9, 5
OURS, DAEMON, PEER = "transform", "transform, with the daemon", "predict_batch_udf"


def by_predict_batch_udf(frame: DataFrame, content: bytes) -> DataFrame:
    def make() -> object:
        from spark_dl.train.model.serialization import from_bytes

        model = from_bytes(content)
        return lambda inputs: model.predict_on_batch(np.asarray(inputs, np.float32))

    udf = predict_batch_udf(make, return_type="array<float>", batch_size=BATCH, input_tensor_shapes=[[WIDTH]])
    return frame.withColumn("prediction", udf("features"))


def here(way: str) -> None:
    """Print the seconds of the first call, and of the median later one, as JSON."""
    spark = local_session(
        "local[2]", {"spark.python.daemon.module": "spark_dl.spark.python_daemon"} if way == DAEMON else {}
    )
    features = F.array(*(F.rand(place).cast("float") for place in range(WIDTH)))
    frame = spark.range(0, ROWS, 1, 2).select(features.alias("features")).cache()
    frame.count()
    network = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
    fitted = KerasModel.fromKeras(network, inputCols=["features"], scoreBatchSize=BATCH)
    content, taken = to_bytes(network), []
    for _ in range(1 + LATER):
        began = time.perf_counter()
        scored = by_predict_batch_udf(frame, content) if way == PEER else fitted.transform(frame)
        scored.write.format("noop").mode("overwrite").save()
        taken.append(time.perf_counter() - began)
    print(json.dumps([taken[0], statistics.median(taken[1:])]))
    spark.stop()


def main() -> None:
    found: dict[str, list[list[float]]] = {way: [] for way in (OURS, DAEMON, PEER)}
    for _ in range(TURNS):
        for way, turns in found.items():
            ran = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=True)
            turns.append(json.loads(ran.stdout.splitlines()[-1]))
    first, later = (
        {way: statistics.median(turn[part] for turn in turns) for way, turns in found.items()} for part in (0, 1)
    )
    print("| 1,000 rows | first call, s | times the peer's speed | later calls, s | times the peer's speed |")
    print("|---|---|---|---|---|")
    for way in found:
        print(
            f"| {way} | {first[way]:.2f} | {first[PEER] / first[way]:.2f} | {later[way]:.3f} "
            f"| {later[PEER] / later[way]:.2f} |"
        )


if __name__ == "__main__":
    here(sys.argv[1]) if len(sys.argv) > 1 else main()
