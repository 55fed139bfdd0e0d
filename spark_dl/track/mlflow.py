"""One MLflow run for each fit, written by the driver."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.tracking.fluent import _get_experiment_id
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from spark_dl.errors import TrackingError, explain
from spark_dl.figures import history_figure
from spark_dl.track import flavor
from spark_dl.track.tracker import LoggedData, LoggedModel

__all__ = ["MlflowTracker", "open_tracker"]

_ANSWER_SECONDS = 5.0
_LONGEST_PARAM = 500
_PARAMS_A_CALL = 100


def open_tracker(experiment_name: str | None, run_name: str | None, registered_model_name: str | None) -> MlflowTracker:
    """A tracker on the store that MLflow is set to.

    Raises:
        TrackingError: the server doesn't answer, or the experiment can't be used.
    """
    uri = mlflow.get_tracking_uri()
    _check_answers(uri)
    experiment_id = None
    try:
        if experiment_name is not None and mlflow.active_run() is None:
            found = mlflow.get_experiment_by_name(experiment_name)
            experiment_id = found.experiment_id if found else mlflow.create_experiment(experiment_name)
    except MlflowException as error:
        raise TrackingError(
            explain(f"The experiment {experiment_name!r} can't be used at {uri}.", received=str(error))
        ) from error
    return MlflowTracker(experiment_id, run_name, registered_model_name)


def _common_folder(files: Sequence[str]) -> str:
    """The directory below which all files are; "" where there is none."""
    folders = {name.rpartition("/")[0] for name in files}
    parts = zip(*(folder.split("/") for folder in folders), strict=False)
    return "/".join(same[0] for same in itertools.takewhile(lambda some: len(set(some)) == 1, parts))


def _check_answers(uri: str) -> None:
    # MLflow itself would try for minutes.
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    try:
        urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=_ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answered; whether it lets us in is for MLflow to say
    except OSError as error:
        raise TrackingError(
            explain(
                "The MLflow server doesn't answer.",
                expected=f"an answer from {uri} within {_ANSWER_SECONDS:g} s",
                received=f"{type(error).__name__}: {error}",
                fix="Start the server, set MLFLOW_TRACKING_URI, or switch tracking off with tracking=None.",
            )
        ) from error


class MlflowTracker:
    """Writes into the active run, or opens one and ends it.

    Args:
        experiment_id: where a run is opened; None for MLflow's current experiment.
        run_name: the name of a run that is opened.
        registered_model_name: the registered model that gets a new version, if any.
    """

    def __init__(self, experiment_id: str | None, run_name: str | None, registered_model_name: str | None) -> None:
        self.run_id = ""
        self._registered_model_name = registered_model_name
        self._experiment_id = experiment_id
        self._run_name = run_name
        self._opened = False
        self._events: list[str] = []
        self._client = mlflow.MlflowClient()

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Join the active run or open one; log the params.

        Raises:
            TrackingError: the server doesn't let us.
        """
        try:
            self._open(params, tags)
        except MlflowException as error:
            raise TrackingError(
                explain(
                    f"The fit's run can't be opened at {mlflow.get_tracking_uri()}.",
                    received=str(error),
                    fix="Check the server and the credentials (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), or "
                    "switch tracking off with tracking=None.",
                )
            ) from error

    def _open(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        active = mlflow.active_run()
        if active is None:
            # Not mlflow.start_run: a run that is active in this thread stays so where its end can't be told.
            experiment = self._experiment_id or _get_experiment_id()
            active = self._client.create_run(experiment, tags=resolve_tags(), run_name=self._run_name)
            self._opened = True
        self.run_id = active.info.run_id
        known = self._client.get_run(self.run_id).data.params
        entries = []
        for name, value in params.items():
            text = str(value)[:_LONGEST_PARAM]
            # A run's param can't change: another fit in the same run gets names of its own.
            names = itertools.chain([name], (f"fit{i}.{name}" for i in itertools.count(2)))
            entries.append(Param(next(free for free in names if known.get(free, text) == text), text))
        for start in range(0, len(entries), _PARAMS_A_CALL):
            self._client.log_batch(self.run_id, params=entries[start : start + _PARAMS_A_CALL])
        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def data(self, data: LoggedData) -> None:
        """Log the rows as an MLflow Dataset, an input of the run."""
        folder = _common_folder(data.files)
        columns = None if data.columns is None else {"mlflow_colspec": flavor.schema_of(data.columns).to_dict()}
        dataset = Dataset(
            name=folder.rstrip("/").rpartition("/")[2] or "rows",
            digest=data.digest,
            source_type="spark" if folder else "code",
            source=json.dumps({"path": folder} if folder else {"tags": resolve_tags()}),
            schema=json.dumps(columns),
            profile=json.dumps({"num_rows": data.rows}),
        )
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, data.context)])])

    def epoch(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """Log an epoch's metrics."""
        when = int(at * 1000)
        self._client.log_batch(self.run_id, [Metric(n, float(v), when, epoch) for n, v in metrics.items()])

    def event(self, text: str) -> None:
        """Keep the events, one below the other, as the artifact events.txt."""
        self._events.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}")
        self._client.log_text(self.run_id, "\n".join(self._events) + "\n", "events.txt")

    def model(self, model: LoggedModel, history: Mapping[str, list[float]]) -> None:
        """Log the curves of loss and metrics, and the model."""
        self._client.log_figure(self.run_id, history_figure(history), "history.png")
        # The logged model belongs to the experiment of the active run.
        with mlflow.start_run(run_id=self.run_id) if self._opened else contextlib.nullcontext():
            flavor.log(model, "model", self._registered_model_name)

    def file(self, path: str, content: bytes) -> None:
        """Log an artifact, under this path."""
        with tempfile.TemporaryDirectory() as directory:
            local = Path(directory, Path(path).name)
            local.write_bytes(content)
            folder = "/".join(Path(path).parts[:-1]) or None
            self._client.log_artifact(self.run_id, str(local), folder)

    def end(self, failure: BaseException | None) -> None:
        """End a run that was opened here; note the failure in any."""
        if failure is not None:
            self._client.set_tag(self.run_id, "spark_dl.failure", f"{type(failure).__name__}: {failure}"[:5000])
        if self._opened:
            self._client.set_terminated(self.run_id, "FINISHED" if failure is None else "FAILED")
