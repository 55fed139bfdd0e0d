"""Checks of the values that configure a stream trainer."""

from __future__ import annotations

from typing import Any

from spark_dl.errors import OptionError, explain

__all__ = ["check_integer", "check_number"]


def check_integer(name: str, value: Any, least: int) -> None:
    """Check that a value is an integer of at least `least`.

    Raises:
        OptionError: It isn't.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _refused(name, value, f"an integer >= {least}")


def check_number(name: str, value: Any, least: float, most: float = float("inf"), *, positive: bool = False) -> None:
    """Check that a value is a number from `least` to `most`.

    Raises:
        OptionError: It isn't, or it is `least` with `positive`.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and least <= value <= most) or (positive and value == least):
        bounds = f"{'>' if positive else '>='} {least:g}" + (f" and <= {most:g}" if most < float("inf") else "")
        raise _refused(name, value, f"a number {bounds}")


def _refused(name: str, value: Any, expected: str) -> OptionError:
    received = f"{value!r} ({type(value).__name__})"
    return OptionError(
        explain(f"{name} can't be used.", expected=expected, received=received, fix=f"Set another {name}.")
    )
