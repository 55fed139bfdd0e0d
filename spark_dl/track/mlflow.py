"""One MLflow run for each fit, written by the driver."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, RunTag
from mlflow.environment_variables import MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.tracking.fluent import _active_run_stack, _get_experiment_id
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID
from mlflow.utils.rest_utils import http_request

from spark_dl.errors import TrackingError, explain
from spark_dl.track import flavor
from spark_dl.track.tracker import LoggedData, LoggedModel

__all__ = ["MlflowTracker", "active_run_id", "open_tracker"]

_ANSWER_SECONDS = 5.0
_LONGEST_PARAM, _CUT = 500, "..."
_PARAMS_A_CALL, _METRICS_A_CALL = 100, 1000
_EVENTS, _FAILURE = "events.txt", "spark_dl.failure"


def open_tracker(
    experiment_name: str | None, run_name: str | None, registered_model_name: str | None, parent: str = ""
) -> MlflowTracker:
    """A tracker on the store that MLflow is set to.

    Args:
        experiment_name: where a run is opened; None for MLflow's current experiment.
        run_name: of a run that is opened.
        registered_model_name: the registered model that gets a new version, if any.
        parent: the id of the run below which a run is opened; empty for none.

    Raises:
        TrackingError: the server doesn't answer or doesn't let us in, or the experiment or run can't be used.
    """
    uri = mlflow.get_tracking_uri()
    _check_answers(uri)
    joined = "" if parent else active_run_id()
    parent = parent or ("" if joined else _enclosing_run_id())
    try:
        client = mlflow.MlflowClient()
        if parent or joined:
            experiment = str(client.get_run(parent or joined).info.experiment_id)
        else:
            experiment = _experiment(client, experiment_name)
    except TrackingError:
        raise
    except Exception as error:  # a database's own, too
        what = f"run {parent or joined}" if parent or joined else f"experiment {experiment_name or 'that is current'}"
        raise TrackingError(
            explain(
                f"The {what} can't be used at {_shown(uri)}.",
                received=f"{type(error).__name__}: {error}",
                fix="Check the name, the server and the credentials (MLFLOW_TRACKING_USERNAME, "
                "MLFLOW_TRACKING_PASSWORD), or switch tracking off with tracking=None.",
            )
        ) from error
    return MlflowTracker(client, experiment, run_name, registered_model_name, joined, parent)


def active_run_id() -> str:
    """The run that this thread, or the process's environment, says is under way; empty where there is none."""
    active = mlflow.active_run()
    return active.info.run_id if active else MLFLOW_RUN_ID.get() or ""


def _enclosing_run_id() -> str:
    """The main thread's active run, for a fit in another thread: a CrossValidator's around a Pipeline."""
    main = threading.main_thread()
    runs = _active_run_stack.get_all_thread_values().get(main.ident) if threading.current_thread() is not main else None
    return str(runs[-1].info.run_id) if runs else ""


def _experiment(client: mlflow.MlflowClient, name: str | None) -> str:
    """The experiment's id; one of a new name is made."""
    if name is None:
        found = client.get_experiment(_get_experiment_id())
    else:
        known = client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(client.create_experiment(name))
            except MlflowException:
                known = client.get_experiment_by_name(name)
                if known is None:
                    raise
                # another fit has made it meanwhile
        found = known
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise TrackingError(
            explain(
                f"The experiment {found.name!r} was deleted.",
                expected="one that is there",
                received=f"id {found.experiment_id}, {found.lifecycle_stage}",
                fix=f"Restore it (mlflow experiments restore -x {found.experiment_id}), or set another experimentName.",
            )
        )
    return str(found.experiment_id)


def _source(files: Sequence[str]) -> str:
    """The file, or the directory below which all files are, as Spark reads it; "" where there is none."""
    if len(files) == 1:
        return unquote(files[0])
    folders = {name.rpartition("/")[0] for name in files}
    parts = zip(*(folder.split("/") for folder in folders), strict=False)
    return unquote("/".join(same[0] for same in itertools.takewhile(lambda some: len(set(some)) == 1, parts)))


def _check_answers(uri: str) -> None:
    # MLflow itself would try for minutes.
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    try:
        http_request(
            get_default_host_creds(uri),
            "/health",
            "GET",
            max_retries=0,
            timeout=_ANSWER_SECONDS,
            raise_on_status=False,  # it answered; whether it lets us in is for MLflow to say
        )
    except Exception as error:
        raise TrackingError(
            explain(
                "The MLflow server doesn't answer.",
                expected=f"an answer from {_shown(uri)} within {_ANSWER_SECONDS:g} s",
                received=f"{type(error).__name__}: {error}",
                fix="Start the server, set MLFLOW_TRACKING_URI, or switch tracking off with tracking=None.",
            )
        ) from error


