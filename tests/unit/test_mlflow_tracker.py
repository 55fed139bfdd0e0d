"""What MLflow's store refuses of a fit costs nothing else: a real sqlite store, without Spark."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import mlflow
import pytest
from mlflow.entities import Run
from mlflow_stores import sqlite_store

from spark_dl.data.column import Column
from spark_dl.data.specs import FeatureSpec
from spark_dl.score.heads import Regression
from spark_dl.score.serving import Serving
from spark_dl.track import LoggedData, LoggedModel, Tracker, tracker
from spark_dl.train.model.serialization import to_bytes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mlflow")
    with sqlite_store(folder, "fits"):
        yield folder


def opened(tags: dict[str, str] | None = None, resumed: str = "", **options: Any) -> tuple[Tracker, str]:
    values = {"experiment_name": None, "run_name": None, "registered_model_name": None, **options}
    params = values.pop("params", {"epochs": 2})
    made = tracker("mlflow", **values)
    return made, made.begin(params, tags or {"spark_dl.uid": "me"}, resumed)


def read(run_id: str) -> Run:
    return mlflow.get_run(run_id)


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run_id, name)]


def without_reason(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert all(entry["reason"] for entry in entries)
    return [{name: value for name, value in entry.items() if name not in ("reason", "at")} for entry in entries]


def test_one_refused_param_or_tag_costs_no_other(store: Path) -> None:
    params = {"epochs": 2, "a@b": 1, "long": "x" * 10_000, "": 3, "url": "ftp://me:S3CRET@h/x", "last": "1"}
    tags = {"spark_dl.uid": "me", "k" * 300: "1", "spark_dl.model": "m" * 10_000, "last": "2"}
    made, run_id = opened(params=params, tags=tags)
    made.finish(None)
    run = read(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params.items() >= {"epochs": "2", "last": "1", "url": "ftp://***@h/x"}.items()
    assert run.data.params["long"].startswith("xxx")
    assert run.data.tags.items() >= {"spark_dl.uid": "me", "last": "2"}.items()
    assert run.data.tags["spark_dl.model"].startswith("mmm")
    assert sorted(map(str, without_reason(made.unlogged))) == [
        "{'param': '', 'value': '3'}",
        "{'param': 'a@b', 'value': '1'}",
        f"{{'tag': '{'k' * 300}', 'value': '1'}}",
    ]


def test_a_run_is_named_and_described_unless_it_is_the_users(store: Path) -> None:
    made, run_id = opened()
    made.describe("KerasClassifier, 100 rows", "", "")
    made.describe("KerasClassifier, 100 rows", "a table, from ftp://me:S3CRET@h", "history.png")
    made.finish(None)
    run = read(run_id)
    assert run.info.run_name == "KerasClassifier, 100 rows"
    picture = f"![history.png](get-artifact?path=history.png&run_uuid={run_id})"
    assert run.data.tags["mlflow.note.content"] == f"a table, from ftp://***@h\n\n{picture}"

    named, named_id = opened(run_name="mine")
    named.describe("KerasClassifier, 100 rows", "a table", "")
    named.finish(None)
    assert read(named_id).info.run_name == "mine"
    assert read(named_id).data.tags["mlflow.note.content"] == "a table"

    for name, expected in (("the first fit's", "the first fit's"), (None, "KerasClassifier, 100 rows")):
        killed, killed_id = opened(run_name=name)
        killed.describe("KerasClassifier, 100 rows", "", "")
        killed.finish(ValueError("lost"))
        resumed, resumed_id = opened(resumed=killed_id)
        resumed.describe("KerasRegressor, 3 rows", "a table", "")
        resumed.finish(None)
        assert resumed_id == killed_id
        assert read(killed_id).info.run_name == expected

    with mlflow.start_run(run_name="the user's") as active:
        joined, _ = opened()
        joined.describe("KerasClassifier, 100 rows", "a table", "")
        joined.finish(None)
    assert read(active.info.run_id).info.run_name == "the user's"
    assert "mlflow.note.content" not in read(active.info.run_id).data.tags


METRICS: dict[str, Any] = {
    "loss": 0.5,
    "recall@5": 0.25,
    "recall_5": 0.75,
    "": 1.0,
    "/lead": 2.0,
    "x" * 300: 3.0,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "each": [0.1, 0.2, math.nan],
    "text": "words",
    "none": None,
}


def test_metrics_have_names_that_are_accepted_and_the_others_are_kept(store: Path) -> None:
    made, run_id = opened()
    for epoch in range(2):
        made.log_metrics(epoch, METRICS, 1000.0 + epoch)
    made.finish(None)
    run = read(run_id)
    found = {name: curve(run_id, name) for name in run.data.metrics}
    assert found["loss"] == [(0, 0.5), (1, 0.5)]
    assert found["recall_5"] == [(0, 0.75), (1, 0.75)]
    assert found["recall_5_2"] == [(0, 0.25), (1, 0.25)]
    assert found["metric"] == [(0, 1.0), (1, 1.0)]
    assert found["lead"] == [(0, 2.0), (1, 2.0)]
    assert found["x" * 250] == [(0, 3.0), (1, 3.0)]
    assert [math.isnan(value) for _, value in found["nan"]] == [True, True]
    assert [value > 1e308 for _, value in found["inf"]] == [True, True]
    assert [value < -1e308 for _, value in found["-inf"]] == [True, True]
    assert (found["each_0"], found["each_1"]) == ([(0, 0.1), (1, 0.1)], [(0, 0.2), (1, 0.2)])
    assert math.isnan(found["each_2"][0][1])
    names = json.loads(run.data.tags["spark_dl.metric_names"])
    assert names == {"recall@5": "recall_5_2", "": "metric", "/lead": "lead", "x" * 300: "x" * 250}
    assert without_reason(made.unlogged) == [
        {"epoch": epoch, "metrics": {name: repr(METRICS[name])}} for epoch in range(2) for name in ("text", "none")
    ]


def test_a_metric_that_the_store_itself_refuses_costs_no_other(store: Path) -> None:
    with sqlite3.connect(store / "mlflow.db") as database:
        for moment in ("INSERT", "UPDATE"):
            database.execute(
                f"CREATE TRIGGER no_{moment} BEFORE {moment} ON metrics WHEN NEW.key = 'forbidden' "
                "BEGIN SELECT RAISE(ABORT, 'not here'); END"
            )
    made, run_id = opened()
    for epoch in range(2):
        made.log_metrics(epoch, {"loss": 1.0, "forbidden": 2.0, "accuracy": 0.5}, 1000.0)
    made.history({"loss": [1.0, 1.0, 3.0], "forbidden": [2.0, 2.0, 2.0]}, 0)
    made.finish(None)
    assert curve(run_id, "loss") == [(0, 1.0), (1, 1.0), (2, 3.0)]
    assert curve(run_id, "accuracy") == [(0, 0.5), (1, 0.5)]
    kept = [entry for entry in without_reason(made.unlogged) if "epoch" in entry]
    assert {(entry["epoch"], *entry["metrics"]) for entry in kept} >= {(0, "forbidden"), (1, "forbidden")}
    assert all(list(entry["metrics"]) == ["forbidden"] for entry in kept)


def test_a_dataset_whose_schema_is_too_long_and_a_file_that_can_not_be_made(store: Path) -> None:
    made, run_id = opened()
    wide = [(f"column {index} with a long name", "double") for index in range(20_000)]
    made.log_dataset(LoggedData("training", 3, "abc", wide, ["s3://KEY:S3CRET@bucket/rows/a.parquet"]))
    made.log_dataset(LoggedData("validation", 1, "abd", [("a", "any")], []))
    made.log_artifact("broken.txt", lambda: b"\xff".decode().encode())
    made.log_artifact("whole.txt", lambda: b"of ftp://me:S3CRET@h/x")
    made.finish(None)
    run = read(run_id)
    inputs = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert json.loads(inputs["training"].schema) is None
    assert json.loads(inputs["training"].source) == {"path": "s3://***@bucket/rows/a.parquet"}
    assert "any" in inputs["validation"].schema
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/whole.txt") == "of ftp://***@h/x"
    assert without_reason(made.unlogged) == [{"data": "training", "schema": "not logged"}, {"file": "broken.txt"}]


def a_model() -> LoggedModel:
    column = Column("a", "number", "float64", 1)
    serving = Serving((FeatureSpec((column,), (1,), "float32"),), Regression(), {"prediction": "p"}, 8)
    content = to_bytes(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    return LoggedModel(content, "{}", serving.to_json(), None, [("a", "double")], [("p", "double")], {"a": 0.0})


def test_a_model_that_can_not_be_registered_is_logged(store: Path) -> None:
    made, run_id = opened(registered_model_name="no/such:name")
    made.log_model(a_model())
    made.finish(None)
    (logged,) = mlflow.search_logged_models(filter_string=f"source_run_id = '{run_id}'", output_format="list")
    assert logged.status == "READY"
    assert mlflow.pyfunc.load_model(logged.model_uri).predict({"a": [1.0]}).columns == ["p"]
    assert without_reason(made.unlogged) == [{"registered model": "no/such:name"}]
    assert read(run_id).info.status == "FINISHED"


def test_a_model_that_fails_leaves_a_finished_run_with_what_went_wrong(store: Path) -> None:
    made, run_id = opened()
    made.log_metrics(0, {"loss": 1.0}, 1000.0)
    broken = LoggedModel(b"", "{}", "no JSON", None, [("a", "no such type")], [], None)
    with pytest.raises(KeyError):
        made.log_model(broken)
    made.finish(None)
    (logged,) = mlflow.search_logged_models(filter_string=f"source_run_id = '{run_id}'", output_format="list")
    assert (logged.status, read(run_id).info.status) == ("FAILED", "FINISHED")
    assert without_reason(made.unlogged) == [{"model": "not logged"}]


def test_of_fits_at_once_in_an_active_run_one_has_it_and_the_others_runs_below(store: Path) -> None:
    active = mlflow.MlflowClient().create_run(mlflow.get_experiment_by_name("fits").experiment_id).info.run_id
    meeting = threading.Barrier(4)

    def fit(number: int) -> tuple[str, list[str]]:
        with mlflow.start_run(run_id=active):
            meeting.wait(60)
            made, run_id = opened(params={"number": number})
            made.log_metrics(0, {"loss": float(number)}, 1000.0)
            made.finish(None)
            return run_id, made.notes

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fit, range(4)))
    assert len({run_id for run_id, _ in found}) == 4
    assert [run_id for run_id, _ in found].count(active) == 1
    for number, (run_id, notes) in enumerate(found):
        assert curve(run_id, "loss") == [(0, float(number))]
        assert read(run_id).data.params["number"] == str(number)
        assert read(run_id).data.tags.get("mlflow.parentRunId") == (None if run_id == active else active)
        assert bool(notes) == (run_id != active)


def test_a_fit_goes_on_in_its_run_whether_that_is_the_active_one_or_below_it(store: Path) -> None:
    with mlflow.start_run() as active:
        mlflow.log_param("epochs", "of the user's")
        made, first = opened(params={"epochs": 2})
        made.log_metrics(0, {"loss": 1.0}, 1000.0)
        made.event("a worker was lost")
        made.finish(ValueError("lost"))
        made, second = opened(params={"epochs": 3})
        made.log_metrics(0, {"loss": 2.0}, 1000.0)
        made.finish(ValueError("lost"))
    assert first == active.info.run_id != second
    with mlflow.start_run(run_id=first):  # ended, and opened again
        for resumed in (first, second):
            made, run_id = opened(resumed=resumed)
            assert run_id == resumed
            assert made.notes == []
            made.log_metrics(1, {"loss": 3.0}, 1001.0)
            made.event("going on")
            made.finish(None)
        made, third = opened()
        made.finish(None)
    assert [step for step, _ in curve(first, "loss")] == [step for step, _ in curve(second, "loss")] == [0, 1]
    assert [read(one).info.status for one in (first, second, third)] == ["FINISHED"] * 3
    events = mlflow.artifacts.load_text(f"{read(first).info.artifact_uri}/events.txt").splitlines()
    assert [line.partition("  ")[2] for line in events] == ["a worker was lost", "going on"]
    assert read(third).data.tags["mlflow.parentRunId"] == first
    assert read(first).data.params.items() >= {"epochs": "of the user's", "fit2.epochs": "2"}.items()
    # A run that was the user's isn't opened again without the user.
    made, fourth = opened(resumed=first)
    made.finish(None)
    assert fourth != first
    assert "mlflow.parentRunId" not in read(fourth).data.tags


def test_metrics_of_the_users_own_keep_their_names_and_curves(store: Path) -> None:
    with mlflow.start_run() as active:
        mlflow.log_metric("loss", 123.0)
        mlflow.log_metric("mae", 5.0, step=7)
        made, run_id = opened()
        made.log_metrics(0, {"loss": 1.0, "mae": 2.0, "val_loss": 3.0}, 1000.0)
        made.finish(ValueError("lost"))
        made, again = opened(resumed=run_id)
        made.log_metrics(1, {"loss": 0.5, "mae": 1.5, "val_loss": 2.5}, 1001.0)
        made.history({"loss": [1.0, 0.5], "mae": [2.0, 1.5], "val_loss": [3.0, 2.5]}, 0)
        made.finish(None)
    assert run_id == again == active.info.run_id
    assert (curve(run_id, "loss"), curve(run_id, "mae")) == ([(0, 123.0)], [(7, 5.0)])
    assert curve(run_id, "loss_2") == [(0, 1.0), (1, 0.5)]
    assert curve(run_id, "mae_2") == [(0, 2.0), (1, 1.5)]
    assert curve(run_id, "val_loss") == [(0, 3.0), (1, 2.5)]
    assert json.loads(read(run_id).data.tags["spark_dl.metric_names"]) == {"loss": "loss_2", "mae": "mae_2"}


def test_a_failure_too_long_for_a_tag_ends_its_run(store: Path) -> None:
    made, run_id = opened()
    made.finish(ValueError("ftp://me:S3CRET@h " + "x" * 100_000))
    assert read(run_id).info.status == "FAILED"
    assert read(run_id).data.tags["spark_dl.failure"].startswith("ValueError: ftp://***@h xxx")
