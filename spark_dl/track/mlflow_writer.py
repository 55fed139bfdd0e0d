"""Writing of a fit's params, tags, datasets and metrics into its MLflow run; a refused entry doesn't cost others."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import mlflow
import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from spark_dl._compat.mlflow import DATASET_CONTEXT_TAG, context_tags
from spark_dl.redaction import redact, redact_value
from spark_dl.track import flavor
from spark_dl.track.entries import MetricNames, log_each, numbers_of
from spark_dl.track.tracker import LoggedData

__all__ = ["RunWriter", "is_refusal", "is_transient"]

_LONGEST_PARAM, _LONGEST_TAG, _LONGEST_NAME, _CUT = 500, 5000, 500, "..."
_PARAMS_A_CALL, _METRICS_A_CALL = 100, 1000
_NAMES = "spark_dl.metric_names"


class RunWriter:
    """Writer of one MLflow run.

    Args:
        client: The client of the tracking store.
        run_id: The id of the run.
        taken: The names of metrics that the user has logged in the run.

    Attributes:
        refused: The entries that the store has refused, with the reasons, as JSON-compatible dicts.
    """

    def __init__(self, client: mlflow.MlflowClient, run_id: str, taken: Iterable[str] = ()) -> None:
        self.refused: list[dict[str, Any]] = []
        self._client = client
        self._run_id = run_id
        self._taken = tuple(taken)
        self._names = MetricNames(taken=self._taken)

    def params(self, params: Mapping[str, Any]) -> None:
        """Log params. One that the run has with another value is logged as `fit2.NAME`, `fit3.NAME` and so on."""
        run = self._client.get_run(self._run_id).data
        with contextlib.suppress(ValueError):  # very many names make a truncated tag
            self._names = MetricNames(json.loads(run.tags.get(_NAMES, "{}")), self._taken)
        known, entries = run.params, []
        for name, value in params.items():
            text = _cut(redact(str(value)), _LONGEST_PARAM)
            # A run's param can't change, so a param that the user has set to another value needs another name here.
            names = itertools.chain([name], (f"fit{i}.{name}" for i in itertools.count(2)))
            entries.append(Param(next(free for free in names if known.get(free, text) == text), text))
        for start in range(0, len(entries), _PARAMS_A_CALL):
            some = entries[start : start + _PARAMS_A_CALL]
            refused = log_each(lambda few: self._client.log_batch(self._run_id, params=few), some, is_refusal)
            self.keep(({"param": param.key, "value": param.value}, error) for param, error in refused)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        entries = [RunTag(name, _cut(redact(value), _LONGEST_TAG)) for name, value in tags.items()]
        refused = log_each(lambda few: self._client.log_batch(self._run_id, tags=few), entries, is_refusal)
        self.keep(({"tag": tag.key, "value": tag.value}, error) for tag, error in refused)

    def log_dataset(self, data: LoggedData) -> None:
        """Log the rows as an MLflow Dataset, an input of the run."""
        source = redact(_source(data.files))
        columns = None if data.columns is None else {"mlflow_colspec": flavor.schema_of(data.columns).to_dict()}
        dataset = Dataset(
            name=_cut(", ".join(data.tables) or source.rstrip("/").rpartition("/")[2] or "rows", _LONGEST_NAME),
            digest=data.digest,
            source_type="delta_table" if data.is_delta else "spark" if source or data.tables else "code",
            source=json.dumps(_source_fields(data, source)),
            schema=json.dumps(columns),
            profile=json.dumps({"num_rows": data.rows}),
        )
        context = [InputTag(DATASET_CONTEXT_TAG, data.context)]
        try:
            self._client.log_inputs(self._run_id, [DatasetInput(dataset, context)])
        except Exception as error:
            if not is_refusal(error) or columns is None:
                raise
            # With thousands of columns, the schema alone is too long.
            plain = Dataset.from_dictionary({**dataset.to_dictionary(), "schema": "null"})
            self._client.log_inputs(self._run_id, [DatasetInput(plain, context)])
            self.keep([({"data": data.context, "schema": "not logged"}, error)])

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any], at: float) -> None:
        """Log an epoch's metrics, which are numbers or vectors of numbers."""
        entries, foreign = self._metrics(metrics, int(at * 1000), epoch)
        self._log_metrics(entries)
        self.keep(foreign)  # last, since a failure above has the whole call retried

    def history(self, history: Mapping[str, Sequence[Any]], first_epoch: int) -> None:
        """Log the metrics that the run lacks."""
        now, there, missing = int(time.time() * 1000), {}, []
        epochs = max(map(len, history.values()), default=0)
        for index in range(epochs):
            metrics = {name: values[index] for name, values in history.items() if index < len(values)}
            for name, metric in self._metrics(metrics, now, first_epoch + index)[0]:
                if metric.key not in there:
                    points = self._client.get_metric_history(self._run_id, metric.key)
                    there[metric.key] = {point.step for point in points}
                if metric.step not in there[metric.key]:
                    missing.append((name, metric))
        self._log_metrics(missing)

    def _metrics(
        self, metrics: Mapping[str, Any], when: int, epoch: int
    ) -> tuple[list[tuple[str, Metric]], list[tuple[Mapping[str, Any], Exception]]]:
        """Convert an epoch's metrics to MLflow's.

        Returns:
            The entries, each after the name that the metric has in Keras; and the values that aren't numbers, each
            with the error.
        """
        numbers: list[tuple[str, str, float]] = []
        foreign: list[tuple[Mapping[str, Any], Exception]] = []
        for name, part, value in numbers_of(metrics):
            try:
                numbers.append((name, part, float(value)))
            except (TypeError, ValueError) as error:
                foreign.append(({"epoch": epoch, "metrics": {part: redact(repr(value))[:200]}}, error))
        known = len(self._names.changed)
        names = self._names.accepted([part for _, part, _ in numbers])
        if len(self._names.changed) > known:
            self._log_names()
        return [(name, Metric(names[part], value, when, epoch)) for name, part, value in numbers], foreign

    def _log_names(self) -> None:
        """Record in a tag which metrics are logged under other names than their own."""
        text = json.dumps(self._names.changed, ensure_ascii=False)
        try:
            self._client.set_tag(self._run_id, _NAMES, _cut(text, _LONGEST_TAG))
        except Exception as error:
            if is_transient(error):
                raise
            self.keep([({"tag": _NAMES, "value": text}, error)])

    def _log_metrics(self, entries: Sequence[tuple[str, Metric]]) -> None:
        for start in range(0, len(entries), _METRICS_A_CALL):
            some = entries[start : start + _METRICS_A_CALL]
            refused = log_each(
                lambda few: self._client.log_batch(self._run_id, [metric for _, metric in few]), some, is_refusal
            )
            self.keep(
                ({"epoch": metric.step, "metrics": {name: metric.value}}, error) for (name, metric), error in refused
            )

    def keep(self, refused: Iterable[tuple[Mapping[str, Any], Exception]]) -> None:
        """Add entries to `refused`.

        Args:
            refused: The entries as JSON-compatible dicts, each with the error of the store.
        """
        for what, error in refused:
            reason = redact(f"{type(error).__name__}: {error}")[:1000]
            self.refused.append({**what, "reason": reason, "at": time.time()})


