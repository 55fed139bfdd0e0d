"""Options declared once: what each takes and refuses, and how it says so."""

from __future__ import annotations

import math
from typing import Any

import pytest

from spark_dl import options
from spark_dl.errors import OptionError
from spark_dl.options import Option

DECLARED = {name: value for name, value in vars(options).items() if isinstance(value, Option)}


@pytest.mark.parametrize("option", DECLARED.values(), ids=lambda option: option.name)
def test_a_declaration_is_complete(option: Option) -> None:
    assert option.name[0].islower()
    assert option.doc.endswith(".")
    if option.default is not None:
        checked = option.check(option.default)
        assert checked == option.default
        assert type(checked) is type(option.default)


def test_each_option_is_declared_once_under_its_own_name() -> None:
    for name, option in DECLARED.items():
        assert name == "".join("_" + letter if letter.isupper() else letter.upper() for letter in option.name)
    assert len({option.name for option in DECLARED.values()}) == len(DECLARED)


@pytest.mark.parametrize(
    ("option", "given", "taken"),
    [
        (options.BATCH_SIZE, 1, 1),
        (options.BATCH_SIZE, 64.0, 64),
        (options.SEED, 0, 0),
        (options.CLASS_WEIGHTS, "balanced", "balanced"),
        (options.CLASS_WEIGHTS, {1: 5, "2": 0}, {1: 5.0, 2: 0.0}),
        (options.NETWORK_INTERFACE, "eth1", "eth1"),
        (options.NETWORK_INTERFACE, "10.0.0.0/8", "10.0.0.0/8"),
        (options.SLOT_TIMEOUT, 5, 5.0),
        (options.VALIDATION_FRACTION, 0, 0.0),
        (options.VALIDATION_FRACTION, 0.999, 0.999),
        (options.SHUFFLE, False, False),
        (options.LABEL_COL, "y", "y"),
        (options.PROBABILITY_COL, "", ""),
        (options.NULL_POLICY, "drop", "drop"),
        (options.MONITOR_MODE, "max", "max"),
        (options.INPUT_COLS, ("a", "b"), ["a", "b"]),
        (options.METRICS, "accuracy", ["accuracy"]),
        (options.METRICS, ("a", "b"), ["a", "b"]),
        (options.CALLBACKS, [], []),
        (options.LOSS, "mse", "mse"),
        (options.INPUT_COLS, None, None),
        (options.MONITOR, None, None),
        (options.CACHE_DIR, None, None),
        (options.METRICS, None, None),
        (options.TRACKING, None, None),
    ],
)
def test_a_value_is_taken_in_its_proper_type(option: Option, given: Any, taken: Any) -> None:
    checked = option.check(given)
    assert checked == taken
    assert type(checked) is type(taken)


REFUSED = [
    (options.BATCH_SIZE, 0, "an integer >= 1"),
    (options.BATCH_SIZE, -5, "an integer >= 1"),
    (options.BATCH_SIZE, 1.5, "an integer"),
    (options.BATCH_SIZE, "32", "an integer"),
    (options.BATCH_SIZE, True, "an integer"),
    (options.SEED, -1, "an integer >= 0"),
    (options.CLASS_WEIGHTS, "equal", "'balanced', or a dict of weights by class index"),
    (options.CLASS_WEIGHTS, {}, "'balanced', or a dict"),
    (options.CLASS_WEIGHTS, [1.0, 2.0], "'balanced', or a dict"),
    (options.CLASS_WEIGHTS, {"\u00b2": 1.0}, "an integer"),
    (options.CLASS_WEIGHTS, {"cat": 1.0}, "an integer"),
    (options.CLASS_WEIGHTS, {-1: 1.0}, "an integer >= 0"),
    (options.CLASS_WEIGHTS, {0: -1.0}, r"a number in \[0, inf\)"),
    (options.NETWORK_INTERFACE, "10.0.0.1/8", "an interface's name, or an IPv4 network .* host bits set"),
    (options.NETWORK_INTERFACE, "", "an interface's name"),
    (options.CPUS_PER_WORKER, 0, "an integer >= 1"),
    (options.GPUS_PER_WORKER, 0.5, "an integer"),
    (options.SLOT_TIMEOUT, -0.1, r"a number in \[0, inf\)"),
    (options.SLOT_TIMEOUT, math.nan, "a number"),
    (options.SLOT_TIMEOUT, math.inf, "a number"),
    (options.SLOT_TIMEOUT, "60", "a number"),
    (options.VALIDATION_FRACTION, 1.0, r"a number in \[0, 1\)"),
    (options.VALIDATION_FRACTION, False, "a number"),
    (options.SHUFFLE, 1, "True or False"),
    (options.SHUFFLE, "false", "True or False"),
    (options.LABEL_COL, 3, "a string"),
    (options.LABEL_COL, ["y"], "a string"),
    (options.NULL_POLICY, "skip", "one of 'error', 'drop'"),
    (options.NULL_POLICY, 3, "one of 'error', 'drop'"),
    (options.NULL_POLICY, "dropp", "one of 'error', 'drop'. Did you mean 'drop'"),
    (options.INPUT_COLS, "ab", "a list of names"),
    (options.INPUT_COLS, [1, 2], "a list of names"),
    (options.INPUT_COLS, [], "at least one name"),
    (options.BATCH_SIZE, None, "an integer"),
    (options.LABEL_COL, None, "a string"),
    (options.SHUFFLE, None, "True or False"),
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
        options.EPOCHS.check(value)


@pytest.mark.parametrize(("option", "value"), [(options.EPOCHS, "int64"), (options.SLOT_TIMEOUT, "float32")])
def test_numpys_numbers_are_numbers(option: Option, value: str) -> None:
    import numpy as np

    assert option.check(np.dtype(value).type(3)) == 3


def test_the_message_of_a_choice_ends_well() -> None:
    with pytest.raises(OptionError) as caught:
        options.NULL_POLICY.check("zzz")
    assert "?." not in str(caught.value)
