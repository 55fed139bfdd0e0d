"""Configurations of the command line: keys, values, what they name, and the errors, all before a Spark session."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest
import yaml

from spark_dl import KerasClassifier
from spark_dl.cli import main
from spark_dl.cli.config import read_config
from spark_dl.cli.fits import read_train_config
from spark_dl.cli.keys import ScoreKeys, TrainKeys, score_options, train_options
from spark_dl.cli.references import resolve_objects
from spark_dl.cli.templates import TEMPLATES, keys_of, reference, rendered
from spark_dl.errors import OptionError
from spark_dl.options import options_of

ROOT = Path(__file__).parents[2]

MODULE = """
import keras

def build(width=8):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(width)])

def halved(y, p):
    return 0.5 * keras.losses.mean_squared_error(y, p)

def stopping():
    return [keras.callbacks.EarlyStopping(patience=3), keras.callbacks.TerminateOnNaN()]

def failing():
    raise ZeroDivisionError("boom")

layer = keras.layers.Rescaling(0.5)
number = 8
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module, one that can't be imported, and a configuration."""
    (tmp_path / "cli_objects.py").write_text(MODULE)
    (tmp_path / "cli_broken.py").write_text("import not_installed_anywhere")
    (tmp_path / "train.yaml").write_text("model: cli_objects:build\ndata: rows\nepochs: 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


# What is wrong with a configuration: (arguments of `train`, file, parts of the error).
WRONG = {
    "no such file": (["other.yaml"], "", ["The configuration other.yaml can't be read.", "No such file"]),
    "no YAML": (["train.yaml"], "epochs: [1", ["train.yaml isn't YAML.", "line 1"]),
    "a list": (["train.yaml"], "- epochs", ["train.yaml isn't a configuration.", "Received: list."]),
    "a key twice": (["train.yaml"], "epochs: 1\nepochs: 2", ["'epochs' occurs twice in line 2"]),
    "a wrong key": (["train.yaml"], "batchsize: 8", ["There is no key 'batchsize'.", "Did you mean 'batchSize'"]),
    "a foreign key": (["train.yaml"], "xyzzy: 8", ["There is no key 'xyzzy'.", "`spark-dl docs` prints all keys."]),
    "a key of Python": (["train.yaml"], "modelFn: a:b", ["There is no key 'modelFn'.", "'model'"]),
    "a number as key": (["train.yaml"], "8: batchSize", ["There is no key 8."]),
    "a key of another estimator": (["--estimator", "regressor", "--set", "topK=3"], "", ["There is no key 'topK'."]),
    "a wrong type": (["--set", "batchSize=many"], "", ["Expected: an integer. Received: batchSize='many' (str)."]),
    "a wrong value": (["--set", "epochs=0"], "", ["Expected: an integer >= 1. Received: epochs=0 (int)."]),
    "a wrong choice": (["--set", "cacheData=disc"], "", ["'disk'. Did you mean 'disk'"]),
    "a wrong estimator": (["--estimator", "clasifier"], "", ["Did you mean 'classifier'"]),
    "a wrong own type": (["--set", "readOptions=header"], "", ["readOptions can't have this value."]),
    "no assignment": (["--set", "epochs"], "", ["--set can't be read. Expected: --set key=value."]),
    "an assignment without YAML": (["--set", "epochs=[1"], "", ["The value of epochs isn't YAML."]),
    "no rows": (["--model", "cli_objects:build"], "", ["The rows need one source."]),
    "two sources": (["--data", "x", "--table", "t"], "", ["The rows need one source.", "Received: data, table."]),
    "no model": (["--data", "x"], "", ["model isn't set.", "module:function"]),
    "no module": (["--data", "x", "--model", "absent.part:build"], "", ["the module 'absent.part' can't be imported."]),
    "a broken module": (
        ["--data", "x", "--model", "cli_broken:build"],
        "",
        ["the module 'cli_broken' can't be imported.", "No module named 'not_installed_anywhere'"],
    ),
    "no such function": (
        ["--data", "x", "--model", "cli_objects:bild"],
        "",
        ["the module 'cli_objects' has no 'bild'.", "Did you mean 'build'?"],
    ),
    "no function": (["--data", "x", "--model", "cli_objects:number"], "", ["model isn't a reference to a function."]),
    "no Keras class": (
        ["train.yaml", "--set", "optimizer={class_name: Adem}"],
        "model: cli_objects:build\ndata: x",
        ["optimizer: there is no such Keras object.", "Did you mean 'Adam'"],
    ),
    "a wrong argument": (
        ["train.yaml", "--set", "optimizer={class_name: Adam, config: {rate: 1}}"],
        "model: cli_objects:build\ndata: x",
        ["optimizer: Adam can't be made.", "keras.optimizers.Adam"],
    ),
    "a failing function": (
        ["train.yaml", "--set", "callbacks=[cli_objects:failing]"],
        "model: cli_objects:build\ndata: x",
        ["ZeroDivisionError: boom"],
    ),
    "options beside a run": (["--from-run", "r", "--set", "epochs=3"], "", ["--from-run takes the options from"]),
    "a file beside a run": (["train.yaml", "--from-run", "r"], "", ["--from-run takes the options from the run."]),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_configuration_is_one_line_and_exit_code_2(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, text, parts = WRONG[what]
    (folder / "train.yaml").write_text(text or "{}")
    assert main(["train", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("spark-dl: ")
    assert error.count("\n") == 1
    assert [part for part in parts if part not in error] == [], error


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["score", "--model", "m", "--data", "x"], "The scored rows need one output. "),
        (["score", "--model", "m", "--data", "x", "--output", "a", "--output-table", "b"], "Received: both."),
        (["score", "--data", "x", "--output", "a"], "model isn't set."),
        (["score", "--set", "epochs=3"], "There is no key 'epochs'."),
        (["evaluate", "--model", "m"], "The rows need one source."),
        (["convert", "--set", "epochs=none"], "Expected: an integer."),
        (["doctor", "--spark-conf", "local"], "sparkConf can't have this value."),
        (["docs", "epoch"], "Received: epoch. Did you mean 'epochs'"),
    ],
)
def test_other_commands_check_their_keys_as_well(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert part in capsys.readouterr().err


def test_credentials_of_wrong_values_are_not_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "ftp://user:S3CRET@host/x"
    assert main(["train", "--model", "cli_objects:build", "--data", url, "--set", f"numWorkers={url}"]) == 2
    assert "S3CRET" not in capsys.readouterr().err


def test_a_wrong_value_is_refused_as_the_estimator_does(folder: Path) -> None:
    for name, value in {"epochs": 0, "nullPolicy": "drip", "compression": "fp8", "numWorkers": 1.5}.items():
        with pytest.raises(OptionError) as ours:
            read_train_config({"model": "cli_objects:build", "data": "x", name: value})
        with pytest.raises(OptionError) as estimators:
            KerasClassifier(**{name: value})
        assert str(ours.value) == str(estimators.value)


def test_flags_win_over_the_file_and_set_over_both(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from spark_dl.cli.config import given_values
    from spark_dl.cli.entry import _parser

    arguments = ["train", "train.yaml", "--data", "2024", "--overwrite", "--set", "epochs=5", "--set", "seed=1e1"]
    values = given_values(_parser().parse_args(arguments))
    assert values == {
        "model": "cli_objects:build",
        "data": "2024",  # texts of flags are taken as they are
        "epochs": 5,
        "overwrite": True,
        "seed": 10.0,
    }
    config = read_train_config(values)
    assert (config.keys.data, config.keys.overwrite, config.keys.format) == ("2024", True, "parquet")
    assert config.options["seed"] == 10
    assert config.options["modelFn"](width=3).output_shape == (None, 3)


def test_names_and_classes_become_objects(folder: Path) -> None:
    text = """
        optimizer: {class_name: SGD, config: {learning_rate: 1e-3}}
        loss: {a: cli_objects:halved, b: mse}
        metrics: [accuracy, {class_name: TopKCategoricalAccuracy, config: {k: 2}}]
        callbacks: [{class_name: TerminateOnNaN}, cli_objects:stopping]
        transformFn: cli_objects:layer
        labelCol: shop:label
    """
    found = resolve_objects(read_config(yaml_of(text), TrainKeys, train_options()).options)
    assert isinstance(found["optimizer"], keras.optimizers.SGD)
    assert float(found["optimizer"].learning_rate) == pytest.approx(1e-3)
    assert found["loss"]["a"].__name__ == "halved"
    assert found["loss"]["b"] == "mse"
    assert found["metrics"][0] == "accuracy"
    assert found["metrics"][1].k == 2
    kinds = [type(callback).__name__ for callback in found["callbacks"]]
    assert kinds == ["TerminateOnNaN", "EarlyStopping", "TerminateOnNaN"]
    assert isinstance(found["transformFn"], keras.layers.Rescaling)
    assert found["labelCol"] == "shop:label"


def yaml_of(text: str) -> dict[str, Any]:
    from spark_dl.cli.config import _parsed

    values: dict[str, Any] = _parsed(text, "text")
    return values


# --- commented configurations --------------------------------------------------------------------------------------


def test_the_configurations_in_conf_are_those_of_the_declarations() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "config_templates.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, "current\n"), checked.stdout + checked.stderr


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_configuration_has_each_key_once_with_its_default(template: str) -> None:
    lines = [line.removeprefix("# ") for line in rendered(template).splitlines()]
    values = {}
    for _, options in keys_of(template):
        for option in options:
            (line,) = [line for line in lines if re.match(rf"{option.name}:( |$)", line)]
            values.update(yaml.safe_load(line))
            assert values[option.name] == option.default
    keys, options = (TrainKeys, train_options()) if template == "train" else (ScoreKeys, score_options())
    assert set(values) == {option.name for option in (*options_of(keys), *options)}
    read_config(values, keys, options)  # all keys of a file with no # at all can be used


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_configuration_sets_what_it_is_given(template: str) -> None:
    text = rendered(template, {"data": "a # b", "model": "models:/x@y", "sparkConf": {"spark.a": True}})
    assert yaml.safe_load(text) == {"data": "a # b", "model": "models:/x@y", "sparkConf": {"spark.a": True}}
    assert max(map(len, rendered(template).splitlines())) <= 120


def test_docs_prints_configurations_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "train"]) == 0
    assert capsys.readouterr().out == (ROOT / "conf" / "train.yaml").read_text()
    assert main(["docs", "batchSize", "writeMode"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("batchSize: int, default 32\n    Rows in a batch of one worker.\n")
    assert "writeMode: str, default error" in text
    assert main(["docs"]) == 0
    everything = capsys.readouterr().out
    for template in TEMPLATES:
        for _, options in keys_of(template):
            assert [option.name for option in options if reference(option) not in everything] == []
