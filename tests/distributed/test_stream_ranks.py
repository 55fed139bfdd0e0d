"""Ranks of a stream's large batches: they wait for the next one, come back after a kill, and end with the query."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import psutil
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier
from spark_dl.streaming import StreamTrainer

SCHEMA = "features array<float>, label double"
BATCHES = 3


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=120, partitions=2).select("features", "label").cache()


def estimator() -> KerasClassifier:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([models.classifier(), keras.layers.Dropout(0.2)])
    settings: dict[str, Any] = {"optimizer": keras.optimizers.Adam(0.02), "numWorkers": 2, "batchSize": 16}
    return KerasClassifier(model=model, tracking=None, verbose=0, **settings)


def ranks() -> set[int]:
    """The ranks' processes of this test's Spark application."""
    own = {one.pid for one in psutil.Process(os.getpid()).children(recursive=True)}
    found = set()
    for one in psutil.process_iter(["name", "ppid"]):
        with contextlib.suppress(psutil.Error):
            if one.info["name"] == "spark-dl-rank":
                command = psutil.Process(one.info["ppid"]).cmdline()
                executor = int(command[command.index("spark_dl.launch.fork_server") + 2])
                found |= {one.pid} if executor in own else set()
    return found


def gone(pids: set[int]) -> bool:
    end = time.monotonic() + 30
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(psutil.pid_exists, pids))


def weights(trainer: StreamTrainer) -> list[np.ndarray]:
    return [np.asarray(one) for one in trainer.model().keras().get_weights()]


def test_ranks_that_wait_train_to_the_bits_of_new_ones_and_come_back(data: DataFrame, tmp_path: Path) -> None:
    found, running = {}, []
    for seconds in (0, 60.0):
        # Without a buffer, whose rows depend on the order in which Spark's `limit` finds them.
        settings: dict[str, Any] = {"buffer": None, "driverRows": 50, "rankIdleTimeout": seconds}
        trainer = StreamTrainer(estimator(), f"{tmp_path}/{seconds}", **settings)
        for batch in range(BATCHES):
            trainer(data, batch)
            waiting = ranks()
            running.append(waiting)
            if seconds and batch == BATCHES - 2:
                psutil.Process(min(waiting)).kill()
                assert gone({min(waiting)})
        found[seconds] = weights(trainer)
        trainer.close()
        assert gone(running[-1])
    assert all(np.array_equal(*pair) for pair in zip(*found.values(), strict=True))
    assert running[:BATCHES] == [set()] * BATCHES
    first, second, last = running[BATCHES:]
    assert len(first) == 2
    assert first == second
    assert len(last) == 2
    assert len(last & first) == 1


def test_ranks_end_with_their_query(spark: SparkSession, data: DataFrame, tmp_path: Path) -> None:
    data.write.parquet(f"{tmp_path}/arriving")
    stream = spark.readStream.schema(SCHEMA).parquet(f"{tmp_path}/arriving")
    for started in ("start", "foreachBatch"):
        trainer = StreamTrainer(estimator(), f"{tmp_path}/{started}", driverRows=50, rankIdleTimeout=600.0)
        checkpoint = f"{tmp_path}/checkpoint-{started}"
        if started == "start":
            query = trainer.start(stream, checkpoint)
        else:
            query = stream.writeStream.foreachBatch(trainer).option("checkpointLocation", checkpoint).start()
        query.processAllAvailable()
        waiting = ranks()
        assert len(waiting) == 2
        query.stop()
        assert gone(waiting)
