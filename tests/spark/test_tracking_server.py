"""MLflow's own server over HTTP, with passwords and an artifact proxy: in order, standing still, gone, closed."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import mlflow
import models
import numpy as np
import pytest
from mlflow_stores import Server, tracking_server
from pyspark.sql import DataFrame, SparkSession

import spark_dl.mlflow
from spark_dl import KerasRegressor
from spark_dl.errors import SavedModelError, TrackingError
from spark_dl.track import queued

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with tracking_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The server that the tests share. A test may stop it for a while and change the tracking URI, and not end it."""
    yield shared
    os.killpg(shared.group, signal.SIGCONT)
    mlflow.set_tracking_uri(shared.url)


class Signals(keras.callbacks.Callback):
    """Sends the server's processes a signal at the end of an epoch, from the rank."""

    def __init__(self, group: int, at: dict[int, int]) -> None:
        super().__init__()
        self.group = group
        self.at = at

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch in self.at:
            os.killpg(self.group, self.at[epoch])


def fit(data: DataFrame, **options: Any) -> Any:
    return KerasRegressor(**{"model": models.regressor(), "loss": "mse", "epochs": 3, "verbose": 0, **options}).fit(
        data
    )


def test_a_fit_is_written_through_the_server(data: DataFrame, server: Server) -> None:
    fitted = fit(data, experimentName="over http", registeredModelName="price")
    (run,) = mlflow.search_runs(experiment_names=["over http"], output_format="list")
    assert run.info.status == "FINISHED"
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    np.testing.assert_allclose([point.value for point in losses], fitted.summary.history["loss"])
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    loaded = type(fitted).load("models:/price/1")
    assert loaded.transform(data).collect() == fitted.transform(data).collect()
    assert fitted.summary.unlogged == []


def test_a_server_that_stands_still_for_a_while_costs_nothing(data: DataFrame, server: Server) -> None:
    at = {0: signal.SIGSTOP, 2: signal.SIGCONT}
    fitted = fit(data, experimentName="still", callbacks=[Signals(server.group, at)])
    (run,) = mlflow.search_runs(experiment_names=["still"], output_format="list")
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    np.testing.assert_allclose([point.value for point in losses], fitted.summary.history["loss"])
    assert run.info.status == "FINISHED"


def test_a_server_that_goes_costs_what_it_would_have_logged_and_it_is_kept(
    data: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued, "_CLOSING_SECONDS", 2.0)
    warned = pytest.warns(RuntimeWarning, match=r"Not logged.*summary\.unlogged")
    with tracking_server(tmp_path) as server, warned:
        fitted = fit(data, experimentName="gone", callbacks=[Signals(server.group, {1: signal.SIGKILL})])
    assert fitted.transform(data).where("prediction is not null").count() == 60
    kept = {entry["epoch"]: entry["metrics"]["loss"] for entry in fitted.summary.unlogged if "epoch" in entry}
    assert 2 in kept
    assert kept[2] == pytest.approx(fitted.summary.history["loss"][2])


def test_artifacts_for_which_the_server_has_no_room_cost_no_model(
    data: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(300_000), keras.layers.Dense(1)])
    with tracking_server(tmp_path, largest=4 << 20):
        with pytest.warns(RuntimeWarning, match="Not logged"):
            fitted = fit(data, model=wide, experimentName="no room")
        (run,) = mlflow.search_runs(experiment_names=["no room"], output_format="list")
    assert fitted.transform(data).where("prediction is not null").count() == 60
    assert run.data.metrics["loss"] == pytest.approx(fitted.summary.history["loss"][-1])
    assert [entry["model"] for entry in fitted.summary.unlogged if "model" in entry] == ["not logged"]


def test_an_encrypted_server_is_believed_by_its_certificate_alone(
    data: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking_server(tmp_path, encrypted=True):
        with pytest.raises(TrackingError, match=r"(?s)doesn't answer.*certificate"):
            fit(data, experimentName="encrypted")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "certificate.pem"))
        fitted = fit(data, experimentName="encrypted")
        (run,) = mlflow.search_runs(experiment_names=["encrypted"], output_format="list")
    assert (run.info.status, fitted.summary.unlogged) == ("FINISHED", [])


def test_fits_at_once_may_make_the_same_experiment(data: DataFrame, server: Server) -> None:
    inputs = [models.regressor(seed=seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda model: fit(data, model=model, experimentName="new"), inputs))
    runs = mlflow.search_runs(experiment_names=["new"], output_format="list")
    assert [run.info.status for run in runs] == ["FINISHED"] * 3


def test_a_password_in_the_servers_url_is_used_and_not_shown(
    data: DataFrame, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    password = os.environ["MLFLOW_TRACKING_PASSWORD"]
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    mlflow.set_tracking_uri(server.url.replace("://", f"://admin:{password}@"))
    fitted = fit(data, experimentName="by url", verbose=2)
    (run,) = mlflow.search_runs(experiment_names=["by url"], output_format="list")
    assert (run.info.status, fitted.summary.unlogged) == ("FINISHED", [])
    output = capfd.readouterr()
    assert password not in output.out + output.err
    kept = [server.folder / "store.db", *(path for path in (server.folder / "artifacts").rglob("*") if path.is_file())]
    assert len(kept) > 10
    assert [path for path in kept if password.encode() in path.read_bytes()] == []
    with pytest.raises(SavedModelError) as missing:
        spark_dl.mlflow.load_model("models:/nobody@champion")
    assert password not in "".join(traceback.format_exception(missing.value))


def test_wrong_passwords_are_refused_before_any_job(
    data: DataFrame, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    for options in ({"experimentName": "closed"}, {}):
        with pytest.raises(TrackingError, match=r"(?s)experiment .*can't be used.*MLFLOW_TRACKING_PASSWORD"):
            fit(data, **options)
