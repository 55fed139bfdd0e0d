"""Weights of classes in training, of rows or of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spark_dl.errors import OptionError, explain

__all__ = ["check_class_weights", "class_weights"]


def check_class_weights(given: str | Mapping[int, float] | None, classes: int) -> None:
    """Check that classWeights names only classes that the model has.

    Args:
        given: The option's value.
        classes: The number of classes.

    Raises:
        OptionError: It names another class.
    """
    if isinstance(given, Mapping) and max(given) >= classes:
        raise OptionError(
            explain(
                "classWeights names a class that the model doesn't have.",
                expected=f"class indices from 0 to {classes - 1}",
                received=f"class {max(given)}",
                fix="Leave that class out, or give the model's last layer more units.",
            )
        )


def class_weights(given: Any, classes: int, counts: Sequence[int]) -> tuple[float, ...]:
    """Return the weight of each class in training; empty if all weigh 1.

    Args:
        given: The option's value: "balanced", weights by class index, or None.
        classes: The number of classes.
        counts: The number of rows or positions of each class, for "balanced".
    """
    if isinstance(given, str):
        present = sum(count > 0 for count in counts)
        return tuple(sum(counts) / (present * count) if count else 1.0 for count in counts)
    return tuple(given.get(index, 1.0) for index in range(classes)) if given else ()
