"""MLflow for real: a sqlite store, and what a fit leaves in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import models
import numpy as np
import pytest
from mlflow.entities import Run
from mlflow_stores import sqlite_store
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier, KerasClassifierModel, KerasRegressor
from spark_dl.errors import RankError
from spark_dl.spark.row_source import RowSource


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sqlite_store(tmp_path_factory.mktemp("mlflow"), "trials") as experiment:
        yield experiment


def fit(data: DataFrame, **options: Any) -> Any:
    options = {"metrics": ["accuracy"], "epochs": 2, "verbose": 0, "validationCol": "held", **options}
    return KerasClassifier(model=models.classifier(), **options).fit(data)


def newest(experiment: str) -> Run:
    return mlflow.search_runs(experiment_names=[experiment], output_format="list", max_results=1)[0]


@pytest.fixture(scope="module")
def run(data: DataFrame, store: str) -> tuple[Any, Run]:
    """A fitted model and its run."""
    fitted = fit(data, experimentName=store, runName="first", batchSize=16)
    return fitted, newest(store)


@pytest.mark.stack
def test_a_fit_is_one_finished_run_with_its_params(run: tuple[Any, Run]) -> None:
    fitted, logged = run
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", "first")
    assert logged.data.params.items() >= {"batchSize": "16", "epochs": "2", "metrics": "accuracy"}.items()
    assert "numWorkers" not in logged.data.params  # a default
    options = mlflow.artifacts.load_text(f"{logged.info.artifact_uri}/options.txt").splitlines()
    assert {"batchSize: 16", "numWorkers: 1"} <= set(options)
    assert "| val_accuracy |" in logged.data.tags["mlflow.note.content"]
    assert logged.data.tags["spark_dl.uid"] == fitted.uid
    assert logged.data.tags["spark_dl.master"] == "local[2]"
    plan = mlflow.artifacts.load_text(f"{logged.info.artifact_uri}/columns.txt")
    assert [line.split()[0] for line in plan.splitlines()[2:]] == ["features", "label", "held", "output"]
    assert mlflow.active_run() is None


@pytest.mark.stack
def test_each_epochs_metrics_are_there(run: tuple[Any, Run]) -> None:
    fitted, logged = run
    assert fitted.summary.run_id == logged.info.run_id
    client = mlflow.MlflowClient()
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        points = client.get_metric_history(logged.info.run_id, name)
        assert [point.step for point in points] == [0, 1]
        np.testing.assert_allclose([point.value for point in points], fitted.summary.history[name])
    speeds = {name: logged.data.metrics[name] for name in ("rows_per_second", "step_ms", "input_wait")}
    assert speeds["rows_per_second"] > 0
    assert speeds["step_ms"] > 0
    assert 0 <= speeds["input_wait"] <= 1
    # One worker joins its gradients with nobody's.
    assert logged.data.metrics["bytes_reduced"] == logged.data.metrics["collective_wait"] == 0


def test_values_of_each_threshold_are_metrics_of_their_own(
    data: DataFrame, store: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    at = keras.metrics.Precision(thresholds=[0.2, 0.6], name="at")
    estimator = KerasClassifier(model=model, metrics=[at], epochs=2, verbose=2, validationCol="held")
    binary = data.withColumn("label", (data.label > 0).cast("double"))
    fitted = estimator.setExperimentName(store).fit(binary)
    assert "at=[" in capsys.readouterr().err
    history = fitted.summary.history["at"]
    assert [len(values) for values in history] == [2, 2]
    client, logged = mlflow.MlflowClient(), newest(store)
    for index in (0, 1):
        points = client.get_metric_history(logged.info.run_id, f"at_{index}")
        np.testing.assert_allclose([point.value for point in points], [values[index] for values in history])
    assert {"val_at_0", "val_at_1"} <= logged.data.metrics.keys()
    assert fitted.plotHistory() is not None
    fitted.write().save(str(tmp_path / "model"))
    assert KerasClassifierModel.load(str(tmp_path / "model")).summary.history == fitted.summary.history


@pytest.mark.stack
def test_the_rows_are_datasets_with_source_schema_and_digest(data: DataFrame, store: str, tmp_path: Path) -> None:
    data.write.parquet(f"{tmp_path}/prices")
    frame = data.sparkSession.read.parquet(f"{tmp_path}/prices")
    digests = []
    for rows in (frame, frame.orderBy("note"), frame.withColumn("label", 2 - frame["label"])):
        fit(rows, experimentName=store)
        inputs = {one.tags[0].value: one.dataset for one in newest(store).inputs.dataset_inputs}
        assert inputs.keys() == {"training", "validation"}
        assert [json.loads(inputs[part].profile) for part in inputs] == [{"num_rows": 48}, {"num_rows": 12}]
        digests.append(inputs["training"].digest)
    assert digests[0] == digests[1] != digests[2]
    assert inputs["training"].name == "prices"
    assert mlflow.data.get_source(inputs["training"]).to_dict()["path"] == f"file://{tmp_path}/prices"
    columns = json.loads(inputs["training"].schema)["mlflow_colspec"]
    assert [(one["name"], one["type"]) for one in columns] == [
        ("features", "array"),
        ("label", "double"),
        ("held", "boolean"),
    ]


@pytest.mark.stack
def test_a_table_is_the_dataset_by_its_name_and_a_delta_table_with_its_version(
    spark: SparkSession, store: str, tmp_path: Path
) -> None:
    # Without Delta's jar, Spark reads the files that the third version of the table consists of, and no others.
    table = Path(shutil.copytree(Path(__file__).parents[1] / "unit" / "delta_table", tmp_path / "table"))
    (newer,) = table.glob("part=*/part-00000-0a80*")
    newer.unlink()
    spark.sql(f"CREATE TABLE prices USING parquet LOCATION '{table}'")
    try:
        spark.sql("MSCK REPAIR TABLE prices")
        rows = spark.table("prices").alias("p").where("label > 0")
        kept = spark.range(3).selectExpr("id + 7 AS seven").cache()
        RowSource.of(kept)
        assert kept.storageLevel.useMemory  # as the temporary view that the plan is read by is dropped
        kept.unpersist()
        assert RowSource.of(rows.crossJoin(spark.range(2).alias("q"))).tables == ("spark_catalog.default.prices",)
        KerasRegressor(model=models.regressor(1), loss="mse", verbose=0, experimentName=store).fit(rows)
    finally:
        spark.sql("DROP TABLE prices")
    (logged,) = [one.dataset for one in newest(store).inputs.dataset_inputs]
    assert (logged.name, logged.source_type) == ("spark_catalog.default.prices", "delta_table")
    assert mlflow.data.get_source(logged).to_dict() == {"path": str(table), "delta_table_version": 2}


@pytest.mark.stack
def test_the_curves_and_the_model_are_there(run: tuple[Any, Run], tmp_path: Path) -> None:
    fitted, logged = run
    picture = mlflow.artifacts.download_artifacts(run_id=logged.info.run_id, artifact_path="history.png")
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    (model,) = mlflow.search_logged_models(
        experiment_ids=[logged.info.experiment_id],
        filter_string=f"source_run_id = '{logged.info.run_id}'",
        output_format="list",
    )
    features = models.blobs(60)[0]
    loaded = mlflow.keras.load_model(model.model_uri)
    np.testing.assert_allclose(
        loaded.predict(features, verbose=0), fitted.keras().predict(features, verbose=0), atol=1e-6
    )


def test_a_profile_is_an_artifact_that_tensorboard_opens(data: DataFrame, store: str, tmp_path: Path) -> None:
    mlflow.set_experiment(store)
    with mlflow.start_run() as run:
        fit(data, epochs=1, profile=True)
    path = "profile/plugins/profile/fit/rank0.xplane.pb"
    trace = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, dst_path=str(tmp_path))
    assert b"MatMul" in Path(trace).read_bytes()


def test_an_active_run_is_joined_and_left_open_and_a_second_fit_has_a_run_below_it(
    data: DataFrame, store: str, capfd: pytest.CaptureFixture[str]
) -> None:
    mlflow.set_experiment(store)
    recall = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="recall@2")
    with mlflow.start_run(run_name="mine") as mine:
        first = fit(data, epochs=1)
        second = fit(data, epochs=2, metrics=[recall], verbose=2)
        assert mlflow.active_run().info.run_id == mine.info.run_id
    logged, client = mlflow.get_run(mine.info.run_id), mlflow.MlflowClient()
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", "mine")
    (below,) = client.search_runs([logged.info.experiment_id], f"tags.`mlflow.parentRunId` = '{logged.info.run_id}'")
    assert f"holds another fit: this one's run is {below.info.run_id}" in capfd.readouterr().err
    for run, fitted, epochs in ((logged, first, "1"), (below, second, "2")):
        points = client.get_metric_history(run.info.run_id, "loss")
        np.testing.assert_allclose([point.value for point in points], fitted.summary.history["loss"])
        assert {value for name, value in run.data.params.items() if name.endswith("epochs")} == {epochs}
    assert below.info.status == "FINISHED"
    # A name that MLflow doesn't accept costs no metric.
    assert below.data.metrics["val_recall_2"] == pytest.approx(second.summary.history["val_recall@2"][-1])
    assert json.loads(below.data.tags["spark_dl.metric_names"])["recall@2"] == "recall_2"
    assert second.summary.unlogged == []


def test_a_fit_that_goes_on_does_so_in_its_active_run(data: DataFrame, store: str, tmp_path: Path) -> None:
    class Fails(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise ZeroDivisionError("boom")

    options: dict[str, Any] = {"epochs": 3, "checkpointDir": str(tmp_path / "checkpoints")}
    with pytest.raises(RankError), mlflow.start_run() as run:
        fit(data, callbacks=[Fails()], **options)
    with mlflow.start_run(run_id=run.info.run_id):
        fitted = fit(data, **options)
    points = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in points] == [0, 1, 2]
    np.testing.assert_allclose([point.value for point in points], fitted.summary.history["loss"])
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"


def test_weights_that_are_not_finite_are_said_and_noted(data: DataFrame, store: str) -> None:
    model = models.classifier()
    model.compile(keras.optimizers.SGD(1e30), "sparse_categorical_crossentropy")
    with pytest.warns(RuntimeWarning, match=r"weights aren't finite: \S+ has values"):
        fitted = KerasClassifier(model=model, epochs=2, verbose=0, experimentName=store).fit(data)
    assert fitted.summary.non_finite in [variable.path for variable in fitted.keras().weights]
    logged = newest(store)
    events = mlflow.artifacts.load_text(f"{logged.info.artifact_uri}/events.txt")
    assert f"weights aren't finite: {fitted.summary.non_finite}" in events


def test_a_store_that_fails_while_training_costs_no_model(data: DataFrame, store: str, tmp_path: Path) -> None:
    experiment = mlflow.create_experiment("no room", artifact_location=f"file://{tmp_path}/file/below")
    (tmp_path / "file").write_text("in the way of the artifacts")
    with pytest.warns(RuntimeWarning, match="Not logged"):
        fitted = fit(data, experimentName="no room")
    assert fitted.transform(data).where("prediction >= 0").count() == 60
    logged = mlflow.search_runs(experiment_ids=[experiment], output_format="list")[0]
    assert "loss" in logged.data.metrics
    assert mlflow.active_run() is None


def test_a_failed_fit_ends_its_run_as_failed_with_the_cause(data: DataFrame, store: str) -> None:
    class Boom(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise ZeroDivisionError("boom")

    with pytest.raises(RankError):
        fit(data, experimentName=store, runName="bad", callbacks=[Boom()])
    logged = newest(store)
    assert (logged.info.status, logged.info.run_name) == ("FAILED", "bad")
    assert "ZeroDivisionError: boom" in logged.data.tags["spark_dl.failure"]
    assert mlflow.active_run() is None
