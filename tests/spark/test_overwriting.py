"""Saving over what is there: whatever fails, it stays, and nothing is left beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from pyspark.ml import Pipeline
from pyspark.sql import SparkSession

from spark_dl import KerasRegressor
from spark_dl.errors import SavedModelError, SparkDLError, StoreError


def estimator(epochs: int = 1, **options: Any) -> KerasRegressor:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    return KerasRegressor(model=model, epochs=epochs, tracking=None, **options)


def with_value(value: object, default: bool = False) -> KerasRegressor:
    """An estimator with a value that isn't JSON; Spark writes the defaults last, after the model."""
    odd = estimator()
    (odd._defaultParamMap if default else odd._paramMap)[odd.getParam("epochs")] = value
    return odd


def epochs(path: object) -> int:
    return KerasRegressor.load(str(path)).getOrDefault("epochs")  # type: ignore[no-any-return]


@pytest.fixture
def saved(spark: SparkSession, tmp_path: Path) -> Path:
    estimator(epochs=3).save(str(tmp_path / "saved"))
    return tmp_path / "saved"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: estimator(callbacks=[keras.callbacks.TerminateOnNaN()]), "callbacks can't be saved"),
        (lambda: estimator(modelParams={"units": 1}), "one of model and modelFn"),
        (lambda: with_value(object()), "epochs isn't JSON"),
        (lambda: with_value(object(), default=True), "can't be written.*not JSON serializable"),
    ],
    ids=["callbacks", "no model", "a param", "as the last file is written"],
)
def test_what_can_not_be_saved_leaves_what_was_saved(saved: Path, make: Callable[[], Any], told: str) -> None:
    for path in (saved, saved.parent / "new" / "deep"):
        with pytest.raises(SparkDLError, match=told):
            make().write().overwrite().save(str(path))
    assert epochs(saved) == 3
    assert os.listdir(saved.parent) == ["saved"]


def test_an_existing_path_is_refused_with_the_way_to_replace_it(saved: Path) -> None:
    (saved.parent / "file").write_text("mine")
    (saved.parent / "hidden").mkdir()
    (saved.parent / "hidden" / ".git").write_text("mine")
    for path in (str(saved), f"file:{saved}/", f"{saved.parent}/file", f"{saved.parent}/hidden"):
        with pytest.raises(SavedModelError, match=r"already exists.*\.write\(\)\.overwrite\(\)\.save"):
            estimator().save(path)
    assert epochs(saved) == 3
    (saved.parent / "empty").mkdir()
    estimator().save(f"{saved.parent}/empty")
    assert epochs(f"file:{saved.parent}/empty") == 1


def test_paths_as_spark_prints_them_and_with_any_name_are_saved_replaced_and_loaded(
    spark: SparkSession, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "x")
    for path in (f"file:{tmp_path}/x", f"{link}/", f"{tmp_path}/a[b] {{c}}*50%25"):
        estimator(epochs=2).write().overwrite().save(path)
        estimator(epochs=4).write().overwrite().save(path)
        assert epochs(path) == 4
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a[b] {c}*50%25", "link", "x"]


def test_a_file_system_that_only_spark_opens_holds_the_new_one_beside_until_it_is_there(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "mounted").mkdir()
    spark.conf.set("fs.viewfs.mounttable.overwriting.link./models", f"file:{tmp_path}/mounted")
    path = "viewfs://overwriting/models/m1"
    estimator(epochs=2).save(path)
    with pytest.raises(SavedModelError, match="already exists"):
        estimator().save(path)
    with pytest.raises(SavedModelError, match="can't be written"):
        with_value(object(), default=True).write().overwrite().save(path)
    assert epochs(path) == 2
    estimator(epochs=5).write().overwrite().save(path)
    assert epochs(path) == 5
    with pytest.raises(SavedModelError, match="can't be written"):
        with_value(object(), default=True).save("viewfs://overwriting/models/new")
    assert os.listdir(tmp_path / "mounted") == ["m1"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("", "path is empty"),
        ("C:\\models", "Windows"),
        ("file://host/m", "another host"),
        ("nowhere://host/m", 'No FileSystem for scheme "nowhere"'),
    ],
)
def test_a_path_that_can_not_be_used_is_one_clear_error(spark: SparkSession, path: str, told: str) -> None:
    for act in (estimator().save, estimator().write().overwrite().save, KerasRegressor.load):
        with pytest.raises((StoreError, SavedModelError), match=told):
            act(path)


def test_the_working_directory_and_files_are_not_replaced(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="neither the working directory"):
        estimator().write().overwrite().save(str(tmp_path))
    with pytest.raises(StoreError, match="output is a file"):
        estimator().write().overwrite().save(f"{tmp_path}/mine")
    assert (tmp_path / "mine").read_text() == "mine"
    assert os.listdir(tmp_path) == ["mine"]


def test_a_pipeline_of_stages_is_saved_and_replaced(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "pipeline")
    for number in (2, 3):
        Pipeline(stages=[estimator(epochs=number)]).write().overwrite().save(path)
    assert Pipeline.load(path).getStages()[0].getOrDefault("epochs") == 3
    assert [name for name in os.listdir(tmp_path / "pipeline" / "stages") if name.startswith(".")] == []
