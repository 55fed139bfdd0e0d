"""MLflow tracker: one run per fit, written by the driver."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import mlflow
from mlflow.entities import LifecycleStage, RunInfo
from mlflow.environment_variables import MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException

from spark_dl._compat.mlflow import (
    PARENT_RUN_TAG,
    active_run_of_thread,
    check_server,
    context_tags,
    current_experiment_id,
    end_run,
)
from spark_dl.errors import TrackingError, explain
from spark_dl.redaction import redact, redact_value
from spark_dl.track import flavor
from spark_dl.track.mlflow_writer import RunWriter, is_refusal, is_transient
from spark_dl.track.tracker import LoggedData, LoggedModel

__all__ = ["MlflowTracker", "active_run_id", "open_tracker"]

_ANSWER_SECONDS = 5.0
_DESCRIPTION = "mlflow.note.content"  # one of MLflow's documented tags
_EVENTS, _FAILURE, _LONGEST_FAILURE = "events.txt", "spark_dl.failure", 5000
# A param that marks an active run as used by a fit. Since a param never changes, only one of several concurrent fits
# can claim the run.
_JOINED = "spark_dl.joined"


def open_tracker(
    experiment_name: str | None, run_name: str | None, registered_model_name: str | None, parent: str = ""
) -> MlflowTracker:
    """Open a tracker on MLflow's current tracking store.

    Args:
        experiment_name: The experiment for a new run; None for MLflow's current experiment.
        run_name: The name of a new run; None for one that MLflow makes up.
        registered_model_name: The registered model that gets a new version; None for no registration.
        parent: The id of the parent run of a new run; "" to use the active run, if there is one.

    Raises:
        TrackingError: The server doesn't answer, the credentials are refused, or the experiment or run can't be used.
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
    except Exception as error:  # includes the errors of a database
        what = f"run {parent or joined}" if parent or joined else f"experiment {experiment_name or 'that is current'}"
        raise TrackingError(
            explain(
                f"The {what} can't be used at {redact(uri)}.",
                expected="a server or store that answers, with this name in it",
                received=f"{type(error).__name__}: {error}",
                fix="Check the name, the server and the credentials (MLFLOW_TRACKING_USERNAME, "
                "MLFLOW_TRACKING_PASSWORD), or switch tracking off with tracking=None.",
            )
        ) from error
    return MlflowTracker(client, experiment, run_name, registered_model_name, joined, parent)


def active_run_id() -> str:
    """Return the id of this thread's active run, or else MLFLOW_RUN_ID; "" if there is neither."""
    active = mlflow.active_run()
    return active.info.run_id if active else MLFLOW_RUN_ID.get() or ""


def _enclosing_run_id() -> str:
    """Return the id of the main thread's active run for a fit in another thread, as of a CrossValidator; else ""."""
    main = threading.main_thread()
    return "" if threading.current_thread() is main else active_run_of_thread(main.ident)


def _experiment(client: mlflow.MlflowClient, name: str | None) -> str:
    """Return the id of an experiment, which is created if its name is new.

    Raises:
        TrackingError: The experiment was deleted.
    """
    if name is None:
        found = client.get_experiment(current_experiment_id())
    else:
        known = client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(client.create_experiment(name))
            except MlflowException:
                known = client.get_experiment_by_name(name)
                if known is None:
                    raise
                # another fit has created it meanwhile
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


def _check_answers(uri: str) -> None:
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    try:
        check_server(uri, _ANSWER_SECONDS)  # MLflow checks the credentials later
    except Exception as error:
        raise TrackingError(
            explain(
                "The MLflow server doesn't answer.",
                expected=f"an answer from {redact(uri)} within {_ANSWER_SECONDS:g} s",
                received=f"{type(error).__name__}: {error}",
                fix="Start the server, set MLFLOW_TRACKING_URI, or switch tracking off with tracking=None.",
            )
        ) from error