def is_refusal(error: Exception) -> bool:
    """Return whether an error may be due to the entry, and not to the store's availability or the credentials."""
    if not isinstance(error, MlflowException):
        return not is_transient(error)
    # A local database reports a value that it can't store as status 500. A server's 500 counts as transient.
    local = error.get_http_status_code() == 500 and not mlflow.get_tracking_uri().startswith("http")
    return local or error.get_http_status_code() == 400


def is_transient(error: Exception) -> bool:
    """Return whether an error means an unreachable or failing server, not a refusal or a local file's error."""
    if isinstance(error, MlflowException):
        return _may_pass(error.get_http_status_code())
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _may_pass(error.response.status_code)
    return isinstance(error, (requests.RequestException, ConnectionError, TimeoutError))


def _may_pass(status: int) -> bool:
    return status >= 500 or status == 429


def _source(files: Sequence[str]) -> str:
    """Find the path of the data: of the one file, or of the deepest directory that holds all files; "" without any."""
    if len(files) == 1:
        return unquote(files[0])
    folders = {name.rpartition("/")[0] for name in files}
    parts = zip(*(folder.split("/") for folder in folders), strict=False)
    return unquote("/".join(same[0] for same in itertools.takewhile(lambda some: len(set(some)) == 1, parts)))


def _source_fields(data: LoggedData, source: str) -> dict[str, Any]:
    """Return the source as MLflow's SparkDatasetSource, DeltaDatasetSource or CodeDatasetSource read it."""
    if source:
        return {"path": source} | ({} if data.version is None else {"delta_table_version": data.version})
    return {"table_name": data.tables[0]} if data.tables else {"tags": redact_value(context_tags())}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - len(_CUT)] + _CUT
