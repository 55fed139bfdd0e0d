"""The runs of fits: nested, resumed, optional, refused; what is in them to be looked at; fits repeated from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import mlflow
import models
import numpy as np
import pytest
from mlflow.entities import Run
from mlflow_stores import sqlite_store
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.tuning import CrossValidator, TrainValidationSplit
from pyspark.sql import DataFrame, SparkSession
from sklearn.metrics import confusion_matrix, r2_score, roc_auc_score

from spark_dl import HorovodLauncher, KerasClassifier, KerasRegressor, autolog
from spark_dl.cli import main
from spark_dl.errors import DataError, OptionError, RankError, SavedModelError, TrackingError

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sqlite_store(tmp_path_factory.mktemp("mlflow"), "runs") as experiment:
        yield experiment


def classifier(**options: Any) -> KerasClassifier:
    return KerasClassifier(model=models.classifier(), **{"verbose": 0, "metrics": ["accuracy"], **options})


def runs(condition: str = "", run_name: str | None = None) -> list[Run]:
    told = condition if run_name is None else f'attributes.run_name = "{run_name}"'
    return mlflow.search_runs(experiment_names=["runs"], filter_string=told, output_format="list")


def text(run: Run, path: str) -> str:
    return mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{path}")


# --- facts and pictures --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looked_at(data: DataFrame, store: str) -> tuple[Any, Run]:
    """A classifier that was validated, with a loss of one-hot labels, and its run."""
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)
    fitted = classifier(
        optimizer=keras.optimizers.SGD(rate), validationCol="held", batchSize=8, epochs=3, runName="looked at",
        loss="categorical_crossentropy",
        classLabels=["a", "b", "c"], seed=11,
    ).fit(data)  # fmt: skip
    (run,) = runs(run_name="looked at")
    return fitted, run


def test_the_facts_that_matter_are_tags(looked_at: tuple[Any, Run]) -> None:
    tags = {name.removeprefix("spark_dl."): value for name, value in looked_at[1].data.tags.items()}
    assert tags["keras"] == keras.__version__
    assert tags["gpus"] == "0"
    assert {"spark", "master", "application", "python", "spark_dl", "horovod", "tensorflow", "model"} <= tags.keys()
    assert looked_at[1].data.params["seed"] == "11"


def test_rates_and_what_ranks_take_are_metrics_of_each_epoch(looked_at: tuple[Any, Run]) -> None:
    client, run_id = mlflow.MlflowClient(), looked_at[1].info.run_id
    rates = client.get_metric_history(run_id, "learning_rate")
    assert [point.step for point in rates] == [0, 1, 2]
    np.testing.assert_allclose([point.value for point in rates], [0.1 * 0.9**steps for steps in (6, 12, 18)], rtol=1e-5)
    for name, least in (("memory_usage_megabytes", 100), ("cpu_utilization_percentage", 1), ("rows_per_second", 1)):
        points = client.get_metric_history(run_id, f"system/rank_0/{name}")
        assert len(points) == 3
        assert min(point.value for point in points) > least


def test_a_classifiers_validation_is_that_of_transform(looked_at: tuple[Any, Run], data: DataFrame) -> None:
    fitted, run = looked_at
    found = json.loads(text(run, "validation/validation.json"))
    rows = fitted.transform(data.where("held")).select("label", "prediction", vector_to_array("probability")).collect()
    actual, predicted, chances = (np.array(column) for column in zip(*rows, strict=True))
    assert (found["rows"], found["labels"]) == (12, ["a", "b", "c"])
    assert found["confusion"] == confusion_matrix(actual, predicted, labels=[0, 1, 2]).tolist()
    assert found["accuracy"] == pytest.approx(np.mean(actual == predicted))
    for index, name in enumerate(found["labels"]):
        wanted = roc_auc_score(actual == index, chances[:, index])
        assert found["curves"][name]["roc_auc"] == pytest.approx(wanted, abs=0.02)


def test_a_regressors_validation_is_that_of_transform(data: DataFrame, store: str) -> None:
    model = models.regressor()
    options: dict[str, Any] = {"loss": "mse", "verbose": 0, "runName": "numbers", "epochs": 3}
    fitted = KerasRegressor(model=model, validationCol="held", restoreBestWeights=True, **options).fit(data)
    (run,) = runs(run_name="numbers")
    found = json.loads(text(run, "validation/validation.json"))
    scored = fitted.transform(data.where("held"))
    rows = scored.select("label", "prediction").collect()
    assert found["rows"] == 12
    assert found["r2"] == pytest.approx(r2_score(*zip(*rows, strict=True)), rel=1e-4)
    for name in ("rmse", "mae"):
        assert found[name] == pytest.approx(RegressionEvaluator(metricName=name).evaluate(scored), rel=1e-5)
    paths = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "validation")}
    assert paths == {f"validation/{name}" for name in ("validation.json", "predicted.png", "residuals.png")}


def test_the_pictures_and_texts_are_there(looked_at: tuple[Any, Run]) -> None:
    _, run = looked_at
    client = mlflow.MlflowClient()
    folders = [None, "validation", "estimator"]
    paths = {file.path for folder in folders for file in client.list_artifacts(run.info.run_id, folder)}
    pictures = {"history.png", "learning_rate.png", "ranks.png", "model_graph.svg", "validation/roc.png"}
    pictures |= {"validation/confusion_matrix.png", "validation/precision_recall.png"}
    assert paths >= pictures | {"model_summary.txt", "requirements.txt", "columns.txt", "estimator/stage.json"}
    for path in pictures:
        content = Path(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/{path}")).read_bytes()
        assert content.startswith(b"\x89PNG") or b"<svg" in content
    assert "Total params" in text(run, "model_summary.txt")
    assert f"keras=={keras.__version__}" in text(run, "requirements.txt").splitlines()


def test_a_rank_that_fails_leaves_its_words_in_the_run(data: DataFrame, store: str) -> None:
    class Boom(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            print("the cat is on the keyboard")
            raise ZeroDivisionError("boom")

    with pytest.raises(RankError):
        classifier(runName="boom", callbacks=[Boom()]).fit(data)
    (run,) = runs(run_name="boom")
    assert run.info.status == "FAILED"
    told = text(run, "failure.txt")
    assert "ZeroDivisionError: boom" in told
    assert "the cat is on the keyboard" in told


# --- one run for each fit ------------------------------------------------------------------------------------------


def test_the_fits_of_a_search_are_runs_below_the_active_one(data: DataFrame, store: str) -> None:
    estimator = classifier(epochs=1)
    grid = [{estimator.batchSize: size} for size in (8, 16)]
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    with mlflow.start_run() as parent:
        CrossValidator(
            estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, parallelism=2
        ).fit(data)
        assert mlflow.active_run().info.run_id == parent.info.run_id
    below = _below(parent)
    assert sorted(run.data.params["batchSize"] for run in below) == ["16", "16", "8", "8"]
    assert {run.info.status for run in below} == {"FINISHED"}
    assert all(len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")) == 1 for run in below)
    # The last fit, by the best of them on all rows, is the active run's own.
    logged = mlflow.get_run(parent.info.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["batchSize"] in ("8", "16")
    assert "loss" in logged.data.metrics


def _below(parent: Run) -> list[Run]:
    return runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")


def test_fits_of_pipelines_in_a_search_nest_too(data: DataFrame, store: str) -> None:
    estimator = classifier(epochs=1, featuresCol="assembled")
    pipeline = Pipeline(stages=[VectorAssembler(inputCols=["f0", "f1", "f2", "f3"], outputCol="assembled"), estimator])
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    with mlflow.start_run() as parent:
        CrossValidator(estimator=pipeline, estimatorParamMaps=[{}], evaluator=evaluator, numFolds=2).fit(data)
    assert len(_below(parent)) == 2
    assert "loss" in mlflow.get_run(parent.info.run_id).data.metrics


def test_a_fit_may_go_to_another_experiment_than_the_current_one(data: DataFrame, store: str) -> None:
    fitted = classifier(experimentName="elsewhere", registeredModelName="elsewhere").fit(data)
    assert fitted.summary.unlogged == []
    (run,) = mlflow.search_runs(experiment_names=["elsewhere"], output_format="list")
    (model,) = mlflow.get_run(run.info.run_id).outputs.model_outputs  # MLflow 3.0 searches without outputs
    assert mlflow.get_logged_model(model.model_id).experiment_id == run.info.experiment_id
    assert type(fitted).load("models:/elsewhere/1").transform(data).count() == 60


def test_a_split_nests_too_and_without_an_active_run_each_is_its_own(data: DataFrame, store: str) -> None:
    estimator = classifier(epochs=1, runName="alone")
    split = TrainValidationSplit(
        estimator=estimator,
        estimatorParamMaps=[{}],
        evaluator=MulticlassClassificationEvaluator(),
        seed=1,
    )
    with mlflow.start_run() as parent:
        split.fit(data)
    assert len(_below(parent)) == 1
    before = {run.info.run_id for run in runs(run_name="alone")}
    list(estimator.fitMultiple(data, [{}, {}]))
    alone = [run for run in runs(run_name="alone") if run.info.run_id not in before]
    assert len(alone) == 2
    assert not any("mlflow.parentRunId" in run.data.tags for run in alone)


class FailOnce(keras.callbacks.Callback):
    """Fails in the second epoch, unless it has before."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1 and not os.path.exists(self.marker):
            Path(self.marker).touch()
            raise ArithmeticError("for once")


