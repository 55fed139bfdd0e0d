"""Everything a user does, from a client of Spark Connect: training on two executors, scoring, saving."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import mlflow
import models
import numpy as np
import pyarrow as pa
import pytest
from mlflow_stores import sqlite_store
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit, TrainValidationSplitModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

import spark_dl
from spark_dl import HorovodLauncher, KerasClassifier, KerasClassifierModel, KerasRegressor
from spark_dl._compat.spark import is_connect
from spark_dl.errors import ClusterError, RankError, SavedModelError
from spark_dl.fit.columns import InputFacts
from spark_dl.launch.slots import cores_now
from spark_dl.ml.regressor import KerasRegressorModel
from spark_dl.score.heads import Regression
from spark_dl.spark.job import SparkJob
from spark_dl.train.model.serialization import to_bytes

SCALARS = ["f0", "f1", "f2", "f3"]


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark)


def classifier(**options: Any) -> KerasClassifier:
    options = {"epochs": 8, "numWorkers": 2, "batchSize": 16, "tracking": None, "verbose": 0, **options}
    return KerasClassifier(model=models.classifier(), optimizer=keras.optimizers.Adam(0.05), **options)


@pytest.fixture(scope="module")
def shown() -> list[str]:
    """What the fit of `fitted` said while it ran."""
    return []


@pytest.fixture(scope="module")
def fitted(
    data: DataFrame, shown: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KerasClassifierModel]:
    """Fitted with progress and tracking."""
    with sqlite_store(tmp_path_factory.mktemp("mlflow"), "connect") as experiment:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stderr", Recorder(shown))
            estimator = classifier(tracking="mlflow", experimentName=experiment, verbose=1, metrics=["accuracy"])
            model = estimator.fit(data)
        yield model


class Recorder:
    """Takes the place of a terminal."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def write(self, text: str) -> int:
        self._texts.append(text)
        return len(text)

    def flush(self) -> None:
        return


def column(frame: DataFrame, name: str) -> np.ndarray:
    return np.array([row[name] for row in frame.orderBy("id").select(name).collect()])


@pytest.mark.stack
def test_the_session_is_a_client(spark: SparkSession) -> None:
    assert is_connect(spark)


@pytest.mark.stack
def test_ranks_on_two_executors_learn(fitted: KerasClassifierModel, data: DataFrame) -> None:
    scored = fitted.transform(data)
    assert MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored) > 0.9
    plain = fitted.keras().predict(models.blobs()[0], verbose=0)
    np.testing.assert_allclose(column(scored, "probability"), plain, atol=1e-6)
    np.testing.assert_array_equal(column(scored, "prediction"), plain.argmax(axis=1))


def test_progress_reaches_the_client(fitted: KerasClassifierModel, shown: list[str]) -> None:
    text = "".join(shown)
    assert all(f"Epoch {epoch}/8" in text for epoch in range(1, 9))
    run = mlflow.search_runs(experiment_names=["connect"], output_format="list")[0]
    points = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [point.value for point in points] == pytest.approx(fitted.summary.history["loss"])


def test_evaluate_is_that_of_keras(fitted: KerasClassifierModel, data: DataFrame) -> None:
    features, labels = models.blobs()
    plain = fitted.keras().evaluate(features, labels, verbose=0, return_dict=True)
    assert fitted.evaluate(data) == pytest.approx(plain, abs=1e-5)


@pytest.mark.stack
def test_sql_functions(fitted: KerasClassifierModel, spark: SparkSession, data: DataFrame) -> None:
    fitted.registerUdf(spark, "kind_of")
    found = column(data.withColumn("kind", F.expr("kind_of(features)")), "kind")
    np.testing.assert_array_equal(found, column(fitted.transform(data), "prediction"))


@pytest.mark.stack
def test_parquet_and_a_stream_are_scored_as_a_batch_is(
    fitted: KerasClassifierModel, spark: SparkSession, data: DataFrame, tmp_path: Path
) -> None:
    given, bulk, streamed = (str(tmp_path / name) for name in ("in", "bulk", "streamed"))
    data.select("id", "features").write.parquet(given)
    batch = column(fitted.transform(spark.read.parquet(given)), "prediction")
    assert fitted.scoreParquet(given, bulk) == models.ROWS
    np.testing.assert_array_equal(column(spark.read.parquet(bulk), "prediction"), batch)
    stream = fitted.transform(spark.readStream.schema(spark.read.parquet(given).schema).parquet(given))
    query = (
        stream.writeStream.trigger(availableNow=True).format("parquet").option("checkpointLocation", f"{bulk}-state")
    )
    assert query.start(streamed).awaitTermination(120)
    np.testing.assert_array_equal(column(spark.read.parquet(streamed), "prediction"), batch)


