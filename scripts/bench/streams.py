"""Learning from the stream ELEC2 by micro-batches of 1,000 rows, against models that never learn or start from scratch.

    python scripts/bench/streams.py DIR     # a directory with elec.csv

Each model predicts a window before it is trained on it, or on the one before it. The first window isn't counted.
"""

import argparse
import itertools
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import mlflow
import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from spark_dl import KerasClassifier
from spark_dl.streaming import Adwin, ReplayBuffer, StreamTrainer

COLUMNS = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
ROWS, EPOCHS, EPOCHS_ANEW = 1_000, 5, 20


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(32, "relu"), keras.layers.Dense(1, "sigmoid")]
    made = keras.Sequential([keras.Input((len(COLUMNS),)), *layers])
    made.compile(keras.optimizers.Adam(0.003), "binary_crossentropy", metrics=["accuracy"])
    return made


def in_keras(windows: list[pd.DataFrame], from_scratch: bool) -> list[dict[str, float]]:
    """Metrics of a model that is trained on the first window only, or from scratch on each one."""
    found: list[dict[str, float]] = []
    model = network()
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    fresh = [np.asarray(variable) for variable in variables]
    for before, window in itertools.pairwise(windows):
        if from_scratch or not found:
            for variable, value in zip(variables, fresh, strict=True):
                variable.assign(value)
            model.fit(before[COLUMNS].to_numpy(), before["class"].to_numpy(), epochs=EPOCHS_ANEW, verbose=0)
        found.append(
            model.evaluate(window[COLUMNS].to_numpy(), window["class"].to_numpy(), verbose=0, return_dict=True)
        )
    return found


def in_stream(spark: SparkSession, files: str, windows: int, name: str, **options: object) -> list[dict[str, float]]:
    """Prequential metrics of a StreamTrainer, from its MLflow run."""
    with tempfile.TemporaryDirectory() as directory:
        stream = spark.readStream.schema(spark.read.parquet(files).schema).option("maxFilesPerTrigger", 1)
        estimator = KerasClassifier(
            model=network(), inputCols=COLUMNS, labelCol="class", epochs=EPOCHS, runName=name, verbose=0
        )
        trainer = StreamTrainer(estimator, f"{directory}/state", **options)
        query = trainer.start(stream.parquet(files), f"{directory}/checkpoint", trigger={"availableNow": True})
        query.awaitTermination()
        trainer.close()
    (run,) = mlflow.search_runs(filter_string=f"run_name = '{name}'", output_format="list")
    client, names = mlflow.MlflowClient(), ("accuracy", "loss", "seconds", "drift")
    points = {one: {p.step: p.value for p in client.get_metric_history(run.info.run_id, one)} for one in names}
    return [{one: points[one][step] for one in names} for step in range(1, windows)]


def line(name: str, found: list[dict[str, float]]) -> None:
    accuracy, loss = (statistics.fmean(one[key] for one in found) for key in ("accuracy", "loss"))
    timed = [one["seconds"] for one in found if "seconds" in one]
    seconds = f"{statistics.median(timed):.2f} s (slowest {max(timed):.2f})" if timed else ""
    drifts = f"{sum(one['drift'] for one in found):.0f}" if timed else ""
    print(f"| {name} | {accuracy:.1%} | {loss:.3f} | {seconds} | {drifts} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    table = pd.read_csv(parser.parse_args().directory / "elec.csv")
    windows = [table[start : start + ROWS] for start in range(0, len(table) - ROWS + 1, ROWS)]
    spark = SparkSession.builder.master("local[2]").config("spark.ui.showConsoleProgress", "false").getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    with tempfile.TemporaryDirectory() as work:
        mlflow.set_tracking_uri(f"sqlite:///{work}/mlflow.db")
        mlflow.set_experiment("streams")
        for index, window in enumerate(windows):
            file = Path(work, "windows", f"{index:03d}.parquet")
            file.parent.mkdir(exist_ok=True)
            window.to_parquet(file, index=False)
            os.utime(file, (1e9 + index, 1e9 + index))  # the stream reads files by their age
        files = f"{work}/windows"
        print("| model | accuracy | loss | seconds per batch | drifts |\n|---|---|---|---|---|")
        majority = np.mean([max(w["class"].mean(), 1 - w["class"].mean()) for w in windows[1:]])
        print(f"| the more frequent class of each window | {majority:.1%} | | | |")
        line("never learns: trained on the first window", in_keras(windows, from_scratch=False))
        line("trained from scratch on each window", in_keras(windows, from_scratch=True))
        line("StreamTrainer, no buffer", in_stream(spark, files, len(windows), "none", buffer=None))
        line("StreamTrainer, buffer of 10,000", in_stream(spark, files, len(windows), "large"))
        small = ReplayBuffer(rows=2_000)
        line("StreamTrainer, buffer of 2,000", in_stream(spark, files, len(windows), "small", buffer=small))
        line(
            "StreamTrainer, buffer of 10,000, drift detection",
            in_stream(spark, files, len(windows), "drift", drift=Adwin()),
        )
    spark.stop()


if __name__ == "__main__":
    main()
