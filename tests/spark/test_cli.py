"""Commands of `spark-dl` that need Spark: in this process's session, and as programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import pytest
from mlflow_stores import sqlite_store
from pyspark.sql import SparkSession

from spark_dl import KerasClassifierModel
from spark_dl.cli import main

MODULE = """
import keras

def build(width):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3, "softmax")])

@keras.saving.register_keras_serializable("shop")
def halved(y, p):
    return 0.5 * keras.losses.sparse_categorical_crossentropy(y, p)
"""
CONFIG = """
model: cli_shop:build
modelParams: {width: 8}
data: FOLDER/rows
validationData: FOLDER/rows
optimizer: {class_name: Adam, config: {learning_rate: 3e-2}}
loss: cli_shop:halved
metrics: [accuracy]
epochs: 2
numWorkers: 2
tracking: null
output: FOLDER/model
"""


@pytest.fixture(scope="module", autouse=True)
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: rows, a module, a configuration, and the model that `train` has saved.

    The session's JVM has another working directory, so that paths are absolute.
    """
    path = tmp_path_factory.mktemp("cli")
    frame = models.frame(spark, rows=90)
    frame.write.parquet(f"{path}/rows")
    frame.select("id", "f0", "f1", "f2", "f3", "label").coalesce(1).write.option("header", True).csv(f"{path}/csv")
    (path / "cli_shop.py").write_text(MODULE)
    (path / "train.yaml").write_text(CONFIG.replace("FOLDER", str(path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(str(path))
        yield path


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[dict[str, Any]]:
    """What a fit writes with --log-json, once for all tests of its model."""
    written = folder / "stdout"
    with written.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        assert main(["train", "train.yaml", "--log-json"]) == 0
    return [json.loads(line) for line in written.read_text().splitlines()]


def test_train_writes_json_lines_and_saves_the_model(
    lines: list[dict[str, Any]], spark: SparkSession, folder: Path
) -> None:
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert set(epochs[1]["metrics"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    (result,) = [line for line in lines if line["event"] == "trained"]
    assert (result["rows"], result["output"], result["run_id"]) == (90, f"{folder}/model", None)
    fitted = KerasClassifierModel.load(f"{folder}/model")
    assert fitted.summary.history["loss"][-1] == pytest.approx(result["metrics"]["loss"])
    assert fitted.summary.validation_rows == 90
    assert spark.range(3).count() == 3  # the session of this process goes on


def test_score_writes_the_predictions_of_the_model(lines: Any, spark: SparkSession, folder: Path) -> None:
    (folder / "score.yaml").write_text(
        f"model: {folder}/model\ndata: {folder}/rows\noutput: {folder}/scored\ntopK: 1\n"
    )
    assert main(["score", "score.yaml", "--set", "predictionCol=class"]) == 0
    scored = spark.read.parquet(f"{folder}/scored")
    assert {"class", "probability", "topK"} <= set(scored.columns)
    expected = KerasClassifierModel.load(f"{folder}/model").transform(spark.read.parquet(f"{folder}/rows"))
    assert dict(scored.select("id", "class").collect()) == dict(expected.select("id", "prediction").collect())


def test_scored_rows_are_not_replaced_unless_asked(
    lines: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--model", f"{folder}/model", "--data", f"{folder}/rows", "--output", f"{folder}/scored twice"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"scored rows written to {folder}/scored twice\n"
    assert main(command) == 1
    assert "The scored rows can't be written." in capsys.readouterr().err
    assert main([*command, "--write-mode", "overwrite"]) == 0


def test_evaluate_computes_the_models_metrics(
    lines: Any, spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT array(f0, f1, f2, f3) AS features, double(label) AS label FROM rows"
    read = "{header: true, inferSchema: true}"
    command = [
        "evaluate",
        "--model",
        f"{folder}/model",
        "--data",
        f"{folder}/csv",
        "--format",
        "csv",
        "--read-options",
        read,
    ]
    assert main([*command, "--sql", query, "--set", "modules=[cli_shop]", "--log-json"]) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    expected = KerasClassifierModel.load(f"{folder}/model").evaluate(spark.read.parquet(f"{folder}/rows"))
    assert set(metrics) == {"loss", "accuracy"}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4)


def test_convert_counts_rows_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = folder / "cache"
    cache.mkdir()
    assert main(["convert", "train.yaml", "--set", f"cacheDir={cache}"]) == 0
    assert capsys.readouterr().out.startswith("90 rows for training, 90 for validation, 0.0 MB in ")
    assert list(cache.iterdir()) == []


def test_a_dry_run_prints_the_columns_and_the_slots(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "train.yaml", "--dry-run", "--output", f"{folder}/never"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^features +array<float> +float32 \(4,\) +input ", text, re.MULTILINE)
    assert "label of output" in text
    assert text.endswith("slots: numWorkers=2 of 2 on local[2]\n")
    assert not (folder / "never").exists()
    assert main(["train", "train.yaml", "--dry-run", "--output", f"{folder}/never", "--set", "numWorkers=9"]) == 1
    assert "numWorkers=9 is more than the cluster's 2 slots." in capsys.readouterr().err


def test_training_begins_with_a_fitted_model_or_a_keras_file(
    lines: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.classifier().save(folder / "saved.keras")
    for model in (f"{folder}/model", "saved.keras"):
        unset = ["--set", "modelParams=null", "--set", "loss=sparse_categorical_crossentropy"]
        assert main(["train", "train.yaml", "--dry-run", "--output", f"{folder}/never", "--model", model, *unset]) == 0
        assert "input" in capsys.readouterr().out


# What is wrong: (arguments, part of the error).
FAULTS = {
    "no rows": (["train", "train.yaml", "--output", "FOLDER/n", "--data", "absent"], "Spark can't read the rows. "),
    "no table": (["evaluate", "--model", "FOLDER/model", "--table", "absent"], "[TABLE_OR_VIEW_NOT_FOUND]"),
    "no SQL": (["evaluate", "--model", "FOLDER/model", "--sql", "SELEKT 1"], "[PARSE_SYNTAX_ERROR]"),
    "no model": (["evaluate", "--model", "FOLDER/absent", "--data", "FOLDER/rows"], "There is no saved model in "),
    "no format": (
        ["evaluate", "--model", "FOLDER/model", "--data", "FOLDER/rows", "--format", "xyz"],
        "[DATA_SOURCE_NOT_FOUND]",
    ),
    "no column": (["train", "train.yaml", "--output", "FOLDER/n", "--set", "labelCol=lable"], "'lable'"),
    "a model there": (["train", "train.yaml"], "output exists. "),
    "no run": (["train", "--from-run", "0" * 32], f"The run '{'0' * 32}' can't be read. "),
    "a secret": (
        ["evaluate", "--model", "FOLDER/model", "--data", "xyz://user:S3CRET@host/rows"],
        "xyz://***@host/rows",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_one_line_and_exit_code_1(
    what: str, lines: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, part = FAULTS[what]
    with sqlite_store(folder, f"faults of {what}"):
        assert main([argument.replace("FOLDER", str(folder)) for argument in arguments]) == 1
    out, error = capsys.readouterr()
    told = [line for line in error.splitlines() if line.startswith("spark-dl: ")]
    assert len(told) == 1
    assert part in told[0]
    assert "Traceback" not in error
    assert "S3CRET" not in out + error


# --- programs ------------------------------------------------------------------------------------------------------


def test_a_new_project_starts_by_spark_submit_and_its_own_test_passes(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    variables = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "MASTER": "local[2]",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }

    def run(*command: str) -> str:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "shop", env=variables, check=False)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        return ran.stdout

    assert main(["new", f"{tmp_path}/shop"]) == 0
    run(sys.executable, "sample_data.py")
    said = run("jobs/train.sh", "--dry-run")
    assert "label of output" in said
    assert said.endswith("slots: numWorkers=2 of 2 on local[2]\n")
    said = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "2 passed" in said
