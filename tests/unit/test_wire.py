"""JSON form of messages: what goes in comes out, and nothing else does."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest

from spark_dl.wire import decode, encode


@dataclass(frozen=True)
class Inner:
    number: float
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner | None
    several: tuple[Inner, ...]
    anything: Any
    named: dict[str, Any]


@dataclass(frozen=True)
class Other:
    count: int


MESSAGE = Outer(1, Inner(0.5, ("a", "ü")), (Inner(-math.inf),), [1, {"b": None}], {"loss": [0.1, 0.2]})


def carried(message: Any) -> Any:
    return json.loads(json.dumps(encode(message)))


@pytest.mark.parametrize("message", [MESSAGE, Outer(0, None, (), None, {}), Other(3)])
def test_a_message_comes_out_as_it_went_in(message: Any) -> None:
    assert decode(carried(message), (Outer, Other)) == message


def test_whole_numbers_may_be_floats_fields() -> None:
    assert decode({"type": "Inner", "number": 1, "texts": []}, (Inner,)) == Inner(1.0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"type": "Inner"}, "'Inner' is none of Outer, Other"),
        ({"type": None}, "None is none of"),
        ({"more": 1}, "Outer has the fields"),
        ({"count": 1.5}, "can't be float"),
        ({"count": None}, "can't be NoneType"),
        ({"inner": [0.5]}, "Inner has the fields"),
        ({"inner": {"number": "0.5", "texts": []}}, "can't be str"),
        ({"several": {}}, "can't be dict"),
        ({"several": [1]}, "Inner has the fields"),
        ({"named": []}, "can't be list"),
    ],
)
def test_what_is_no_message_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        decode({**carried(MESSAGE), **changes}, (Outer, Other))


@pytest.mark.parametrize("content", [None, "Outer", ["Outer"], {}, {"type": "Outer"}, {"type": ["Outer"]}])
def test_what_is_no_dict_of_all_fields_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match=r"is a dict|is none of|has the fields"):
        decode(content, (Outer, Other))
