"""Checks of option values: each returns the value converted to the option's type, or raises `RefusedError`."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spark_dl.errors import hint
from spark_dl.io.storage_options import StorageOptions, is_storage_options

__all__ = [
    "RefusedError",
    "anything",
    "boolean",
    "choice",
    "class_weights",
    "function",
    "integer",
    "interface",
    "keywords",
    "loss_weights",
    "named_columns",
    "names",
    "null_policy",
    "number",
    "objects",
    "padding",
    "positive",
    "shapes",
    "storage_options",
    "text",
    "text_or_none",
    "thresholds",
]


class RefusedError(Exception):
    """Error of a check; its text is the expected value."""


def integer(at_least: int, at_most: float = math.inf) -> Callable[[Any], int]:
    """Return a check for integers within inclusive limits; whole floats are converted."""

    def convert(value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float, np.integer, np.floating))
            or not float(value).is_integer()
        ):
            raise RefusedError("an integer")
        if not at_least <= value <= at_most:
            limits = f">= {at_least}" if at_most == math.inf else f"from {at_least} to {at_most:g}"
            raise RefusedError(f"an integer {limits}")
        return int(value)

    return convert


def number(at_least: float, below: float = math.inf) -> Callable[[Any], float]:
    """Return a check for numbers in [at_least, below)."""

    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise RefusedError("a number")
        if not at_least <= value < below:
            raise RefusedError(f"a number in [{at_least:g}, {below:g})")
        return float(value)

    return convert


def positive(value: Any) -> float:
    """Accept a finite number above 0."""
    found = number(0)(value)
    if found == 0:
        raise RefusedError("a number above 0")
    return found


def boolean(value: Any) -> bool:
    """Accept True and False."""
    if not isinstance(value, bool):
        raise RefusedError("True or False")
    return value


def text(value: Any) -> str:
    """Accept a string."""
    if not isinstance(value, str):
        raise RefusedError("a string")
    return value


def directory(value: Any) -> str:
    """Accept a path or URL as a string that isn't empty."""
    if not isinstance(value, str) or not value.strip():
        raise RefusedError("a path or URL, not empty")
    return value


def text_or_none(value: Any) -> str | None:
    """Accept a string or None, for an option whose default is a string."""
    return None if value is None else text(value)


def choice(*choices: str) -> Callable[[Any], str]:
    """Return a check for one of several strings."""

    def convert(value: Any) -> str:
        if value not in choices:
            near = hint(value, choices) if isinstance(value, str) else ""
            known = "one of " + ", ".join(map(repr, choices))
            raise RefusedError(f"{known}. {near.rstrip('?')}" if near.startswith("Did") else known)
        return str(value)

    return convert


def names(value: Any) -> list[str]:
    """Accept a list of at least one string."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
        raise RefusedError("a list of names")
    if not value:
        raise RefusedError("at least one name")
    return list(value)


def named_columns(several: bool) -> Callable[[Any], list[str] | dict[str, Any]]:
    """Return a check for a list of columns or a dict of columns by name.

    Args:
        several: Whether a value of the dict may also be a list of columns.
    """

    def convert(value: Any) -> list[str] | dict[str, Any]:
        if not isinstance(value, Mapping):
            return names(value)
        if not value or not all(isinstance(name, str) for name in value):
            raise RefusedError("a dict with at least one name")
        return {name: names(v) if several and not isinstance(v, str) else text(v) for name, v in value.items()}

    return convert


def shapes(value: Any) -> dict[str, list[int]]:
    """Accept a dict of the shapes of one row, by column."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise RefusedError("a dict from column to the shape of one row, such as {'steps': [20, 8]}")
    for shape in value.values():
        if isinstance(shape, str) or not isinstance(shape, Sequence):
            raise RefusedError("a dict from column to the shape of one row, such as {'steps': [20, 8]}")
    return {name: [integer(1)(size) for size in shape] for name, shape in value.items()}


def storage_options(value: Any) -> Any:
    """Accept a dict from names to strings, numbers and booleans; convert it to StorageOptions, which hide them."""
    if not isinstance(value, StorageOptions) and not is_storage_options(value):
        raise RefusedError("a dict from the names of options to strings, numbers, True or False")
    return StorageOptions(value)


def null_policy(value: Any) -> str | dict[str, Any]:
    """Accept a policy for missing values, or a dict of policies by column."""
    policy = choice("error", "drop")
    if not isinstance(value, Mapping):
        return policy(value)
    checked: dict[str, Any] = {}
    for name, given in value.items():
        filled = isinstance(given, Mapping) and set(given) == {"fill"} and isinstance(given["fill"], (int, float, str))
        if not filled and given not in ("error", "drop"):
            raise RefusedError(f"'error', 'drop' or {{'fill': value}} for each column, {name!r} among them")
        checked[name] = dict(given) if filled else given
    return checked


def padding(value: Any) -> dict[str, float | str]:
    """Accept a dict of padding values, by column."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(name, str) for name in value):
        raise RefusedError("a dict from column to the value that pads it, such as {'ids': 0}")
    for name, pad in value.items():
        if not isinstance(pad, (int, float, str, np.integer, np.floating)):
            raise RefusedError(f"a number, or a string for an array of strings, for each column, {name!r} among them")
    return {name: pad.item() if isinstance(pad, np.generic) else pad for name, pad in value.items()}


def class_weights(value: Any) -> str | dict[int, float]:
    """Accept 'balanced', or a dict of weights by class index."""
    if isinstance(value, str) and value == "balanced":
        return value
    if not isinstance(value, Mapping) or not value:
        raise RefusedError("'balanced', or a dict of weights by class index, such as {0: 1.0, 1: 5.0}")
    weigh = number(0)
    # In saved metadata, the keys are strings.
    known = {integer(0)(int(k) if isinstance(k, str) and k.isdecimal() else k): weigh(w) for k, w in value.items()}
    return dict(sorted(known.items()))


def interface(value: Any) -> str:
    """Accept the name of a network interface, or an IPv4 network."""
    name = text(value)
    try:
        if "/" in name:
            ipaddress.IPv4Network(name)
    except ValueError as error:
        raise RefusedError(f"an interface's name, or an IPv4 network such as 10.0.0.0/8 ({error})") from None
    if not name:
        raise RefusedError("an interface's name, or an IPv4 network such as 10.0.0.0/8")
    return name


def anything(value: Any) -> Any:
    """Accept any value, unchanged."""
    return value


def function(value: Any) -> Any:
    """Accept a callable."""
    if not callable(value):
        raise RefusedError("a function")
    return value


def keywords(value: Any) -> dict[str, Any]:
    """Accept a dict with strings as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise RefusedError("a dict of keyword arguments")
    return dict(value)


def objects(value: Any) -> list[Any] | dict[str, Any]:
    """Accept a list or a dict; convert any other value to a list of one."""
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def thresholds(value: Any) -> list[float]:
    """Accept a list of numbers >= 0, at most one of them 0."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise RefusedError("a list of numbers")
    found = [number(0)(threshold) for threshold in value]
    if sum(threshold == 0 for threshold in found) > 1:
        raise RefusedError("a list of numbers > 0, at most one of them 0")
    return found


def loss_weights(value: Any) -> list[float] | dict[str, float]:
    """Accept a list of numbers >= 0, or a dict of them by name."""
    if isinstance(value, Mapping):
        return {str(name): number(0)(weight) for name, weight in value.items()}
    if isinstance(value, (list, tuple)):
        return [number(0)(weight) for weight in value]
    raise RefusedError("a list of numbers, or a dict of them")
