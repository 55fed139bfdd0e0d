"""MLflow's own server over HTTP, with passwords and an artifact proxy: in order, standing still, gone, closed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import mlflow
import models
import numpy as np
import psutil
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasRegressor
from spark_dl.errors import TrackingError
from spark_dl.track import queued

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass
class Server:
    """A tracking server in a process group of its own."""

    url: str
    process: subprocess.Popen[bytes]

    def signal(self, number: int) -> None:
        for process in (*psutil.Process(self.process.pid).children(recursive=True), self.process):
            os.kill(process.pid, number)


@pytest.fixture
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = MANAGE\n"
        f"database_uri = sqlite:///{tmp_path}/auth.db\n"
        "admin_username = admin\nadmin_password = a-long-password\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    options = ["--backend-store-uri", f"sqlite:///{tmp_path}/store.db", "--port", str(port), "--workers", "1"]
    options += ["--serve-artifacts", "--artifacts-destination", str(tmp_path / "artifacts"), "--app-name", "basic-auth"]
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
    }
    log = (tmp_path / "log").open("wb")
    command = [sys.executable, "-m", "mlflow", "server", *options]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
                assert time.monotonic() < end, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.2)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-long-password")
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(url)
        yield Server(url, process)
        mlflow.set_tracking_uri(before)
    finally:
        with contextlib.suppress(ProcessLookupError):  # a test has killed it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


class Signals(keras.callbacks.Callback):
    """Sends the server's processes a signal at the end of an epoch, from the rank."""

    def __init__(self, pid: int, at: dict[int, int]) -> None:
        super().__init__()
        self.pid = pid
        self.at = at

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch in self.at:
            for process in (*psutil.Process(self.pid).children(recursive=True), psutil.Process(self.pid)):
                os.kill(process.pid, self.at[epoch])


def fit(data: DataFrame, **options: Any) -> Any:
    return KerasRegressor(model=models.regressor(), loss="mse", epochs=3, verbose=0, **options).fit(data)


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
    fitted = fit(data, experimentName="still", callbacks=[Signals(server.process.pid, at)])
    (run,) = mlflow.search_runs(experiment_names=["still"], output_format="list")
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    np.testing.assert_allclose([point.value for point in losses], fitted.summary.history["loss"])
    assert run.info.status == "FINISHED"


def test_a_server_that_goes_costs_what_it_would_have_logged_and_it_is_kept(
    data: DataFrame, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued, "_CLOSING_SECONDS", 2.0)
    with pytest.warns(RuntimeWarning, match=r"Not logged.*summary\.unlogged"):
        fitted = fit(data, experimentName="gone", callbacks=[Signals(server.process.pid, {1: signal.SIGKILL})])
    assert fitted.transform(data).where("prediction is not null").count() == 60
    kept = {entry["epoch"]: entry["metrics"]["loss"] for entry in fitted.summary.unlogged if "epoch" in entry}
    assert 2 in kept
    assert kept[2] == pytest.approx(fitted.summary.history["loss"][2])


def test_wrong_passwords_are_refused_before_any_job(
    data: DataFrame, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    for options in ({"experimentName": "closed"}, {}):
        with pytest.raises(TrackingError, match=r"(?s)experiment .*can't be used.*MLFLOW_TRACKING_PASSWORD"):
            fit(data, **options)
