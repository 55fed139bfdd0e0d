"""Options declared once: what each takes and refuses, and how it says so."""

from __future__ import annotations

import ast
import dataclasses
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spark_dl
from spark_dl.errors import OptionError
from spark_dl.options import (
    ClassifierOptions,
    EstimatorOptions,
    FittedClassifierOptions,
    FittedOptions,
    FittedTaggerOptions,
    LaunchOptions,
    Option,
    TaggerOptions,
    TrainingOptions,
    all_options,
    declared,
    options_of,
)

PACKAGE = Path(spark_dl.__file__).parent
RECORDS = [
    EstimatorOptions,
    ClassifierOptions,
    TaggerOptions,
    FittedOptions,
    FittedClassifierOptions,
    FittedTaggerOptions,
]


@pytest.mark.parametrize("option", all_options(), ids=lambda option: option.name)
def test_a_declaration_is_complete(option: Option) -> None:
    assert option.name[0].islower()
    assert option.doc.endswith(".")
    if option.default is not None:
        checked = option.check(option.default)
        assert checked == option.default
        assert type(checked) is type(option.default)


def test_each_option_is_declared_once() -> None:
    fields = [name for path in sorted((PACKAGE / "options").glob("*.py")) for name in _declared_fields(path)]
    assert len(fields) == len(set(fields)) == len(all_options())
    assert {option.field for option in all_options()} == set(fields)


