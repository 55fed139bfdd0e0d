"""The tree of errors, and how messages are put together."""

from __future__ import annotations

import pickle

import pytest

from spark_dl import errors
from spark_dl.errors import RankError, SparkDLError, explain, hint

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, SparkDLError)]


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("OptionError", ValueError),
        ("DataError", ValueError),
        ("ModelError", ValueError),
        ("ClusterError", RuntimeError),
        ("SlotsError", RuntimeError),
        ("StoreError", OSError),
        ("TrackingError", ConnectionError),
        ("SavedModelError", ValueError),
        ("RankError", RuntimeError),
    ],
)
def test_each_error_is_the_builtin_that_a_caller_expects(name: str, builtin: type[Exception]) -> None:
    error = getattr(errors, name)("what happened")
    assert isinstance(error, SparkDLError)
    assert isinstance(error, builtin)
    assert str(error) == "what happened"


def test_every_error_is_exported_and_has_a_builtin_beside_it() -> None:
    assert {c.__name__ for c in CLASSES} <= set(errors.__all__)
    plain = {Exception, BaseException, object}
    for kind in set(CLASSES) - {SparkDLError}:
        assert {base for base in kind.__mro__ if base.__module__ == "builtins"} - plain, kind


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_travel(kind: type[SparkDLError]) -> None:
    back = pickle.loads(pickle.dumps(kind("what")))
    assert type(back) is kind
    assert str(back) == "what"


def test_a_rank_error_travels_with_its_rank_and_host() -> None:
    back = pickle.loads(pickle.dumps(RankError("text", rank=3, host="a", rank_traceback="trace")))
    assert (back.rank, back.host, back.rank_traceback) == (3, "a", "trace")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "It broke."),
        ({"expected": 1}, "It broke. Expected: 1."),
        ({"received": 0}, "It broke. Received: 0."),
        ({"received": ""}, "It broke. Received: ."),
        ({"fix": "Mend it."}, "It broke. Mend it."),
        ({"fix": "Mend it.", "received": "b", "expected": "a"}, "It broke. Expected: a. Received: b. Mend it."),
    ],
)
def test_a_message_has_only_the_parts_that_are_given(parts: dict[str, object], message: str) -> None:
    assert explain("It broke.", **parts) == message  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("lable", ["label", "features"], "Did you mean 'label'?"),
        ("LABEL", ["label", "features"], "Did you mean 'label'?"),
        ("featurescol", ["featuresCol", "labelCol"], "Did you mean 'featuresCol'?"),
        ("col1", ["col2", "col3"], "Did you mean 'col3' or 'col2'?"),
        ("zzz", ["b", "a"], "Known: a, b."),
        ("zzz", [], ""),
    ],
)
def test_a_hint_names_the_near_ones_or_all(name: str, known: list[str], said: str) -> None:
    assert hint(name, known) == said
