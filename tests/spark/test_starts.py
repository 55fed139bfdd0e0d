"""What a fit's processes import, and which of them stay for the next fit."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import psutil
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasRegressor

# The ranks can't import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

DRIVERS = ("pyspark", "mlflow", "spark_dl.fit", "spark_dl.ml", "spark_dl.track", "spark_dl.diagnosis")


class Loaded(keras.callbacks.Callback):
    """Writes down what this rank has imported by the end of its training."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def on_train_end(self, logs: Any = None) -> None:
        (self.directory / str(os.getpid())).write_text("\n".join(sys.modules))


def regressor(**options: Any) -> KerasRegressor:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    return KerasRegressor(model=model, loss="mse", optimizer="sgd", epochs=1, tracking=None, verbose=0, **options)


def rows(spark: SparkSession) -> DataFrame:
    return spark.range(64).selectExpr("array(id / 64) features", "id / 64 label")


def workers(spark: SparkSession) -> set[int]:
    """The processes of Spark's Python workers: the children of their common parent."""

    def siblings(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        found = [child.pid for child in psutil.Process(os.getppid()).children()]
        yield pa.RecordBatch.from_pydict({"pid": pa.array(found, pa.int64())})

    return {row["pid"] for row in spark.range(0, 2, 1, 2).mapInArrow(siblings, "pid long", barrier=True).collect()}


def test_a_rank_imports_nothing_of_the_drivers(spark: SparkSession, tmp_path: Path) -> None:
    regressor(callbacks=[Loaded(tmp_path)], numWorkers=2).fit(rows(spark))
    told = [set(path.read_text().splitlines()) for path in tmp_path.iterdir()]
    assert len(told) == 2
    for loaded in told:
        assert {"spark_dl.train.entry", "petastorm", "horovod.tensorflow"} <= loaded
        assert [name for name in loaded if name.startswith(DRIVERS)] == []


def test_spark_keeps_its_python_workers_over_fits(spark: SparkSession) -> None:
    data = rows(spark)
    regressor(numWorkers=2).fit(data)
    before = workers(spark)
    assert len(before) >= 2
    regressor(numWorkers=2).fit(data)
    assert before <= workers(spark)


def test_the_daemon_has_tensorflow_for_all_workers(spark: SparkSession) -> None:
    def libraries(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        mapped = Path(f"/proc/{os.getppid()}/maps").read_text().splitlines()
        names = sorted({Path(line.split()[-1]).name for line in mapped})
        yield pa.RecordBatch.from_pydict({"name": pa.array(names)})

    names = [row["name"] for row in spark.range(0, 1, 1, 1).mapInArrow(libraries, "name string").collect()]
    assert [name for name in names if name.startswith("libtensorflow_cc")]


def test_no_task_of_the_daemons_workers_scans_what_is_imported(spark: SparkSession) -> None:
    """Spark collects garbage after each task: 0.4 s for TensorFlow's objects, which never become garbage."""

    def scanned(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        gc.collect()
        counts = pa.array([gc.get_freeze_count(), len(gc.get_objects())], pa.int64())
        yield pa.RecordBatch.from_pydict({"objects": counts})

    frozen, others = (row["objects"] for row in spark.range(0, 1, 1, 1).mapInArrow(scanned, "objects long").collect())
    assert frozen > 20 * others


def test_spark_has_started_with_the_settings_of_conf(spark: SparkSession, cpu_defaults: dict[str, str]) -> None:
    assert cpu_defaults["spark.python.daemon.module"] == "spark_dl.spark.python_daemon"
    assert {name: spark.conf.get(name) for name in cpu_defaults} == cpu_defaults
