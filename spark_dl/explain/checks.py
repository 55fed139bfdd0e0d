"""Checks of the values that configure an explanation."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from spark_dl.errors import OptionError, explain

__all__ = ["check_baseline", "check_count", "check_target"]


def check_count(name: str, value: Any) -> None:
    """Check that a value is a whole number of at least 1.

    Raises:
        OptionError: It isn't.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise _refused(name, "an integer >= 1", value)


def check_target(value: Any) -> None:
    """Check that a value is an index, or None.

    Raises:
        OptionError: It isn't.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise _refused("target", "the index of an output unit, or None", value)


def check_baseline(value: Any) -> None:
    """Check that a value is a finite number, or a dict of such numbers.

    Raises:
        OptionError: It isn't.
    """
    for one in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(one, bool) or not isinstance(one, numbers.Real) or not math.isfinite(one):
            raise _refused("baseline", "a finite number for all inputs, or a dict of them by input name", value)


def _refused(name: str, expected: str, value: Any) -> OptionError:
    received = f"{value!r} ({type(value).__name__})"
    return OptionError(
        explain(f"{name} can't be used.", expected=expected, received=received, fix=f"Set another {name}.")
    )