@pytest.mark.stack
def test_models_and_estimators_are_saved_and_loaded(
    fitted: KerasClassifierModel, data: DataFrame, tmp_path: Path
) -> None:
    path = str(tmp_path / "model")
    fitted.save(path)
    with pytest.raises(Exception, match="exists"):
        fitted.save(path)
    fitted.setPredictionCol("kind").write().overwrite().save(path)
    fitted.setPredictionCol("prediction")
    loaded = KerasClassifierModel.load(path)
    np.testing.assert_array_equal(column(loaded.transform(data), "kind"), column(fitted.transform(data), "prediction"))
    classifier(epochs=5).save(str(tmp_path / "estimator"))
    assert KerasClassifier.load(str(tmp_path / "estimator")).getEpochs() == 5
    with pytest.raises(SavedModelError, match="nowhere"):
        KerasClassifierModel.load(str(tmp_path / "nowhere"))


@pytest.mark.stack
def test_pipelines_and_tuning(spark: SparkSession, tmp_path: Path) -> None:
    """Beside stages of Spark's own, whose models live on the server."""
    features, labels = models.blobs()
    rows = [
        (index, *map(float, row), int(label)) for index, (row, label) in enumerate(zip(features, labels, strict=True))
    ]
    frame = spark.createDataFrame(rows, f"id long, {', '.join(f'{name} double' for name in SCALARS)}, label int")
    estimator = classifier(epochs=6, numWorkers=1)
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    split = TrainValidationSplit(
        estimator=Pipeline(stages=[VectorAssembler(inputCols=SCALARS, outputCol="features"), estimator]),
        estimatorParamMaps=ParamGridBuilder().addGrid(estimator.batchSize, [16]).build(),
        evaluator=evaluator,
    )
    tuned = split.fit(frame)
    assert evaluator.evaluate(tuned.transform(frame)) > 0.9
    tuned.write().overwrite().save(str(tmp_path / "tuned"))
    best = TrainValidationSplitModel.load(str(tmp_path / "tuned")).bestModel
    assert isinstance(best, PipelineModel)
    np.testing.assert_array_equal(
        column(best.transform(frame), "prediction"), column(tuned.transform(frame), "prediction")
    )


def test_converted_rows_serve_several_fits(data: DataFrame) -> None:
    estimator = classifier(numWorkers=1, epochs=1)
    with spark_dl.convert(data, estimator) as converted:
        one, other = (estimator.fitOnDataset(converted, {estimator.batchSize: size}) for size in (32, 200))
    assert converted.rows == models.ROWS == one.summary.rows
    assert one.summary.history != other.summary.history


def test_a_model_beyond_what_a_message_holds_is_sent_as_a_file(spark: SparkSession, tmp_path: Path) -> None:
    """gRPC's limit is 128 MB."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(36_000), keras.layers.Dense(1000)])
    model = keras.Sequential([model, keras.layers.Dense(1)])
    content = to_bytes(model)
    assert len(content) > 130 << 20
    large = KerasRegressorModel()._with_content(
        content,
        cloudpickle.dumps({}),
        (InputFacts("", (8,), "float32"),),
        (),
        Regression(),
        StructType(),
        KerasRegressorModel().summary,
    )
    frame = spark.range(3).withColumn("features", F.array_repeat(F.lit(1.0), 8))
    expected = model.predict(np.ones((3, 8), np.float32), verbose=0).ravel()
    np.testing.assert_allclose(column(large.transform(frame), "prediction"), expected, rtol=1e-4)
    large.save(str(tmp_path / "large"))
    assert KerasRegressorModel.load(str(tmp_path / "large"))._content == content


def test_the_launcher_returns_and_raises(spark: SparkSession) -> None:
    assert HorovodLauncher(2).run(lambda number: number + 1, 3) == [4, 4]

    def fail() -> None:
        raise ValueError("no such thing")

    with pytest.raises(RankError, match="no such thing") as caught:
        HorovodLauncher(2).run(fail)
    assert isinstance(caught.value.__cause__, ValueError)


def test_bad_input_is_told_before_any_job(data: DataFrame) -> None:
    with pytest.raises(ClusterError, match="numWorkers=3 is more than the cluster's 2 slots"):
        classifier(numWorkers=3).fit(data)
    estimator = KerasRegressor(model=models.classifier(), tracking=None)
    with pytest.raises(spark_dl.errors.ModelError, match="regressor"):
        estimator.plan(data)


def test_a_job_that_is_left_is_cancelled_and_gives_its_slots_back(spark: SparkSession) -> None:
    def sleep(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        time.sleep(3600)
        yield from batches

    with SparkJob(spark.range(0, 2, 1, 2).mapInArrow(sleep, "id long", barrier=True)) as job:
        assert not job.wait(5)
    with pytest.raises(Exception, match=r"(?i)cancel|interrupt"):
        job.rows()
    assert cores_now(spark) == 2
