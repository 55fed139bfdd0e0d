"""Records that name files outside of their directory, or others in it: nothing is read or removed by them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from spark_dl.errors import SavedModelError
from spark_dl.fit.directory import FitDirectory
from spark_dl.io.store import Store
from spark_dl.io.workspace import clean
from spark_dl.ml.fetched import fetched_model
from spark_dl.track import flavor, flavor_reading
from spark_dl.train.checkpoint import Checkpoint, Checkpoints, latest

RECORD = {"epoch": 0, "step": 0, "workers": 1, "attempt": 1}


@pytest.fixture
def fit(tmp_path: Path) -> Path:
    """A fit's directory below one with another file."""
    directory = tmp_path / "checkpoints" / "fit"
    directory.mkdir(parents=True)
    (directory / "fit.json").write_text("{}")
    (tmp_path / "victim.txt").write_text("dear")
    (tmp_path / "victim.keras").write_text("dear")
    return directory


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"best_file": name}
            for name in (
                "../../victim.txt",
                "../../victim.keras",
                "epoch-000001.keras/../../../victim.txt",
                "epoch-1.keras\n../../victim.txt",
                "..\\..\\victim.txt",
                "file:../../victim.txt",
                ".",
                "fit.json",
                "epoch-000002.json",
                3,
                None,
                ["epoch-000001.keras"],
            )
        ),
        {"best_file": "{root}/victim.txt"},
        {"best_file": "file://{root}/victim.txt"},
        {"epoch": "../../victim"},
        {"epoch": -1},
        {"epoch": True},
        {"step": 1.5},
        {"attempt": "2/../../../victim"},
        {"attempt": None},
        {"workers": "two"},
    ],
    ids=repr,
)
def test_a_checkpoint_that_names_other_files_is_none(fit: Path, changes: dict[str, Any]) -> None:
    root = fit.parent.parent
    changes = {
        name: value.replace("{root}", str(root)) if isinstance(value, str) else value for name, value in changes.items()
    }
    (fit / "epoch-x.json").write_text(json.dumps(RECORD | changes))
    store = Store.at(str(fit))
    for epoch in (1, 2, 3):
        with pytest.warns(RuntimeWarning, match=r"epoch-x\.json isn't one of a checkpoint"):
            Checkpoints(store, 1).save(Checkpoint(epoch, 0, 1, 1), b"model")
    with pytest.warns(RuntimeWarning, match=r"epoch-x\.json isn't one of a checkpoint"):
        found = latest(store)
    assert found is not None
    assert (found[0].epoch, found[1]) == (3, b"model")
    assert [(root / name).read_text() for name in ("victim.txt", "victim.keras")] == ["dear", "dear"]
    assert (fit / "fit.json").read_text() == "{}"


def test_records_of_checkpoints_name_their_own_best(fit: Path) -> None:
    store = Store.at(str(fit))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Checkpoints(store, 1).save(Checkpoint(0, 10, 1, 1), b"before there is a best one")
        best = Checkpoint(1, 0, 1, 1, best_file="epoch-000001.keras")
        Checkpoints(store, 1).save(best, b"best")
        for checkpoint in (
            Checkpoint(1, 20, 1, 1, best_file=best.best_file),
            Checkpoint(2, 0, 2, 3, best_file=best.best_file),
            Checkpoint(3, 0, 2, 3, best_file="epoch-000003-attempt-3.keras"),
        ):
            Checkpoints(store, 1).save(checkpoint, b"model")
        found = latest(store)
    assert found is not None
    assert found[0].best_file == found[0].model_file == "epoch-000003-attempt-3.keras"