def test_a_fit_that_completes_another_goes_on_with_its_run(data: DataFrame, store: str, tmp_path: Path) -> None:
    options = {"runName": "resumed", "epochs": 3, "checkpointDir": f"{tmp_path}/checkpoints"}
    estimator = classifier(callbacks=[FailOnce(f"{tmp_path}/failed")], **options)
    with pytest.raises(RankError, match="for once"):
        estimator.fit(data)
    (failed,) = runs(run_name="resumed")
    assert failed.info.status == "FAILED"
    estimator.fit(data)
    (run,) = runs(run_name="resumed")
    assert (run.info.run_id, run.info.status) == (failed.info.run_id, "FINISHED")
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [loss.step for loss in losses] == [0, 1, 2]
    assert "Resuming from the end of epoch 1" in text(run, "events.txt")
    # A finished run stays as it is: the next fit has its own.
    estimator.fit(data)
    assert len(runs(run_name="resumed")) == 2


KILLED = """
import os, signal, sys
import keras, mlflow, models
from pyspark.sql import functions as F
from sessions import session
from spark_dl import KerasRegressor

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            os.kill(PID, signal.SIGKILL)

PID = os.getpid()
if __name__ == "__main__":
    mlflow.set_tracking_uri(sys.argv[1])
    with session("local[2]") as spark:
        KerasRegressor(
            model=models.regressor(), loss="mse", epochs=3, verbose=0, seed=4, experimentName="runs",
            runName="killed", checkpointDir=sys.argv[2], callbacks=[Kill()],
        ).fit(models.frame(spark, rows=60))
"""