def _shown(uri: str) -> str:
    """Without a name and password in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri


class MlflowTracker:
    """Writes into a run: the active one, that of a fit that was cut short, or a new one.

    Args:
        client: of the store.
        experiment_id: where a run is opened.
        run_name: the name of a run that is opened.
        registered_model_name: the registered model that gets a new version, if any.
        joined: the run that is under way; empty for none. It is left open.
        parent: the run below which one is opened; empty for none.
    """

    def __init__(
        self,
        client: mlflow.MlflowClient,
        experiment_id: str,
        run_name: str | None,
        registered_model_name: str | None,
        joined: str,
        parent: str,
    ) -> None:
        self.run_id = joined
        self._registered_model_name = registered_model_name
        self._experiment_id = experiment_id
        self._run_name = run_name
        self._joined = joined
        self._parent = parent
        self._events: list[str] = []
        self._client = client

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        """Join the run that is under way, go on with that of a fit that was cut short, or open one; log the params.

        Raises:
            TrackingError: the server doesn't let us.
        """
        try:
            if not self._joined:
                self.run_id = self._reopened(resumed) or self._opened()
            self._log_params(params)
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        except Exception as error:
            if self.run_id:
                with contextlib.suppress(Exception):  # a server that is away now can't be told
                    self.end(error)
            raise TrackingError(
                explain(
                    f"The fit's run can't be opened at {_shown(mlflow.get_tracking_uri())}.",
                    received=f"{type(error).__name__}: {error}",
                    fix="Check the server and the credentials (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), or "
                    "switch tracking off with tracking=None.",
                )
            ) from error
        return "" if self._joined else self.run_id

    def _opened(self) -> str:
        # Not mlflow.start_run: a run that is active in this thread stays so where its end can't be told.
        tags = resolve_tags({MLFLOW_PARENT_RUN_ID: self._parent} if self._parent else None)
        return str(self._client.create_run(self._experiment_id, tags=tags, run_name=self._run_name).info.run_id)

    def _reopened(self, run_id: str) -> str:
        """The run, where it is there and not finished; else none. What was told of it is kept."""
        if not run_id:
            return ""
        try:
            info = self._client.get_run(run_id).info
        except MlflowException:  # another store's, or removed for good
            return ""
        if info.lifecycle_stage != LifecycleStage.ACTIVE or info.status == "FINISHED":
            return ""
        self._client.update_run(run_id, status="RUNNING")
        self._experiment_id = info.experiment_id
        with contextlib.suppress(Exception):  # an artifact store that can't be read now costs what was told before
            if any(file.path == _EVENTS for file in self._client.list_artifacts(run_id)):
                self._events = mlflow.artifacts.load_text(f"{info.artifact_uri}/{_EVENTS}").splitlines()
        return run_id

    def _log_params(self, params: Mapping[str, Any]) -> None:
        known = self._client.get_run(self.run_id).data.params
        entries = []
        for name, value in params.items():
            text = str(value)
            text = text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - len(_CUT)] + _CUT
            # A run's param can't change: another fit in the same run gets names of its own.
            names = itertools.chain([name], (f"fit{i}.{name}" for i in itertools.count(2)))
            entries.append(Param(next(free for free in names if known.get(free, text) == text), text))
        for start in range(0, len(entries), _PARAMS_A_CALL):
            self._client.log_batch(self.run_id, params=entries[start : start + _PARAMS_A_CALL])

    def data(self, data: LoggedData) -> None:
        """Log the rows as an MLflow Dataset, an input of the run."""
        source = _source(data.files)
        columns = None if data.columns is None else {"mlflow_colspec": flavor.schema_of(data.columns).to_dict()}
        dataset = Dataset(
            name=source.rstrip("/").rpartition("/")[2] or "rows",
            digest=data.digest,
            source_type="spark" if source else "code",
            source=json.dumps({"path": source} if source else {"tags": resolve_tags()}),
            schema=json.dumps(columns),
            profile=json.dumps({"num_rows": data.rows}),
        )
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, data.context)])])

    def epoch(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """Log an epoch's metrics."""
        when = int(at * 1000)
        entries = [Metric(name, float(value), when, epoch) for name, value in metrics.items()]
        for start in range(0, len(entries), _METRICS_A_CALL):
            self._client.log_batch(self.run_id, entries[start : start + _METRICS_A_CALL])

    def history(self, history: Mapping[str, list[float]], first_epoch: int) -> None:
        """Log what of these metrics of epochs isn't there."""
        now, missing = int(time.time() * 1000), []
        for name, values in history.items():
            there = {point.step for point in self._client.get_metric_history(self.run_id, name)}
            steps = enumerate(values, start=first_epoch)
            missing += [Metric(name, float(value), now, step) for step, value in steps if step not in there]
        for start in range(0, len(missing), _METRICS_A_CALL):
            self._client.log_batch(self.run_id, missing[start : start + _METRICS_A_CALL])

    def event(self, text: str) -> None:
        """Keep the events, one below the other, as an artifact."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}"
        self._client.log_text(self.run_id, "\n".join([*self._events, line]) + "\n", _EVENTS)
        self._events.append(line)

    def model(self, model: LoggedModel) -> None:
        """Log the model."""
        # By ids: a run that becomes active, be it for a moment, is the user's business.
        made = self._client.create_logged_model(self._experiment_id, "model", source_run_id=self.run_id)
        flavor.log(model, "model", self._registered_model_name, run_id=self.run_id, model_id=made.model_id)

    def file(self, path: str, content: Callable[[], bytes]) -> None:
        """Log an artifact, under this path."""
        with tempfile.TemporaryDirectory() as directory:
            local = Path(directory, Path(path).name)
            local.write_bytes(content())
            folder = "/".join(Path(path).parts[:-1]) or None
            self._client.log_artifact(self.run_id, str(local), folder)

    def end(self, failure: BaseException | None) -> None:
        """End a run that was opened here; note the failure in any."""
        if failure is not None:
            self._client.set_tag(self.run_id, _FAILURE, f"{type(failure).__name__}: {failure}"[:5000])
        if not self._joined:
            killed = isinstance(failure, KeyboardInterrupt)
            status = "FINISHED" if failure is None else "KILLED" if killed else "FAILED"
            self._client.set_terminated(self.run_id, status)

    def may_pass(self, error: Exception) -> bool:
        """A server that is away or has trouble; not one that refuses, and no file that can't be written."""
        if isinstance(error, MlflowException):
            return _may_pass(error.get_http_status_code())
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return _may_pass(error.response.status_code)
        return isinstance(error, (requests.RequestException, ConnectionError, TimeoutError))

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """Nothing is kept here."""
        return []


def _may_pass(status: int) -> bool:
    return status >= 500 or status == 429
