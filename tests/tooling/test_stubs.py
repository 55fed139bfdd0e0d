"""What editors and mypy see of the classes whose params are made from options: the stubs, and a user's script."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "spark_dl" / "ml" / "params"

GOOD = """
from pyspark.sql import DataFrame

from spark_dl import KerasClassifier, KerasClassifierModel, KerasModel


def train(rows: DataFrame) -> KerasModel:
    classifier = KerasClassifier(featuresCol="x", numWorkers=8, batchSize=256, topK=3, classWeights={0: 2})
    classifier.setEpochs(10).setMonitor(None).setParams(seed=1, validationFraction=0.1)
    epochs: int = classifier.getEpochs()
    classifier.copy({classifier.batchSize: 7 * epochs})
    labels: list[str] | None = classifier.fit(rows).setClassLabels(["a", "b"]).getClassLabels()
    for _, model in classifier.fitMultiple(rows, [{classifier.epochs: 2}]):
        model.setTopK(3)
    classifier.fitOnDataset(classifier.convert(rows)).setTopK(3)
    return KerasClassifierModel(topK=2, classLabels=labels)
"""
# A line, and what mypy says of it.
BAD = {
    "KerasClassifier(batchsize=8)": 'Unexpected keyword argument "batchsize" for "KerasClassifier"; did you mean',
    'KerasClassifier(batchSize="8")': 'Argument "batchSize" to "KerasClassifier" has incompatible type "str"',
    "KerasClassifier().setBatchsize(8)": '"KerasClassifier" has no attribute "setBatchsize"',
    'KerasClassifier().setBatchSize("8")': 'Argument 1 to "setBatchSize" of "EstimatorParams" has incompatible type',
    "KerasClassifier().setParams(epoch=8)": 'Unexpected keyword argument "epoch" for "setParams" of "ClassifierParams"',
    "KerasEstimator(topK=3)": 'Unexpected keyword argument "topK" for "KerasEstimator"',
    "KerasRegressor().fit(DataFrame()).setTopK(3)": '"KerasRegressorModel" has no attribute "setTopK"',
    "next(KerasRegressor().fitMultiple(DataFrame(), []))[1].setTopK(3)": '"KerasRegressorModel" has no',
    "KerasModel(topK=3)": 'Unexpected keyword argument "topK" for "KerasModel"',
    "KerasModel(numWorkers=3)": 'Unexpected keyword argument "numWorkers" for "KerasModel"',
    "HorovodLauncher(2, slotTimeOut=5)": 'Unexpected keyword argument "slotTimeOut" for "HorovodLauncher"',
    "KerasEstimator()._options().bach_size": '"EstimatorOptions" has no attribute "bach_size"; maybe "batch_size"',
}


def test_the_stubs_are_those_of_the_options() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "stubs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, "current\n"), checked.stdout + checked.stderr


def test_each_stub_is_of_a_module_and_is_installed() -> None:
    assert {stub.with_suffix(".py").exists() for stub in STUBS.glob("*.pyi")} == {True}
    assert (ROOT / "spark_dl" / "py.typed").exists()
    with (ROOT / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    assert {"py.typed", "**/*.pyi"} <= set(data["spark_dl"])


def test_mypy_finds_misspelled_options_in_a_users_script(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(GOOD, encoding="utf-8")
    lines = ["from pyspark.sql import DataFrame", "from spark_dl import *", "", *BAD]
    bad.write_text("\n".join([*lines, ""]), encoding="utf-8")
    # Only the script's errors, as where the package is installed.
    settings = ["--strict", "--follow-imports=silent", "--config-file", ROOT / "pyproject.toml"]
    command = [sys.executable, "-m", "mypy", *settings, good, bad]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert [line for line in said if "bad.py" not in line] == [], checked.stdout + checked.stderr
    for number, (line, expected) in enumerate(BAD.items(), 4):
        assert any(f"bad.py:{number}: error: {expected}" in one for one in said), f"{line}: {checked.stdout}"