def test_the_run_of_a_killed_driver_is_closed_by_the_fit_that_completes_it(
    data: DataFrame, store: str, tmp_path: Path
) -> None:
    program = tmp_path / "repository/program.py"
    program.parent.mkdir()
    program.write_text(KILLED)
    git = ["git", "-C", str(program.parent), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a program"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(program), mlflow.get_tracking_uri(), f"{tmp_path}/checkpoints"]
    killed = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    (open_run,) = runs(run_name="killed")
    assert open_run.info.status == "RUNNING"
    assert open_run.data.tags["mlflow.source.git.commit"] == commit
    fitted = KerasRegressor(
        model=models.regressor(), loss="mse", epochs=3, verbose=0, seed=4, checkpointDir=f"{tmp_path}/checkpoints"
    ).fit(models.frame(data.sparkSession, rows=60))
    (run,) = runs(run_name="killed")
    assert (run.info.run_id, run.info.status) == (open_run.info.run_id, "FINISHED")
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    losses.sort(key=lambda loss: loss.step)
    assert [loss.step for loss in losses] == [0, 1, 2]
    np.testing.assert_allclose([loss.value for loss in losses], fitted.summary.history["loss"])


# --- repeated ------------------------------------------------------------------------------------------------------


def test_a_fit_is_repeated_from_its_run(data: DataFrame, store: str, tmp_path: Path) -> None:
    data.write.parquet(f"{tmp_path}/rows")
    frame = data.sparkSession.read.parquet(f"{tmp_path}/rows")
    fitted = classifier(epochs=2, validationFraction=0.25, seed=3, runName="again").fit(frame)
    (first,) = runs(run_name="again")
    command = [sys.executable, "-m", "spark_dl.cli", "train", "--from-run", first.info.run_id]
    command += ["--master", "local[2]", "--output", f"{tmp_path}/model"]
    variables = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    ran = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (second, _) = runs(run_name="again")
    assert second.info.run_id != first.info.run_id
    assert {name: value for name, value in second.data.params.items() if name != "experimentName"} == first.data.params
    assert [one.dataset.digest for one in second.inputs.dataset_inputs] == [
        one.dataset.digest for one in first.inputs.dataset_inputs
    ]
    for name, values in fitted.summary.history.items():
        assert second.data.metrics[name] == pytest.approx(values[-1], rel=1e-5)
    loaded = type(fitted).load(f"{tmp_path}/model")
    for ours, theirs in zip(loaded.keras().get_weights(), fitted.keras().get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_fit_is_not_repeated_on_other_rows(data: DataFrame, store: str, tmp_path: Path) -> None:
    from spark_dl.ml.repeat import repeat

    path = f"{tmp_path}/with blanks"
    data.write.parquet(path)
    frame = data.sparkSession.read.parquet(path)
    classifier(runName="a part").fit(frame.where("id < 40"))
    (run,) = runs(run_name="a part")
    assert json.loads(run.inputs.dataset_inputs[0].dataset.source)["path"] == f"file:{path}".replace(
        "file:/", "file:///"
    )
    with pytest.raises(DataError, match=r"aren't those that the run .* was trained on.*--data"):
        repeat(data.sparkSession, run.info.run_id)
    assert len(runs(run_name="a part")) == 1
    repeat(data.sparkSession, run.info.run_id, data=path)
    assert len(runs(run_name="a part")) == 2


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, SavedModelError, "callbacks=TerminateOnNaN"),
        ({}, DataError, "has no path of its rows"),
    ],
)
def test_what_can_not_be_repeated_says_why(
    data: DataFrame, store: str, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    from spark_dl.ml.repeat import repeat

    classifier(runName=f"odd {told}", **options).fit(data)
    (run,) = runs(run_name=f"odd {told}")
    with pytest.raises(error, match=told):
        repeat(data.sparkSession, run.info.run_id)


def test_a_run_that_is_not_there_is_told_and_one_of_others(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    with mlflow.start_run() as other:
        pass
    from spark_dl.track.runs import logged_fit

    with pytest.raises(TrackingError, match="The run 'no-such-run' can't be read"):
        logged_fit("no-such-run", ())
    with pytest.raises(TrackingError, match="doesn't have what a fit of spark_dl logs"):
        logged_fit(other.info.run_id, ("estimator/stage.json",))


# --- what can't be tracked -----------------------------------------------------------------------------------------


def test_an_experiment_that_was_deleted_is_refused_before_any_job(data: DataFrame, store: str) -> None:
    gone = mlflow.create_experiment("gone")
    mlflow.delete_experiment(gone)
    with pytest.raises(TrackingError, match=rf"'gone' was deleted.*restore -x {gone}"):
        classifier(experimentName="gone").fit(data)


def test_a_run_that_the_environment_names_is_joined_or_refused(
    data: DataFrame, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mlflow.MlflowClient().create_run(mlflow.get_experiment_by_name("runs").experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    classifier(epochs=1).fit(data)
    assert os.environ["MLFLOW_RUN_ID"] == run.info.run_id
    classifier(epochs=2).fit(data)
    logged = mlflow.get_run(run.info.run_id)
    assert logged.info.status == "RUNNING"
    assert logged.data.params["epochs"] == "1"
    assert len(logged.outputs.model_outputs) == 1
    # The second fit has a run of its own below it.
    (below,) = _below(run)
    assert (below.info.status, below.data.params["epochs"]) == ("FINISHED", "2")
    assert len(mlflow.get_run(below.info.run_id).outputs.model_outputs) == 1
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(TrackingError, match=r"The run 0{32} can't be used"):
        classifier().fit(data)


def test_a_param_that_is_too_long_is_cut_and_whole_in_the_estimator(data: DataFrame, store: str) -> None:
    columns = [f"f{index % 4}" for index in range(300)]
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(3, "softmax")])
    options: dict[str, Any] = {"inputCols": columns, "runName": "long", "verbose": 0}
    KerasClassifier(model=model, **options).fit(data)
    (run,) = runs(run_name="long")
    told = run.data.params["inputCols"]
    assert len(told) == 500
    assert told.endswith("...")
    assert json.loads(text(run, "estimator/stage.json"))["paramMap"]["inputCols"] == columns


def test_tracking_that_is_optional_is_done_without_where_the_server_is_down(
    data: DataFrame, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(TrackingError, match="doesn't answer"):
            classifier().fit(data)
        with pytest.warns(RuntimeWarning, match=r"not tracked \(tracking='optional'\).*doesn't answer"):
            fitted = classifier(tracking="optional").fit(data)
    finally:
        mlflow.set_tracking_uri(before)
    assert fitted.transform(data).count() == 60
    classifier(tracking="optional", runName="optional").fit(data)
    assert [run.info.status for run in runs(run_name="optional")] == ["FINISHED"]
    with pytest.raises(OptionError, match="Did you mean 'optional'"):
        classifier(tracking="optonal").fit(data)


# --- functions of one's own ----------------------------------------------------------------------------------------


def train(rows: int) -> list[float]:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    # A metric with a number for each of the two classes.
    model.compile("sgd", "mse", metrics=[keras.metrics.F1Score(threshold=0.5)])
    x = np.ones((rows, 2), np.float32)
    y = np.ones((rows, 2), np.float32)
    model.fit(x, y, epochs=2, verbose=0)
    return model.fit(x, y, epochs=1, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()]).history["loss"]


def test_what_rank_0_fits_in_a_function_of_ones_own_is_in_a_run(data: DataFrame, store: str) -> None:
    autolog()
    try:
        (again, _) = HorovodLauncher(2).run(train, 16)
    finally:
        autolog(disable=True)
    (run,) = _of_function("train")
    assert (run.info.status, run.data.params["numWorkers"]) == ("FINISHED", "2")
    client = mlflow.MlflowClient()
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [0, 1]
    (last,) = client.get_metric_history(run.info.run_id, "fit2.loss")
    assert last.value == pytest.approx(again[0])
    for name in ("f1_score_0", "f1_score_1"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [0, 1]
    HorovodLauncher(2).run(train, 16)
    assert len(_of_function("train")) == 1


def _of_function(name: str) -> list[Run]:
    return runs(f"tags.`spark_dl.function` = '{name}'")


def test_a_function_that_fails_fails_its_run(data: DataFrame, store: str) -> None:
    def breaks() -> None:
        raise ArithmeticError("broken")

    autolog()
    try:
        with pytest.raises(RankError, match="broken"):
            HorovodLauncher(1).run(breaks)
    finally:
        autolog(disable=True)
    (run,) = [run for run in runs() if "breaks" in run.data.tags.get("spark_dl.function", "")]
    assert run.info.status == "FAILED"
    assert "ArithmeticError: broken" in text(run, "failure.txt")


def test_ui_tells_the_address_of_a_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("https://tracking.example.org")
    try:
        assert main(["ui", "--no-browser"]) == 0
    finally:
        mlflow.set_tracking_uri(before)
    assert capsys.readouterr().out == "https://tracking.example.org\n"
