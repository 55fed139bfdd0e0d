"""Training on streams: real queries with checkpoints, a real registry, replayed batches, a new class."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import models
import numpy as np
import pytest
from mlflow_stores import sqlite_store
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import spark_dl.mlflow
from spark_dl import KerasClassifier
from spark_dl.errors import DataError, ModelError
from spark_dl.streaming import Champion, ReplayBuffer, StreamTrainer

SCHEMA = "features array<float>, label double"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sqlite_store(tmp_path_factory.mktemp("mlflow"), "streams") as experiment:
        yield experiment


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=120, partitions=1).select("features", "label").cache()


def classifier(**options: Any) -> KerasClassifier:
    settings = {"model": models.classifier(), "optimizer": keras.optimizers.Adam(0.02), "tracking": None, "verbose": 0}
    return KerasClassifier(**{**settings, **options})


def weights(trainer: StreamTrainer) -> list[np.ndarray]:
    return [np.asarray(one) for one in trainer.model().keras().get_weights()]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_a_query_learns_logs_each_batch_once_and_promotes_champions(
    spark: SparkSession, data: DataFrame, store: str, tmp_path: Path
) -> None:
    files, client = f"{tmp_path}/arriving", mlflow.MlflowClient()
    data.write.mode("append").parquet(files)
    data.write.mode("append").parquet(files)
    estimator = classifier(tracking="mlflow", experimentName=store, runName="the stream", epochs=3)

    def run() -> StreamTrainer:
        trainer = StreamTrainer(estimator, f"{tmp_path}/state", champion=Champion("blobs", window=2))
        stream = spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1).parquet(files)
        query = trainer.start(stream, f"{tmp_path}/checkpoint", trigger={"availableNow": True})
        query.awaitTermination()
        return trainer

    run()  # its driver ends without close
    champion = spark_dl.mlflow.follow("models:/blobs@champion")
    first = champion()
    data.write.mode("append").parquet(files)
    trainer = run()
    (logged,) = mlflow.search_runs(
        experiment_names=[store], filter_string="run_name = 'the stream'", output_format="list"
    )
    history = {name: client.get_metric_history(logged.info.run_id, name) for name in ("loss", "champion_loss", "rows")}
    assert [point.step for point in history["loss"]] == [0, 1, 2]
    assert [point.value for point in history["rows"]] == [120.0] * 3
    losses = [point.value for point in history["loss"]]
    assert losses[0] > losses[1] > losses[2]
    assert champion() is not first  # a scoring stream takes up the new version
    assert champion().evaluate(data)["loss"] == pytest.approx(trainer.model().evaluate(data)["loss"], rel=1e-5)
    assert losses[2] < history["champion_loss"][-1].value
    assert len(client.search_model_versions("name='blobs'")) == 2
    trainer.close()
    assert client.get_run(logged.info.run_id).info.status == "FINISHED"
    with pytest.raises(DataError, match=r"columns of the stream have changed.*'label' was double and is int"):
        StreamTrainer(estimator, f"{tmp_path}/state").start(
            spark.readStream.schema("features array<float>, label int").parquet(files), f"{tmp_path}/other"
        )
    with pytest.raises(DataError, match="not a stream"):
        trainer.start(data, f"{tmp_path}/other")


def test_no_batch_is_trained_twice_and_a_crash_before_the_commit_loses_nothing(data: DataFrame, tmp_path: Path) -> None:
    def trainer(state: str) -> StreamTrainer:
        model = keras.Sequential([models.classifier(), keras.layers.Dropout(0.1)])
        return StreamTrainer(classifier(model=model), f"{tmp_path}/{state}", buffer=ReplayBuffer(rows=50))

    one = trainer("state")
    one(data, 0)
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    one(data.where("label < 2"), 1)
    after = weights(one)
    one(data, 1)
    restarted = trainer("state")
    restarted(data, 0)
    restarted(data, 1)
    assert same(weights(restarted), after)
    assert same(weights(one), after)
    again = trainer("crashed")  # trained, and not committed: the same rows give the same weights
    again(data.where("label < 2"), 1)
    assert same(weights(again), after)
    bad = data.withColumn("label", F.lit(7.0))
    with pytest.raises(DataError, match=r"(?s)7.*A class that has appeared later: restart"):
        again(bad, 2)
    again(data, 2)
    restarted(data, 2)
    assert same(weights(again), weights(restarted))


def test_a_model_with_more_classes_goes_on(data: DataFrame, tmp_path: Path) -> None:
    two = data.where("label < 2")
    trainer = StreamTrainer(classifier(model=models.classifier(classes=2), epochs=3), str(tmp_path / "state"))
    trainer(two, 0)
    old = trainer.model().evaluate(two)["accuracy"]
    kernel = weights(trainer)[2]
    grown = StreamTrainer(classifier(epochs=5), str(tmp_path / "state"))
    grown(data.limit(0), 1)
    grown(data, 1)
    assert weights(grown)[2].shape == (8, 3)
    assert np.abs(weights(grown)[2][:, :2] - kernel).max() < 1.0
    assert grown.model().evaluate(data)["accuracy"] > 0.8 * old
    with pytest.raises(ModelError, match="isn't the one whose training"):
        StreamTrainer(classifier(model=models.classifier(classes=2)), str(tmp_path / "state"))(data, 2)
    other = models.classifier()
    other.layers[0].activation = keras.activations.tanh
    with pytest.warns(RuntimeWarning, match='continues with its own model.*activation="tanh" in place of "relu"'):
        StreamTrainer(classifier(model=other), str(tmp_path / "state"))(data.limit(0), 2)


def test_a_large_batch_is_trained_by_a_fit_and_a_fitted_model_goes_on(data: DataFrame, tmp_path: Path) -> None:
    trainer = StreamTrainer(classifier(epochs=2, nullPolicy="drop"), str(tmp_path / "state"), driverRows=60)
    trainer(data.limit(50), 0)
    before = trainer.model().evaluate(data)["loss"]
    dropped = data.limit(3).withColumn("label", F.lit(None).cast("double"))  # doesn't make the batch a small one
    trainer(dropped.union(data).coalesce(1), 1)
    fitted = trainer.model()
    assert fitted.evaluate(data)["loss"] < before
    iterations = int(fitted.keras().optimizer.iterations)
    assert iterations == 2 * 2 + 2 * 6  # 50 rows, then 120 and as many as 60 of the buffer, in batches of 32
    further = StreamTrainer(fitted, str(tmp_path / "further"), buffer=None)
    further(data, 0)
    assert int(further.model().keras().optimizer.iterations) == iterations + 4


def test_large_batches_are_shuffled_by_their_number(data: DataFrame, tmp_path: Path) -> None:
    estimator, found = classifier(batchSize=16), []
    for number in (0, 0, 7):
        state = f"{tmp_path}/{len(found)}"
        trainer = StreamTrainer(estimator, state, buffer=None, driverRows=60, rankIdleTimeout=0)
        trainer(data, number)
        found.append(weights(trainer))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
