"""What a batch of a stream costs, small and large: `python scripts/bench/stream_batches.py [MASTER]`.

A dense network of 16-32-10 and 1 epoch a batch, without tracking; batches of 1,000 rows are trained on the driver,
those of 50,000 rows by fits on 2 ranks. Medians over the batches after the first two, in seconds; the steps of the
large ones come from the package's log.
"""

import logging
import statistics
import sys
import tempfile
import time
from itertools import pairwise

import keras
from local import local_session
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier
from spark_dl.streaming import StreamTrainer

WIDTH, COLD, WARM = 16, 2, 5

# Each step ends with a line of the log that begins so; the last one with the end of the batch.
STEPS = {
    "read and test the rows, check the fit": "Checked",
    "preflight": "Preflight",
    "convert": "Converted",
    "launch: slots, fork, Horovod": "All ranks have started Horovod",
    "load the model, trace, train": "Epoch",
    "result, end of the job, commit": "",
}


class Records(logging.Handler):
    """The time of each line of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), time.monotonic()))


def timed(rows: int, trainer: StreamTrainer, records: Records, spark: SparkSession) -> list[list[float]]:
    """Seconds of each step of each warm batch."""
    features = F.array(*(F.rand(i).cast("float") for i in range(WIDTH))).alias("features")
    frame = spark.range(0, rows, 1, 2).select(features, (F.col("id") % 10).cast("int").alias("label")).cache()
    frame.count()
    found = []
    for batch in range(COLD + WARM):
        records.found.clear()
        began = time.monotonic()
        trainer(frame, batch)
        ended = time.monotonic()
        marks = {mark: at for text, at in records.found for mark in STEPS.values() if mark and mark in text}
        ends = [began, *(marks[mark] for mark in STEPS.values() if mark in marks), ended]
        found.append([after - before for before, after in pairwise(ends)])
    return found[COLD:]


def main() -> None:
    spark = local_session(sys.argv[1] if len(sys.argv) > 1 else "local[2]")
    records, logger = Records(), logging.getLogger("spark_dl")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(records)
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(10, "softmax")]
    network = keras.Sequential([keras.Input((WIDTH,)), *layers])
    classifier = KerasClassifier(model=network, batchSize=128, numWorkers=2, tracking=None, verbose=0)
    print("| batch | seconds |\n|---|---|")
    for rows in (1_000, 50_000):
        with tempfile.TemporaryDirectory() as directory:
            steps = timed(rows, StreamTrainer(classifier, directory), records, spark)
        print(f"| {rows:,} rows | {statistics.median(map(sum, steps)):.2f} |", flush=True)
    print("\n| step of 50,000 rows | seconds |\n|---|---|")
    for name, seconds in zip(STEPS, zip(*steps, strict=True), strict=True):
        print(f"| {name} | {statistics.median(seconds):.2f} |")
    spark.stop()


if __name__ == "__main__":
    main()
