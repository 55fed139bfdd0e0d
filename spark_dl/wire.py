"""JSON form of messages, which are frozen dataclasses.

Reading one executes nothing: it fills the fields of a class that the reader expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["decode", "encode"]

T = TypeVar("T")
_TYPE = "type"


def encode(message: Any) -> dict[str, Any]:
    """Convert a message to a JSON-compatible dict: its fields, and the name of its class as "type"."""
    return {_TYPE: type(message).__name__, **asdict(message)}


def decode(content: Any, classes: Sequence[type[T]]) -> T:
    """Build the message of a dict that `encode` made and JSON has carried.

    Args:
        content: The dict.
        classes: The classes that are expected.

    Raises:
        ValueError: The content isn't a message of these classes: another name, other fields, or values of other types.
    """
    if not isinstance(content, dict):
        raise ValueError(f"a message is a dict, and not {type(content).__name__}")
    values = dict(content)
    name = values.pop(_TYPE, None)
    for one in classes:
        if one.__name__ == name:
            return _record(one, values)
    raise ValueError(f"{name!r} is none of {', '.join(one.__name__ for one in classes)}")


def _record(kind: type[T], values: Any) -> T:
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or values.keys() != names:
        raise ValueError(f"{kind.__name__} has the fields {', '.join(sorted(names))}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value) for name, value in values.items()})


def _value(hint: Any, value: Any) -> Any:
    """Convert a value from JSON to the type of its field."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):  # only of one type and None
        inner = next(one for one in arguments if one is not NoneType)
        return None if value is None else _value(inner, value)
    if is_dataclass(hint):
        return _record(hint, value)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], one) for one in value)
    expected = (int, float) if hint is float else origin or hint
    if not isinstance(value, expected):
        raise ValueError(f"{hint} can't be {type(value).__name__}")
    return value
