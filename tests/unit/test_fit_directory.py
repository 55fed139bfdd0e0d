"""Which unfinished fit a new one goes on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import pytest
from rows import numbered

from spark_dl.fit.directory import FitDirectory
from spark_dl.fit.fingerprint import fingerprint
from spark_dl.io.store import Store
from spark_dl.options import EstimatorOptions
from spark_dl.train.checkpoint import Checkpoint, Checkpoints
from spark_dl.train.model.serialization import to_bytes

KIND = {"model": "a", "options": "b"}


def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def left(directory: Path, **changes: Any) -> Path:
    """An unfinished fit that a process of this host has left, but for some changes."""
    fit = FitDirectory.find(Store.at(str(directory)), KIND, lambda text: None)
    fit.starts(2)
    file = Path(fit.store.path) / "fit.json"
    record = json.loads(file.read_text()) | {"pid": dead_pid()} | changes
    file.write_text(json.dumps(record))
    return file.parent


def found(directory: Path, said: list[str] | None = None) -> FitDirectory:
    return FitDirectory.find(Store.at(str(directory)), KIND, (said if said is not None else []).append)


def test_what_a_dead_process_left_is_gone_on_with(tmp_path: Path) -> None:
    fit, said = left(tmp_path), []
    again = found(tmp_path, said)
    assert again.store.path == str(fit)
    assert again.first_attempt == 3
    assert said == [f"Resuming the unfinished fit in file://{fit}."]
    assert json.loads((fit / "fit.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": os.getpid()},
        {"finished": True},
        {"host": "elsewhere", "at": time.time() + 3600},
        {"kind": {"model": "other", "options": "b"}},
    ],
    ids=["of a living process", "finished", "renewed on another host", "of another model"],
)
def test_others_are_left_as_they_are(tmp_path: Path, changes: dict[str, Any]) -> None:
    fit = left(tmp_path, **changes)
    before = (fit / "fit.json").read_bytes()
    assert found(tmp_path).store.path != str(fit)
    assert (fit / "fit.json").read_bytes() == before


def test_on_another_host_a_record_that_nobody_renews_is_given_up(tmp_path: Path) -> None:
    fit = left(tmp_path, host="elsewhere", at=time.time() - 61)
    assert found(tmp_path).store.path == str(fit)


def test_what_differs_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    fit = left(tmp_path, kind={"model": "other", "options": "other"})
    found(tmp_path, said)
    assert said == [f"The unfinished fit in file://{fit} had another model and options: it is left unchanged."]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"kind": {}}'])
def test_a_damaged_record_is_passed_over(tmp_path: Path, content: str) -> None:
    fit = left(tmp_path)
    (fit / "fit.json").write_text(content)
    assert found(tmp_path).store.path != str(fit)


def test_a_fit_that_is_left_or_finished(tmp_path: Path) -> None:
    fit = found(tmp_path)
    fit.leave()
    assert found(tmp_path).store == fit.store
    fit.finish()
    assert found(tmp_path).store != fit.store


def network(units: int = 4, **options: Any) -> bytes:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dropout(0.1)])
    model.compile(**{"optimizer": "adam", "loss": "mse", **options})
    return to_bytes(model)


def test_the_fingerprint_tells_models_apart_and_not_their_weights_and_names() -> None:
    dataset, _ = numbered([4, 4])
    options = EstimatorOptions(batch_size=1, seed=1)
    first = fingerprint(network(), dataset, options)
    assert fingerprint(network(), dataset, options) == first
    assert fingerprint(network(5), dataset, options)["model"] != first["model"]
    assert fingerprint(network(optimizer="sgd"), dataset, options)["model"] != first["model"]
    other = fingerprint(network(), numbered([4, 5])[0], replace(options, seed=2))
    assert {part for part in first if other[part] != first[part]} == {"training rows", "seed"}


def test_a_fit_of_another_release_is_left_as_it_is(tmp_path: Path) -> None:
    fit, said = left(tmp_path), []
    record = json.loads((fit / "fit.json").read_text())
    del record["format"], record["layout"]
    (fit / "fit.json").write_text(json.dumps(record))
    assert found(tmp_path, said).store.path != str(fit)
    assert said == [
        f"The unfinished fit in file://{fit} is of another release, which noted less of what it trained: "
        "it is left unchanged."
    ]


@pytest.mark.parametrize(
    ("checkpoint", "epochs", "goes_on"),
    [((3, 0), 2, False), ((3, 0), 3, True), ((3, 0), 4, True), ((2, 5), 2, False), ((2, 5), 3, True)],
)
def test_a_fit_that_has_gone_beyond_the_epochs_is_left_as_it_is(
    tmp_path: Path, checkpoint: tuple[int, int], epochs: int, goes_on: bool
) -> None:
    fit, said = left(tmp_path), []
    epoch, step = checkpoint
    Checkpoints(Store.at(str(fit)), 2).save(Checkpoint(epoch, step, 1, 1), b"model")
    again = FitDirectory.find(Store.at(str(tmp_path)), KIND, said.append, epochs)
    assert (again.store.path == str(fit)) is goes_on
    place = "step 5 of epoch 3" if step else "the end of epoch 3"
    assert goes_on or said == [
        f"The unfinished fit in file://{fit} is at {place}, beyond epochs={epochs}: it is left unchanged."
    ]


@pytest.mark.parametrize("order", ["a", "b"])
def test_another_order_of_the_rows_is_noted(tmp_path: Path, order: str) -> None:
    first = FitDirectory.find(Store.at(str(tmp_path)), KIND, lambda text: None, layout="a")
    first.leave()
    again = FitDirectory.find(Store.at(str(tmp_path)), KIND, lambda text: None, layout=order)
    assert (again.store.path, again.same_order) == (first.store.path, order == "a")
