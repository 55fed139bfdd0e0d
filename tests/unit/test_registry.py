"""Versions of a registered model: one for each mark, and the alias that names the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import models
import pytest
from mlflow_stores import sqlite_store

from spark_dl import KerasRegressorModel
from spark_dl.ml.logged import logged_model
from spark_dl.track.registry import aliased_version, publish


@pytest.fixture
def run_id(tmp_path: Path) -> Iterator[str]:
    with sqlite_store(tmp_path, "registry"):
        yield mlflow.MlflowClient().create_run(mlflow.get_experiment_by_name("registry").experiment_id).info.run_id


def test_a_mark_is_registered_once_and_the_alias_follows(run_id: str) -> None:
    assert aliased_version("it's a price", "champion") == ""
    model = logged_model(KerasRegressorModel.fromKeras(models.regressor()))
    versions = [publish(model, "it's a price", "champion", run_id, mark) for mark in ("batch 3", "batch 5", "batch 3")]
    assert versions == ["1", "2", "1"]  # the last is that of a batch which is done again
    assert aliased_version("it's a price", "champion") == "1"
    assert aliased_version("it's a price", "another") == ""
    assert len(mlflow.MlflowClient().search_model_versions('name="it\'s a price"')) == 2
