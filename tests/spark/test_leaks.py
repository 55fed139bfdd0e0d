"""Credentials in URLs are in nothing that a fit writes, prints, raises or saves, whether it ends well or not."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import mlflow
import models
import pytest
from mlflow_stores import sqlite_store
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasRegressor, KerasRegressorModel
from spark_dl.errors import RankError, StoreError, TrackingError

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SECRET = "S3" + "CRET"  # a traceback shows the lines that it passes
REMOTE = f"ftp://alice:{SECRET}@127.0.0.1:1/directory"


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=40).cache()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    with sqlite_store(tmp_path, "leaks") as experiment:
        yield experiment


class Fails(keras.callbacks.Callback):
    """Fails on a rank, with all that a library might say."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            print(f"connecting to {REMOTE}", flush=True)
            try:
                raise ConnectionError(f"no answer from {REMOTE}")
            except ConnectionError as error:
                raise ValueError(f"https://host/x?sig={SECRET}", {"Authorization": "x"}) from error


def estimator(**options: Any) -> KerasRegressor:
    return KerasRegressor(**{"model": models.regressor(), "loss": "mse", "epochs": 2, "verbose": 2, **options})


def raised_text(error: BaseException) -> str:
    """All that a log might have of an exception."""
    text = "".join(traceback.format_exception(error))
    one: BaseException | None = error
    while one is not None:
        text += f"{one} {one!r} {one.args} {vars(one)}"
        one = one.__cause__ or one.__context__
    return text


def files_with(folder: Path, text: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    return [path for path in files if text.encode() in path.read_bytes()]


def test_nothing_that_fits_write_print_raise_or_save_has_a_credential(
    data: DataFrame, store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = f"file://{tmp_path}/checkpoints?token={SECRET}"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(RankError) as rank_failed:
            estimator(checkpointDir=checkpoints, callbacks=[Fails()]).fit(data)
        going_on = estimator(checkpointDir=checkpoints)
        fitted = going_on.fit(data)
        with pytest.raises(StoreError) as no_checkpoints:
            estimator(checkpointDir=REMOTE).fit(data)
        with pytest.raises(StoreError) as no_cache:
            estimator(cacheDir=REMOTE).fit(data)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f"http://alice:{SECRET}@127.0.0.1:1")
        try:
            with pytest.raises(TrackingError) as no_server:
                estimator().fit(data)
            estimator(tracking="optional").fit(data)
        finally:
            mlflow.set_tracking_uri(before)
    going_on.save(f"{tmp_path}/estimator")
    fitted.save(f"{tmp_path}/model")

    output = capfd.readouterr()
    shown = output.out + output.err + caplog.text + "".join(str(one.message) for one in warned)
    assert "Going on with the unfinished fit" in shown
    assert "checkpoints?token=***" in shown
    assert "is not tracked" in shown
    raised = "".join(raised_text(one.value) for one in (rank_failed, no_checkpoints, no_cache, no_server))
    assert "ftp://***@127.0.0.1:1/directory" in raised
    assert "https://host/x?sig=***" in raised
    assert SECRET not in raised
    assert SECRET not in shown
    assert files_with(tmp_path, SECRET) == []

    # What it was can be read all the same.
    runs = mlflow.search_runs(experiment_names=[store], output_format="list")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]  # the second fit went on with the first
    told = json.dumps([{**run.data.params, **run.data.tags} for run in runs])
    assert "ftp://***@127.0.0.1:1/directory" in told
    assert f"file://{tmp_path}/checkpoints?token=***" in told
    assert (going_on.getCheckpointDir(), SECRET in checkpoints) == (checkpoints, True)


def test_what_was_saved_without_its_credentials_is_not_used_so(data: DataFrame, tmp_path: Path) -> None:
    estimator(checkpointDir=REMOTE, tracking=None).save(f"{tmp_path}/estimator")
    loaded = KerasRegressor.load(f"{tmp_path}/estimator")
    assert loaded.getCheckpointDir() == "ftp://***@127.0.0.1:1/directory"
    with pytest.raises(StoreError, match=r"lacks its credentials.*setCheckpointDir"):
        loaded.fit(data)
    assert isinstance(loaded.setCheckpointDir(None).fit(data), KerasRegressorModel)