@pytest.mark.parametrize(
    "changes",
    [
        {"attempts": "1/../../x"},
        {"attempts": None},
        {"kind": ["model"]},
        {"at": "now"},
        {"host": None},
        {"pid": "1"},
        {"finished": "no"},
    ],
    ids=repr,
)
def test_a_fit_with_a_damaged_record_is_not_gone_on_with(tmp_path: Path, changes: dict[str, Any]) -> None:
    kind = {"model": "a"}
    first = FitDirectory.find(Store.at(str(tmp_path)), kind, lambda text: None)
    first.leave()
    file = Path(first.store.path) / "fit.json"
    record = json.dumps(json.loads(file.read_text()) | changes)
    file.write_text(record)
    (tmp_path / "back\\slash").mkdir()  # which no fit of ours is called
    again = FitDirectory.find(Store.at(str(tmp_path)), kind, lambda text: None)
    again.leave()
    assert again.store != first.store
    assert file.read_text() == record


@pytest.mark.parametrize("pid", [-1, 0, 2**70, 1e400, [1], "../x"], ids=repr)
def test_clean_does_not_go_by_an_owner_that_is_no_process(tmp_path: Path, pid: Any) -> None:
    directory = tmp_path / "spark-dl-odd"
    directory.mkdir()
    (directory / "owner.json").write_text(json.dumps({"host": socket.gethostname(), "pid": pid}))
    assert clean(f"file:{tmp_path}") == []
    assert directory.exists()


def test_clean_removes_no_directory_that_a_link_leads_to(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "mine").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "mine" / "owner.json").write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid}))
    (tmp_path / "cache" / "spark-dl-link").symlink_to(tmp_path / "mine")
    clean(str(tmp_path / "cache"))
    assert (tmp_path / "mine" / "owner.json").exists()


@pytest.mark.parametrize("name", ["../victim", "/etc/x", "a/b", "", 3], ids=repr)
def test_a_logged_model_brings_along_no_module_from_elsewhere(tmp_path: Path, name: Any) -> None:
    (tmp_path / "victim.py").write_text("raise SystemExit('imported')")
    root = tmp_path / "model"
    (root / "code").mkdir(parents=True)
    (root / "MLmodel").write_text(json.dumps({"flavors": {"spark_dl": {"code": "code", "modules": [name]}}}))
    with pytest.raises(SavedModelError, match="record is damaged"):
        flavor_reading.import_code(root)


def test_the_flavor_writes_where_spark_says_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that exists stays; what fails half-way leaves nothing."""
    monkeypatch.chdir(tmp_path)
    content = flavor.LoggedStage("pyspark.ml.pipeline.PipelineModel", {"metadata/part-0": b"{}"})
    flavor.save_model(f"file:{tmp_path}/model", content)
    assert (tmp_path / "model" / "spark_dl" / "stage" / "metadata" / "part-0").read_bytes() == b"{}"
    (tmp_path / "file").write_text("mine")
    for path, message in (
        ("model", "already exists"),
        (f"file:{tmp_path}/file", "already exists"),
        ("s3://b/m", "local"),
    ):
        with pytest.raises(SavedModelError, match=message):
            flavor.save_model(path, content)
    with pytest.raises(FileNotFoundError):
        flavor.save_model("new", content, code_paths=["no such file"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]
    with flavor_reading.fetched(f"file:{tmp_path}/model") as root:
        assert root == tmp_path / "model"


@pytest.mark.parametrize(
    "params",
    [
        {"stageUids": ["../../victim"]},
        {"stageUids": ["assembler", "/etc"]},
        {"estimatorParamMaps": [[{"name": "model", "value": "../victim", "isJson": False}]]},
        {"stageUids": 3},
        [],
    ],
    ids=repr,
)
def test_a_logged_pipeline_has_no_stages_from_elsewhere(tmp_path: Path, params: Any) -> None:
    metadata = json.dumps({"class": "pyspark.ml.pipeline.PipelineModel", "paramMap": params})
    content = flavor.LoggedStage("pyspark.ml.pipeline.PipelineModel", {"metadata/part-0": metadata.encode()})
    flavor.save_model(str(tmp_path / "model"), content)
    with pytest.raises(SavedModelError, match=r"can't be loaded.*(in its own directory|as Spark writes them)"):
        fetched_model(str(tmp_path / "model"))
