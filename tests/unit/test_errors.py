"""The tree of errors, and how messages are put together."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

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
    ("expected", "received", "fix", "message"),
    [
        ("a", "b", "Mend it.", "It broke. Expected: a. Received: b. Mend it."),
        (1, 0, "Mend it.", "It broke. Expected: 1. Received: 0. Mend it."),
        ("a", None, "", "It broke. Expected: a. Received: None."),  # a hint may find nothing to name
    ],
)
def test_a_message_answers_four_questions(expected: object, received: object, fix: str, message: str) -> None:
    assert explain("It broke.", expected=expected, received=received, fix=fix) == message


# What a rank reports has its own words; these functions call `explain`, and an executor has sent its whole message.
OTHER_WORDS = {"RankError", "describe", "_unsuited", "no_best_epoch", "no_direction", "unknown_monitor", "facts.driver"}


def test_every_error_of_the_package_answers_them() -> None:
    """Each error is raised with a text from `explain`, whose three arguments are required."""
    package = Path(errors.__file__).parent
    names, bare = {kind.__name__ for kind in CLASSES}, []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names - OTHER_WORDS:
                text = ast.unparse(getattr(node.args[0], "func", node.args[0])) if node.args else ""
                if text not in {"explain", *OTHER_WORDS}:
                    bare.append(f"{path.relative_to(package)}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert bare == []


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
