"""TensorFlow internals: the state of a `tf.function`, what its graphs use, settings of LiteRT's converter.

Checked with TensorFlow 2.21; the former with 2.19 and 2.20, too.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "builtin_operations",
    "captured_resources",
    "has_created_variables",
    "litert_settings",
    "operations_of",
    "untraced_state",
]


def has_created_variables(function: Any) -> bool:
    """Return whether the first call of a `tf.function` has created variables (`Function._created_variables`)."""
    return bool(function._created_variables)


def untraced_state(function: Any) -> dict[str, Any]:
    """Return the pickle state of a `tf.function` without its graphs, which can't be pickled (`Function._clone`).

    Attributes of the decorator (`_tf_decorator`), such as the wrapped function's name, are included.
    """
    decorated = {name: value for name, value in vars(function).items() if name.startswith(("__", "_tf_decorator"))}
    return {**decorated, **function._clone(None).__getstate__()}


def litert_settings() -> set[str]:
    """Return the names of the settings of LiteRT's converter: attributes that its classes don't list."""
    import tensorflow as tf

    return {name for name in vars(tf.lite.TFLiteConverter([])) if not name.startswith("_")}


def builtin_operations() -> list[Any]:
    """Return LiteRT's own operations, without TensorFlow's, as `target_spec.supported_ops` takes them."""
    import tensorflow as tf

    return [tf.lite.OpsSet.TFLITE_BUILTINS]


def captured_resources(graph: Any) -> list[Any]:
    """Return the handles of the resources, such as variables, that a function's graph uses (`FuncGraph`)."""
    import tensorflow as tf

    return [tensor for tensor in graph.external_captures if tensor.dtype == tf.resource]


def operations_of(graph: Any) -> set[str]:
    """Return the names of the operations of a function's graph, and of the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return {node.op for node in nodes}
