"""TensorFlow internals: the state of a `tf.function`. Checked with TensorFlow 2.19, 2.20 and 2.21."""

from __future__ import annotations

from typing import Any

__all__ = ["has_created_variables", "untraced_state"]


def has_created_variables(function: Any) -> bool:
    """Return whether the first call of a `tf.function` has created variables (`Function._created_variables`)."""
    return bool(function._created_variables)


def untraced_state(function: Any) -> dict[str, Any]:
    """Return the pickle state of a `tf.function` without its graphs, which can't be pickled (`Function._clone`).

    Attributes of the decorator (`_tf_decorator`), such as the wrapped function's name, are included.
    """
    decorated = {name: value for name, value in vars(function).items() if name.startswith(("__", "_tf_decorator"))}
    return {**decorated, **function._clone(None).__getstate__()}
