"""Reading from MLflow: the run of a fit, and the address of the MLflow UI."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from spark_dl._compat.mlflow import DATASET_CONTEXT_TAG
from spark_dl.errors import TrackingError, explain

__all__ = ["LoggedFit", "logged_fit", "page"]


@dataclass(frozen=True)
class LoggedFit:
    """A fit, read from its run.

    Attributes:
        experiment: The name of the experiment.
        name: The name of the run, or its id if it has none.
        files: The requested artifacts: path -> content.
        source: The path that the training rows were read from; "" if it isn't known.
        digest: The digest of the training rows; "" if it isn't known.
    """

    experiment: str
    name: str
    files: dict[str, bytes]
    source: str
    digest: str


def logged_fit(run_id: str, files: tuple[str, ...]) -> LoggedFit:
    """Read a fit's run.

    Args:
        run_id: The id of the run.
        files: The paths of the artifacts to read.

    Raises:
        TrackingError: The run can't be read, or lacks an artifact.
    """
    uri = mlflow.get_tracking_uri()
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id).name
    except MlflowException as error:
        raise TrackingError(
            explain(
                f"The run {run_id!r} can't be read.",
                expected=f"the id of a run at {uri}",
                received=str(error),
                fix="Look it up on the page (spark-dl ui), and set MLFLOW_TRACKING_URI to its store.",
            )
        ) from error
    try:
        with tempfile.TemporaryDirectory() as into:
            fetched = {
                file: mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/{file}", dst_path=into)
                for file in files
            }
            contents = {file: Path(path).read_bytes() for file, path in fetched.items()}
    except (MlflowException, OSError) as error:
        raise TrackingError(
            explain(
                f"The run {run_id!r} doesn't have what a fit of spark_dl logs.",
                expected=", ".join(files),
                received=f"{type(error).__name__}: {error}",
                fix="Name the run of a fit by spark_dl, and check MLFLOW_TRACKING_URI.",
            )
        ) from error
    source = digest = ""
    for one in run.inputs.dataset_inputs if run.inputs else ():
        contexts = [tag.value for tag in one.tags if tag.key == DATASET_CONTEXT_TAG]
        if contexts == ["training"]:
            source, digest = json.loads(one.dataset.source).get("path", ""), one.dataset.digest
    return LoggedFit(experiment, run.info.run_name or run_id, contents, source, digest)


def page(port: int) -> tuple[str, list[str]]:
    """Return the address of the MLflow UI on the current tracking store, and the command that serves it.

    Args:
        port: The port for the command.

    Returns:
        The URL and the command; the command is empty if the store is a server or Databricks, which have their own UI.

    Raises:
        TrackingError: The store is Databricks, and DATABRICKS_HOST isn't set.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        return uri, []
    if uri.startswith("databricks"):
        host = os.environ.get("DATABRICKS_HOST", "").rstrip("/")
        if not host:
            raise TrackingError(
                explain(
                    "The address of the Databricks workspace isn't known.",
                    expected="DATABRICKS_HOST=https://<workspace>",
                    received=f"the tracking URI {uri!r}",
                    fix="Set DATABRICKS_HOST, or open the workspace's page by hand.",
                )
            )
        return f"{host}/ml/experiments", []
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)]
    return f"http://127.0.0.1:{port}", command
