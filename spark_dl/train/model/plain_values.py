"""Attributes of Keras objects that are plain values and missing from their configs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from spark_dl._compat.keras import LAYER_ATTRIBUTES
from spark_dl.train.model.parts import is_keras

__all__ = ["apply_attributes", "config_or_empty", "plain_attributes"]

_OF_LAYERS = ("supports_masking", "autocast", "supports_jit")
_TUPLE = "tuple"
_NONE = object()


def plain_attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes with plain values, as JSON, except those that the config contains with the same value.

    Args:
        thing: A layer or an optimizer. Private attributes of Keras's own classes are left out.
    """
    private = set() if is_keras(type(thing)) else _own_private(thing)
    names = {name for name in vars(thing) if not name.startswith("_")} | private
    names |= {name for name in _OF_LAYERS if hasattr(thing, name)}
    values = {name: _encode(getattr(thing, name, None)) for name in sorted(names - LAYER_ATTRIBUTES)}
    values = {name: value for name, value in values.items() if value is not _NONE}
    config = config_or_empty(thing) if values else {}
    return {name: v for name, v in values.items() if name not in config or _encode(config[name]) != v}


def config_or_empty(thing: Any) -> dict[str, Any]:
    """Return the object's config; empty if it has none, such as a layer created within another layer."""
    try:
        return dict(thing.get_config())
    except Exception:
        return {}


def apply_attributes(thing: Any, attributes: Mapping[str, Any]) -> None:
    """Set the attributes whose values differ."""
    for name, value in attributes.items():
        if _encode(getattr(thing, name, _NONE)) != value:
            with contextlib.suppress(AttributeError):  # read-only attributes
                setattr(thing, name, _decode(value))


def _own_private(thing: Any) -> set[str]:
    """Return the private attributes of a custom class, without those that Keras's base classes use in their code."""
    names = {name for name in vars(thing) if name.startswith("_") and not name.startswith("__")}
    kinds = {base for kind in type(thing).__mro__ if is_keras(kind) for base in kind.__mro__}
    for kind in kinds:
        for member in vars(kind).values():
            code = getattr(member, "__code__", None) or getattr(getattr(member, "fset", None), "__code__", None)
            names -= set(code.co_names) if code else set()
    return names


def _encode(value: Any) -> Any:
    """Return a plain value as JSON, a NumPy scalar as Python's; `_NONE` if it isn't plain."""
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        parts = [_encode(part) for part in value]
        if any(part is _NONE for part in parts):
            return _NONE
        return {_TUPLE: parts} if isinstance(value, tuple) else parts
    return _NONE


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(map(_decode, value[_TUPLE]))
    return list(map(_decode, value)) if isinstance(value, list) else value
