"""The first `transform` of a session, and later ones: `python scripts/bench/first_score.py`.

1,000 rows of 64 floats in a Vector column and a dense network, against `predict_batch_udf` with the same network. Each
way runs in separate sessions, alternating: with Spark's defaults, and with `spark_dl.spark.python_daemon` as its Python
daemon, which has imported TensorFlow for its workers. A query on the rows comes before; the first call starts the
Python workers.
"""

import json
import statistics
import subprocess
import sys
import time

from dense_scoring import by_predict_batch_udf, dense_network, feature_array, run_without_writing
from local import local_session
from pyspark.ml.functions import array_to_vector

from spark_dl import KerasModel
from spark_dl.train.model.serialization import to_bytes

ROWS, LATER, TURNS = 1000, 9, 5
OURS, DAEMON, PEER = "transform", "transform, with the daemon", "predict_batch_udf"


def here(way: str) -> None:
    """Print the seconds of the first call, and of the median later one, as JSON."""
    spark = local_session(
        "local[2]", {"spark.python.daemon.module": "spark_dl.spark.python_daemon"} if way == DAEMON else {}
    )
    frame = spark.range(0, ROWS, 1, 2).select(array_to_vector(feature_array()).alias("features")).cache()
    frame.count()
    network = dense_network()
    fitted, content, taken = KerasModel.fromKeras(network, inputCols=["features"]), to_bytes(network), []
    for _ in range(1 + LATER):
        began = time.perf_counter()
        run_without_writing(by_predict_batch_udf(frame, content) if way == PEER else fitted.transform(frame))
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
    print("| 1,000 rows | first call, s | speedup | later calls, s | speedup |")
    print("|---|---|---|---|---|")
    for way in found:
        print(
            f"| {way} | {first[way]:.2f} | {first[PEER] / first[way]:.2f} | {later[way]:.3f} "
            f"| {later[PEER] / later[way]:.2f} |"
        )


if __name__ == "__main__":
    here(sys.argv[1]) if len(sys.argv) > 1 else main()
