"""Searches with Optuna: real fits, a real study in sqlite, nested runs in MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import models
import numpy as np
import optuna
import pytest
from mlflow_stores import sqlite_store
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from pyspark.ml import PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import DataFrame, SparkSession

import spark_dl
from spark_dl import KerasClassifier, KerasClassifierModel
from spark_dl.errors import OptionError
from spark_dl.tune import OptunaSearch
from spark_dl.tune.objective import Objective
from spark_dl.tune.space import Space

RATES = FloatDistribution(1e-3, 1e-1, log=True)


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sqlite_store(tmp_path_factory.mktemp("mlflow"), "searches") as experiment:
        yield experiment


def classifier(**options: Any) -> KerasClassifier:
    settings = {
        "model": models.classifier(),
        "optimizer": "adam",
        "epochs": 2,
        "verbose": 0,
        "tracking": None,
        "validationCol": "held",
    }
    return KerasClassifier(**{**settings, **options})


def study(path: Path, **options: Any) -> optuna.Study:
    return optuna.create_study(storage=f"sqlite:///{path}/s.db", study_name="one", load_if_exists=True, **options)


def test_trials_are_nested_runs_and_the_best_model_is_returned(
    data: DataFrame, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    estimator = classifier(tracking="mlflow", experimentName=store, runName="the search")
    found = OptunaSearch(estimator, {"learningRate": RATES}, trials=3).fit(data)
    assert (tmp_path / "spark_dl_studies.db").exists()
    trials = found.study.get_trials()
    assert len(trials) == 3
    values = [trial.value for trial in trials if trial.state == TrialState.COMPLETE]
    summary = found.bestModel.summary
    assert found.bestValue == min(values) == summary.history["val_loss"][-1]
    assert found.bestParams == found.study.best_params
    assert found.transform(data).columns == found.bestModel.transform(data).columns
    assert spark_dl.evaluate(found, data) == found.bestModel.evaluate(data)
    PipelineModel([found]).save(f"{tmp_path}/stages")
    (stage,) = PipelineModel.load(f"{tmp_path}/stages").stages
    assert stage.transform(data).collect() == found.transform(data).collect()
    found.save(f"{tmp_path}/best")
    assert KerasClassifierModel.load(f"{tmp_path}/best").summary.history == summary.history
    runs = mlflow.search_runs(experiment_names=[store], output_format="list")
    (parent,) = [run for run in runs if run.info.run_name == "the search"]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in nested) == ["trial 0", "trial 1", "trial 2"]
    assert parent.data.params["metric"] == "val_loss"
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_the_value_is_that_of_the_epoch_whose_weights_are_kept(data: DataFrame, tmp_path: Path) -> None:
    # With this rate the loss rises after the first epochs.
    estimator = classifier(optimizer="sgd", epochs=4, restoreBestWeights=True)
    found = OptunaSearch(estimator, {"learningRate": [20.0]}, trials=1, study=study(tmp_path)).fit(data)
    losses = found.bestModel.summary.history["val_loss"]
    assert found.bestValue == min(losses) < losses[-1]
    assert found.bestModel.evaluate(data.where("held"))["loss"] == pytest.approx(found.bestValue, rel=1e-5)


class PrunesAll(optuna.pruners.BasePruner):
    """Prunes each trial after its first epoch but the first."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number > 0


def test_a_search_goes_on_and_prunes(data: DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spark_dl")
    space = {"learningRate": RATES}
    first = OptunaSearch(classifier(), space, trials=1, study=study(tmp_path)).fit(data)
    # Another driver: the study alone is left, and the best trial's model is trained once more.
    pruning = study(tmp_path, pruner=PrunesAll())
    found = OptunaSearch(classifier(), space, trials=3, study=pruning, parallelism=1).fit(data)
    states = [trial.state for trial in found.study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert [len(trial.intermediate_values) for trial in found.study.get_trials()] == [2, 1, 1]
    assert caplog.text.count("Converted the rows") == 2  # once for each search
    for ours, theirs in zip(found.bestModel.keras().get_weights(), first.bestModel.keras().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(OptionError, match="values of other rows"):
        OptunaSearch(classifier(), space, trials=4, study=study(tmp_path)).fit(data.limit(50))
    with pytest.raises(OptionError, match="belongs to another search"):
        OptunaSearch(classifier(), {"batchSize": [8, 16]}, study=study(tmp_path)).fit(data)


def test_the_direction_of_a_metric_is_known_before_a_fit(data: DataFrame) -> None:
    """Keras makes a metric of its name in the first step."""
    estimator = classifier(metrics=["accuracy", "sparse_categorical_crossentropy"])
    space = Space({"learningRate": RATES}, estimator)
    found = {
        name: Objective.of(estimator, name, data, space).direction
        for name in ("val_accuracy", "accuracy", "val_sparse_categorical_crossentropy")
    }
    assert list(found.values()) == ["maximize", "maximize", "minimize"]


def test_an_evaluator_scores_the_validation_rows(data: DataFrame, tmp_path: Path) -> None:
    space = {"modelParams": {"width": [1, 4]}}

    accuracy = MulticlassClassificationEvaluator(metricName="accuracy")

    def build(width: int) -> keras.Model:
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(width), keras.layers.Dense(3, "softmax")])

    estimator = classifier(model=None, modelFn=build)
    kept = study(tmp_path, direction="maximize", sampler=optuna.samplers.GridSampler({"modelParams.width": [1, 4]}))
    found = OptunaSearch(estimator, space, accuracy, 9, study=kept, parallelism=1).fit(data)
    assert sorted(trial.params["modelParams.width"] for trial in found.study.trials) == [1, 4]  # the grid's points
    assert found.bestValue == accuracy.evaluate(found.transform(data.where("held")))
    assert found.bestParams["modelParams"]["width"] in (1, 4)


def test_a_failing_trial_ends_the_search(data: DataFrame, tmp_path: Path) -> None:
    def build(width: int) -> keras.Model:
        raise RuntimeError("no memory for this width")

    estimator = classifier(model=None, modelFn=build, modelParams={"width": 3})
    search = OptunaSearch(estimator, {"modelParams": {"width": [1, 2]}}, "loss", study=study(tmp_path))
    with pytest.raises(Exception, match="no memory for this width"):
        search.fit(data)


@pytest.mark.parametrize(
    ("options", "metric", "text"),
    [
        ({"validationCol": None}, "val_loss", "'val_loss' needs validation rows"),
        ({"validationCol": None, "validationFraction": 0.2}, None, "no rows for the eval"),
        ({"registeredModelName": "m", "tracking": "mlflow"}, "val_loss", "Each trial would register its model"),
        ({}, "val_acuracy", "unknown whether 'val_acuracy' is better"),
        ({"monitor": "val_acuracy", "monitorMode": "max"}, "val_acuracy", "no metric 'val_acuracy'"),
    ],
)
def test_what_can_not_be_searched_is_refused(
    data: DataFrame, tmp_path: Path, options: dict[str, Any], metric: Any, text: str
) -> None:
    kept = study(tmp_path, direction="maximize" if "monitorMode" in options else "minimize")
    search = OptunaSearch(
        classifier(**options),
        {"learningRate": RATES},
        metric or MulticlassClassificationEvaluator(),
        study=kept,
        parallelism=1,
    )
    with pytest.raises(OptionError, match=text):
        search.fit(data)