class MlflowTracker:
    """Tracker that logs into an MLflow run: the active one, that of the interrupted fit, or a new one.

    An active run holds one fit, since params and metrics of two would mix: a second fit gets a child run.

    Args:
        client: The client of the tracking store.
        experiment_id: The id of the experiment for a new run.
        run_name: The name of a new run; None for one that MLflow makes up.
        registered_model_name: The registered model that gets a new version; None for no registration.
        joined: The id of the active run, which is left open; "" if there is none.
        parent: The id of the parent run of a new run; "" for no parent.

    Attributes:
        run_id: The id of the run.
        notes: Notes for the user about the location of the fit's run.
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
        self._unnamed = False  # whether this fit has opened the run, without a name
        self._joined = joined
        self._parent = parent
        self.notes: list[str] = []
        self._events: list[str] = []
        self._taken: tuple[str, ...] = ()
        self._client = client
        self._writer = RunWriter(client, joined)

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        """Join the active run, reopen that of the interrupted fit, or create one; log params and tags.

        Args:
            params: The options of the fit.
            tags: The facts about the fit.
            resumed: The id of the run of the interrupted fit that this one resumes; "" if there is none.

        Returns:
            The id of the run.

        Raises:
            TrackingError: The run can't be opened or written.
        """
        try:
            if self._joined:
                self._join(resumed)
            else:
                self.run_id = self._reopened(resumed) or self._opened()
            self._writer = RunWriter(self._client, self.run_id, self._taken)
            self._writer.params(params)
            self._writer.tags(tags)
        except Exception as error:
            if self.run_id:
                with contextlib.suppress(Exception):  # the server may be unreachable
                    self.finish(error)
            raise TrackingError(
                explain(
                    f"The MLflow run of the fit can't be opened at {redact(mlflow.get_tracking_uri())}.",
                    expected="a server or store that answers",
                    received=f"{type(error).__name__}: {error}",
                    fix="Check the server and the credentials (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), or "
                    "switch tracking off with tracking=None.",
                )
            ) from error
        return self.run_id

    def _join(self, resumed: str) -> None:
        """Use the active run, or a child run of it if the active one holds another fit."""
        if resumed == self._joined:
            self._read_events(self._client.get_run(resumed).info)
            return
        if self._claim(resumed):
            return
        active, self._joined, self._parent = self._joined, "", self._joined
        self.run_id = ""  # a failure from here on must not be logged in the active run
        self.run_id = self._reopened(resumed, below=active)
        if not self.run_id:
            self.run_id = self._opened()
            self.notes.append(f"The active run {active} holds another fit: this one's run is {self.run_id}, below it.")

    def _claim(self, resumed: str) -> bool:
        """Claim the active run for this fit; False if another fit has it, or if the resumed run is a child of it."""
        data = self._client.get_run(self._joined).data
        if _JOINED in data.params or any(name.startswith("spark_dl.") for name in data.tags):
            return False
        if resumed and self._reopened(resumed, below=self._joined, look=True):
            return False
        mine = uuid.uuid4().hex
        try:
            self._client.log_param(self._joined, _JOINED, mine)
        except Exception as error:
            if not is_refusal(error):
                raise
        # A concurrent fit may have been first.
        if self._client.get_run(self._joined).data.params.get(_JOINED, mine) != mine:
            return False
        # Curves of one name would be one curve.
        self._taken = tuple(data.metrics)
        return True

    def _opened(self) -> str:
        # Not mlflow.start_run, whose run would stay active in this thread if the server can't be reached at its end.
        tags = redact_value(context_tags({PARENT_RUN_TAG: self._parent} if self._parent else None))
        self._unnamed = self._run_name is None
        return str(self._client.create_run(self._experiment_id, tags=tags, run_name=self._run_name).info.run_id)

    def _reopened(self, run_id: str, below: str = "", look: bool = False) -> str:
        """Reopen a run that exists, isn't finished, and wasn't joined by a fit; read its events.

        Args:
            run_id: The id of the run; "" for none.
            below: The id that its parent run must have; "" for any.
            look: Whether to check only, and leave the run unchanged.

        Returns:
            The id of the run; "" if it can't be reopened.
        """
        if not run_id:
            return ""
        try:
            run = self._client.get_run(run_id)
        except MlflowException:  # it is in another store, or was deleted permanently
            return ""
        info, is_users = run.info, _JOINED in run.data.params
        if info.lifecycle_stage != LifecycleStage.ACTIVE or info.status == "FINISHED" or is_users:
            return ""
        if below and run.data.tags.get(PARENT_RUN_TAG) != below:
            return ""
        if look:
            return run_id
        self._client.update_run(run_id, status="RUNNING")
        self._experiment_id = info.experiment_id
        self._read_events(info)
        return run_id

    def _read_events(self, info: RunInfo) -> None:
        """Read the events that a run has already, to which later ones are appended."""
        with contextlib.suppress(Exception):  # without the artifact store, only the earlier events are lost
            if any(file.path == _EVENTS for file in self._client.list_artifacts(info.run_id)):
                self._events = mlflow.artifacts.load_text(f"{info.artifact_uri}/{_EVENTS}").splitlines()

    def describe(self, title: str, text: str, picture: str) -> None:
        """Name the run, if this fit opened it unnamed, and set its description, with the picture if there is one."""
        if self._joined:
            return
        if self._unnamed:
            self._client.update_run(self.run_id, name=redact(title))
        if picture and urlsplit(mlflow.get_tracking_uri()).scheme != "databricks":
            # The address at which MLflow's server has artifacts, relative to its pages.
            text += f"\n\n![{picture}](get-artifact?path={quote(picture)}&run_uuid={self.run_id})"
        if text:
            self._writer.tags({_DESCRIPTION: text})

    def log_dataset(self, data: LoggedData) -> None:
        """Log the rows as an MLflow Dataset, an input of the run."""
        self._writer.log_dataset(data)

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any], at: float) -> None:
        """Log an epoch's metrics."""
        self._writer.log_metrics(epoch, metrics, at)

    def history(self, history: Mapping[str, Sequence[Any]], first_epoch: int) -> None:
        """Log the metrics that the run lacks."""
        self._writer.history(history, first_epoch)

    def event(self, text: str) -> None:
        """Append an event, with the time, to the artifact `events.txt`."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}"
        self._client.log_text(self.run_id, "\n".join([*self._events, line]) + "\n", _EVENTS)
        self._events.append(line)

    def log_model(self, model: LoggedModel) -> None:
        """Log the model, and register it if a registered model was named."""
        # Uses ids, since only the user may make a run active, even for a moment.
        made = self._client.create_logged_model(self._experiment_id, "model", source_run_id=self.run_id)
        try:
            flavor.log(model, "model", run_id=self.run_id, model_id=made.model_id)
        except Exception:
            with contextlib.suppress(Exception):  # the first error may recur here
                self._client.finalize_logged_model(made.model_id, "FAILED")
            raise
        if self._registered_model_name:
            try:
                flavor.register(made.model_id, self._registered_model_name)
            except Exception as error:  # the model itself is logged
                self._writer.keep([({"registered model": self._registered_model_name}, error)])

    def log_artifact(self, path: str, content: Callable[[], bytes]) -> None:
        """Log a file as an artifact."""
        with tempfile.TemporaryDirectory() as directory:
            local = Path(directory, Path(path).name)
            local.write_bytes(content())
            folder = "/".join(Path(path).parts[:-1]) or None
            self._client.log_artifact(self.run_id, str(local), folder)

    def finish(self, failure: BaseException | None) -> None:
        """End the run unless it was joined, and set the failure as the tag `spark_dl.failure`."""
        if failure is not None:
            try:
                text = redact(f"{type(failure).__name__}: {failure}")[:_LONGEST_FAILURE]
                self._client.set_tag(self.run_id, _FAILURE, text)
            except Exception as error:  # the run must end anyway
                self._writer.keep([({"tag": _FAILURE}, error)])
        if not self._joined:
            killed = isinstance(failure, KeyboardInterrupt)
            status = "FINISHED" if failure is None else "KILLED" if killed else "FAILED"
            end_run(self._client, self.run_id, status)

    def is_transient(self, error: Exception) -> bool:
        """Return whether the error means an unreachable or failing server, so that a retry makes sense."""
        return is_transient(error)

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        """The entries that the store has refused, as JSON-compatible dicts."""
        return list(self._writer.refused)
