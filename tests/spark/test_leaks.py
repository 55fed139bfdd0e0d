"""Credentials in URLs and storageOptions are in nothing that a fit writes, prints, raises or saves, however it ends."""

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
import pyarrow.parquet as pq
import pytest
from guarded_s3 import KEY, guarded_bucket
from mlflow_stores import sqlite_store
from pyarrow.fs import FileSelector
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasRegressor, KerasRegressorModel
from spark_dl.errors import OptionError, RankError, StoreError, TrackingError
from spark_dl.io.storage_options import StorageOptions
from spark_dl.io.store import Store

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
    assert "Resuming the unfinished fit" in shown
    assert "checkpoints?token=***" in shown
    assert "is not tracked" in shown
    raised = "".join(raised_text(one.value) for one in (rank_failed, no_checkpoints, no_cache, no_server))
    assert "ftp://***@127.0.0.1:1/directory" in raised
    assert "https://host/x?sig=***" in raised
    assert SECRET not in raised
    assert SECRET not in shown
    assert files_with(tmp_path, SECRET) == []
    check_event_log(data.sparkSession, SECRET)

    # What it was can be read all the same.
    runs = mlflow.search_runs(experiment_names=[store], output_format="list")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]  # the second fit went on with the first
    told = json.dumps([{**run.data.params, **run.data.tags} for run in runs])
    assert "ftp://***@127.0.0.1:1/directory" in told
    assert f"file://{tmp_path}/checkpoints?token=***" in told
    assert (going_on.getCheckpointDir(), SECRET in checkpoints) == (checkpoints, True)


def check_event_log(spark: SparkSession, *secrets: str) -> None:
    """Check that Spark's log of its events, with the errors and plans of all jobs so far, has no secret."""
    folder = Path(spark.conf.get("spark.eventLog.dir").removeprefix("file:").replace("///", "/"))  # type: ignore[union-attr]
    text = "".join(path.read_text() for path in folder.rglob("events_*"))
    assert "MapInArrow" in text
    assert [secret for secret in secrets if secret in text] == []


def test_what_was_saved_without_its_credentials_is_not_used_so(data: DataFrame, tmp_path: Path) -> None:
    estimator(checkpointDir=REMOTE, tracking=None).save(f"{tmp_path}/estimator")
    loaded = KerasRegressor.load(f"{tmp_path}/estimator")
    assert loaded.getCheckpointDir() == "ftp://***@127.0.0.1:1/directory"
    with pytest.raises(StoreError, match=r"lacks its credentials.*setCheckpointDir"):
        loaded.fit(data)
    assert isinstance(loaded.setCheckpointDir(None).fit(data), KerasRegressorModel)


def test_storage_options_open_a_bucket_and_are_nowhere_afterwards(
    data: DataFrame, store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with guarded_bucket(SECRET) as (bucket, options):
        going_on = estimator(cacheDir=f"{bucket}/cache", checkpointDir=f"{bucket}/checkpoints", storageOptions=options)
        with pytest.raises(RankError) as failed:
            going_on.copy({going_on.getParam("callbacks"): [Fails()]}).fit(data)
        fitted = going_on.fit(data)
        wrong = {**options, "access_key": "AKIA" + SECRET}
        with pytest.raises(
            StoreError, match=r"Can't create the directory in s3://[-\w]+/cache.*storageOptions"
        ) as refused:
            going_on.copy({going_on.getParam("storageOptions"): wrong}).fit(data)
        going_on.save(f"{tmp_path}/estimator")
        fitted.save(f"{tmp_path}/model")
        opened = StorageOptions(options)
        _write_parquet(data, Store.at(f"{bucket}/rows", opened))
        assert fitted.scoreParquet(f"{bucket}/rows", f"{bucket}/scored") == 40
        assert "_SUCCESS" in Store.at(f"{bucket}/scored", opened).names()
        loaded = KerasRegressorModel.load(f"{tmp_path}/model")
        assert loaded.getStorageOptions() is None
        assert loaded.setStorageOptions(options).scoreParquet(f"{bucket}/rows", f"{bucket}/again") == 40
        assert Store.at(f"{bucket}/cache", opened).names() == []
        filesystem, path = Store.at(bucket, opened).open()
        written = filesystem.get_file_info(FileSelector(path, recursive=True))
        held = [filesystem.open_input_stream(one.path).read() for one in written if one.is_file]

    output = capfd.readouterr()
    shown = [going_on.explainParams(), going_on._repr_html_(), fitted._repr_html_(), repr(vars(going_on)), caplog.text]
    assert "Resuming the unfinished fit" in output.out + output.err
    assert "storageOptions" in shown[0]
    told = "".join([output.out, output.err, *shown, *(raised_text(one.value) for one in (failed, refused))])
    assert len(held) > 5
    for secret in (SECRET, KEY):
        assert secret not in told
        assert files_with(tmp_path, secret) == []
        assert not [content for content in held if secret.encode() in content]
        check_event_log(data.sparkSession, secret)
    with pytest.raises(OptionError, match=r"storageOptions=\*\*\* \(dict\)"):
        estimator(storageOptions={"secret_key": [SECRET]})


def _write_parquet(data: DataFrame, target: Store) -> None:
    """Write rows with pyarrow, as Spark has no file system for S3 here."""
    target.make()
    filesystem, path = target.open()
    pq.write_table(data.select("id", "features").toArrow(), f"{path}/rows.parquet", filesystem=filesystem)