def _declared_fields(path: Path) -> Iterator[str]:
    """The fields whose value is a call of `option`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and isinstance(node.target, ast.Name):
            assert ast.unparse(node.value.func) == "option"
            yield node.target.id


@pytest.mark.parametrize("option", all_options(), ids=lambda option: option.name)
def test_the_public_name_is_the_field_in_camel_case(option: Option) -> None:
    assert option.field == "".join("_" + letter.lower() if letter.isupper() else letter for letter in option.name)
    assert declared(option.name) == pickle.loads(pickle.dumps(option)) == option


def test_an_unknown_option_is_answered_with_the_near_name() -> None:
    with pytest.raises(OptionError, match=r"There is no option 'batchsize'\..*Did you mean 'batchSize'"):
        declared("batchsize")


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_is_frozen_and_takes_no_other_names(record: type[Any]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record().prediction_col = "p"
    with pytest.raises(TypeError, match="prediction_column"):
        record(prediction_column="p")
    with pytest.raises(TypeError, match="positional"):
        record("p")


@pytest.mark.parametrize("record", RECORDS)
def test_values_by_their_public_names(record: type[Any]) -> None:
    named = record(prediction_col="p").by_name()
    assert named == {option.name: option.default for option in options_of(record)} | {"predictionCol": "p"}


def test_a_part_has_the_values_of_the_whole() -> None:
    whole = ClassifierOptions(epochs=7, batch_size=3, slot_timeout=1.5)
    assert whole.part(TrainingOptions) == TrainingOptions(epochs=7, batch_size=3)
    assert type(whole.part(TrainingOptions)) is TrainingOptions
    assert whole.part(LaunchOptions) == LaunchOptions(slot_timeout=1.5)
    with pytest.raises(AttributeError, match="output_layer"):
        whole.part(FittedOptions)


def test_a_record_is_checked_as_a_whole() -> None:
    checked = TrainingOptions(epochs=7.0, warmup_epochs=1).checked()
    assert (type(checked.epochs), type(checked.warmup_epochs)) == (int, float)
    with pytest.raises(OptionError, match="batchSize can't have this value"):
        TrainingOptions(batch_size=0).checked()


def test_options_are_read_by_attributes() -> None:
    """A misspelled key would be found when it is read, if at all; mypy finds a misspelled attribute."""
    untyped = re.compile(r"""\b(values|options)(\[["']|\.get\(["'])""")
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if untyped.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("option", "given", "taken"),
    [
        (declared("batchSize"), 1, 1),
        (declared("batchSize"), 64.0, 64),
        (declared("seed"), 0, 0),
        (declared("classWeights"), "balanced", "balanced"),
        (declared("classWeights"), {1: 5, "2": 0}, {1: 5.0, 2: 0.0}),
        (declared("networkInterface"), "eth1", "eth1"),
        (declared("networkInterface"), "10.0.0.0/8", "10.0.0.0/8"),
        (declared("slotTimeout"), 5, 5.0),
        (declared("validationFraction"), 0, 0.0),
        (declared("validationFraction"), 0.999, 0.999),
        (declared("shuffle"), False, False),
        (declared("labelCol"), "y", "y"),
        (declared("probabilityCol"), "", ""),
        (declared("nullPolicy"), "drop", "drop"),
        (declared("monitorMode"), "max", "max"),
        (declared("inputCols"), ("a", "b"), ["a", "b"]),
        (declared("metrics"), "accuracy", ["accuracy"]),
        (declared("metrics"), ("a", "b"), ["a", "b"]),
        (declared("callbacks"), [], []),
        (declared("loss"), "mse", "mse"),
        (declared("inputCols"), None, None),
        (declared("monitor"), None, None),
        (declared("cacheDir"), None, None),
        (declared("metrics"), None, None),
        (declared("tracking"), None, None),
    ],
)
def test_a_value_is_taken_in_its_proper_type(option: Option, given: Any, taken: Any) -> None:
    checked = option.check(given)
    assert checked == taken
    assert type(checked) is type(taken)


REFUSED = [
    (declared("batchSize"), 0, "an integer >= 1"),
    (declared("batchSize"), -5, "an integer >= 1"),
    (declared("batchSize"), 1.5, "an integer"),
    (declared("batchSize"), "32", "an integer"),
    (declared("batchSize"), True, "an integer"),
    (declared("seed"), -1, "an integer >= 0"),
    (declared("classWeights"), "equal", "'balanced', or a dict of weights by class index"),
    (declared("classWeights"), {}, "'balanced', or a dict"),
    (declared("classWeights"), [1.0, 2.0], "'balanced', or a dict"),
    (declared("classWeights"), {"\u00b2": 1.0}, "an integer"),
    (declared("classWeights"), {"cat": 1.0}, "an integer"),
    (declared("classWeights"), {-1: 1.0}, "an integer >= 0"),
    (declared("classWeights"), {0: -1.0}, r"a number in \[0, inf\)"),
    (declared("networkInterface"), "10.0.0.1/8", "an interface's name, or an IPv4 network .* host bits set"),
    (declared("networkInterface"), "", "an interface's name"),
    (declared("cpusPerWorker"), 0, "an integer >= 1"),
    (declared("gpusPerWorker"), 0.5, "an integer"),
    (declared("slotTimeout"), -0.1, r"a number in \[0, inf\)"),
    (declared("slotTimeout"), math.nan, "a number"),
    (declared("slotTimeout"), math.inf, "a number"),
    (declared("slotTimeout"), "60", "a number"),
    (declared("validationFraction"), 1.0, r"a number in \[0, 1\)"),
    (declared("validationFraction"), False, "a number"),
    (declared("shuffle"), 1, "True or False"),
    (declared("shuffle"), "false", "True or False"),
    (declared("labelCol"), 3, "a string"),
    (declared("labelCol"), ["y"], "a string"),
    (declared("cacheDir"), "", "a path or URL, not empty"),
    (declared("checkpointDir"), "  ", "a path or URL, not empty"),
    (declared("nullPolicy"), "skip", "one of 'error', 'drop'"),
    (declared("nullPolicy"), 3, "one of 'error', 'drop'"),
    (declared("nullPolicy"), "dropp", "one of 'error', 'drop'. Did you mean 'drop'"),
    (declared("inputCols"), "ab", "a list of names"),
    (declared("inputCols"), [1, 2], "a list of names"),
    (declared("inputCols"), [], "at least one name"),
    (declared("batchSize"), None, "an integer"),
    (declared("featuresCol"), None, "a string"),
    (declared("shuffle"), None, "True or False"),
]


@pytest.mark.parametrize(("option", "value", "expected"), REFUSED)
def test_a_value_that_can_not_be_used_is_refused_with_all_that_is_known(
    option: Option, value: Any, expected: str
) -> None:
    with pytest.raises(OptionError, match=f"^{option.name} can't have this value. Expected: {expected}") as caught:
        option.check(value)
    message = str(caught.value)
    assert f"Received: {option.name}={value!r} ({type(value).__name__})." in message
    assert message.endswith(f"{option.name}: {option.doc}")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_no_integer(value: float) -> None:
    with pytest.raises(OptionError, match="an integer"):
        declared("epochs").check(value)


@pytest.mark.parametrize(("option", "value"), [(declared("epochs"), "int64"), (declared("slotTimeout"), "float32")])
def test_numpys_numbers_are_numbers(option: Option, value: str) -> None:
    import numpy as np

    assert option.check(np.dtype(value).type(3)) == 3


def test_the_message_of_a_choice_ends_well() -> None:
    with pytest.raises(OptionError) as caught:
        declared("nullPolicy").check("zzz")
    assert "?." not in str(caught.value)
