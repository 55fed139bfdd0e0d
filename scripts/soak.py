"""Fits without end: does anything grow? `python scripts/soak.py [--fits 50] [--every 5]`.

One Spark application; of each five fits two fail, one on the driver's side of the ranks and one by a rank that is
killed. After some fits it prints what the driver's process and its JVM hold: a growing column is a leak.
"""

import argparse
import os
import signal
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import psutil
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier
from spark_dl.errors import RankError

QUIET = Path(__file__).resolve().parent.parent / "conf" / "log4j2-quiet.properties"


class Fail(keras.callbacks.Callback):
    """Ends the second rank in the second epoch."""

    def __init__(self, by_signal: bool) -> None:
        super().__init__()
        self.by_signal = by_signal

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        import horovod.tensorflow as hvd

        if epoch == 1 and hvd.rank() == 1:
            if self.by_signal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("as the soak wants it")


def fit(data: DataFrame, number: int, directory: str) -> bool:
    """One fit; whether it failed."""
    keras.utils.set_random_seed(number)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    failing = {1: [Fail(by_signal=False)], 3: [Fail(by_signal=True)]}.get(number % 5, [])
    estimator = KerasClassifier(
        model=model,
        callbacks=failing,
        numWorkers=2,
        epochs=3,
        maxRestarts=0,
        cacheDir=directory,
        tracking=None,
        verbose=0,
    )
    try:
        estimator.fit(data).transform(data).count()
    except RankError:
        return True
    return False


def reading(directory: str) -> dict[str, int]:
    """What is held now. Python workers that Spark keeps for the next tasks are processes, too."""
    me = psutil.Process()
    (jvm,) = (child for child in me.children() if child.name() == "java")
    return {
        "processes": len(me.children(recursive=True)),
        "descriptors": me.num_fds(),
        "threads": me.num_threads(),
        "driver MB": me.memory_info().rss >> 20,
        "JVM descriptors": jvm.num_fds(),
        "JVM threads": jvm.num_threads(),
        "JVM MB": jvm.memory_info().rss >> 20,
        "files": sum(len(files) for _, _, files in os.walk(directory)),
    }


def main(fits: int, every: int) -> None:
    """Fit, read, print."""
    with tempfile.TemporaryDirectory(prefix="spark-dl-soak-") as directory:
        os.environ["TMPDIR"] = tempfile.tempdir = directory
        spark = (
            SparkSession.builder.appName("spark_dl soak")
            .master("local-cluster[2,1,1024]")
            .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile=file:{QUIET}")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.ui.enabled", "false")
            .getOrCreate()
        )
        rows = spark.range(300).select((F.col("id") % 3).alias("label"), *(F.rand(i).alias(f"x{i}") for i in range(4)))
        data = rows.select("label", F.array(*(f"x{i}" for i in range(4))).alias("features")).cache()
        failed = 0
        for number in range(fits):
            failed += fit(data, number, directory)
            if number == 4 or (number + 1) % every == 0:
                held = reading(directory)
                if number == 4:
                    print("fits | failed | " + " | ".join(held))
                print(f"{number + 1} | {failed} | " + " | ".join(map(str, held.values())), flush=True)
        spark.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=50)
    parser.add_argument("--every", type=int, default=5)
    given = parser.parse_args()
    main(given.fits, given.every)
