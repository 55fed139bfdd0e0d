"""Check that an object's `get_config` is complete, so that Keras loads an equal object from it."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import TRACKING_ATTRIBUTES, wrapped_function
from spark_dl.train.model.parts import is_keras

__all__ = ["changed_arguments", "fault", "is_same", "with_arguments"]

_PLAIN = (str, bytes, int, float, complex, bool, type(None))
# Depth to which nested objects are compared.
_DEPTH = 6
_GENERAL = ("self", "name", "dtype", "trainable", "args", "kwargs")


def fault(thing: Any, config: Mapping[str, Any]) -> str:
    """Describe what is wrong with a config from which Keras would load a different object; empty if it is complete.

    Args:
        thing: An object of a custom class.
        config: The config as Keras serializes it.
    """
    parameters = inspect.signature(type(thing).__init__).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [one.name for one in parameters if one.kind in named]
    given = config["config"]
    left_out = [name for name in names if name not in _GENERAL and name not in given]
    held = {name: key for name in left_out for key in (name, f"_{name}") if key in vars(thing)}
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    unknown = [] if takes_all else [name for name in given if name not in names]
    if not held and not unknown:
        return ""
    try:
        copy = vars(keras.saving.deserialize_keras_object(dict(config)))
    except Exception:
        if _writes_itself(type(thing)):
            return ""  # its from_config may need objects that exist only while the model is loaded; errors show then
        lost = list(held)
        if not lost and unknown:
            return f"one that gives {', '.join(unknown)}, which __init__ doesn't take"
    else:
        lost = [name for name, key in held.items() if not is_same(vars(thing)[key], copy.get(key))]
    return f"one that leaves {', '.join(lost)} out" if lost else ""


def with_arguments(thing: Any, config: Any) -> Any:
    """Return a config with the arguments that the class takes.

    Those that the `get_config` of Keras's losses and metrics forgets are added: Huber leaves its delta out, for one.
    Those that Keras adds to layers of the user's and that their classes don't take are removed.

    Args:
        thing: Any object; the config of others than losses, metrics and layers is returned as it is.
        config: The config as Keras serializes it.
    """
    if isinstance(thing, keras.layers.Layer):
        return _without_unknown(thing, config)
    if not isinstance(thing, (keras.losses.Loss, keras.metrics.Metric)) or not is_keras(type(thing)):
        return config
    if not isinstance(config, dict) or not isinstance(written := config.get("config"), dict):
        return config
    taken = inspect.signature(type(thing).__init__).parameters
    held = wrapped_function(thing)[1].items()
    lost = {name: value for name, value in held if isinstance(value, _PLAIN) and name in taken and name not in written}
    return {**config, "config": {**written, **lost}} if lost else config


def _without_unknown(layer: keras.layers.Layer, config: Any) -> Any:
    """Return a layer's config without what Keras adds to it and the user's class doesn't take.

    Keras makes a config of the arguments of `__init__`, which `trainable` and `dtype` needn't be. The record of a
    model has both (live_state.py).
    """
    kind = type(layer)
    written = config.get("config") if isinstance(config, dict) else None
    if is_keras(kind) or not is_keras(kind.get_config) or not isinstance(written, dict) or "layers" in written:
        return config
    parameters = inspect.signature(kind.__init__).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return config
    known = {name: value for name, value in written.items() if name in parameters or name not in ("trainable", "dtype")}
    return {**config, "config": known}


def changed_arguments(thing: Any, config: Mapping[str, Any]) -> str:
    """Describe the arguments of one of Keras's losses or metrics whose value in its config isn't the one in use.

    Keras holds them twice: an attribute that is set after the object was made changes one of them only.

    Args:
        thing: The loss or metric.
        config: The config as Keras serializes it.

    Returns:
        The description; empty if all are equal.
    """
    written = config["config"]
    held = {name: value for name, value in wrapped_function(thing)[1].items() if name in written}
    return ", ".join(
        f"{name}={written[name]!r} in its config, {value!r} in its computation"
        for name, value in held.items()
        if isinstance(value, _PLAIN) and not is_same(value, written[name])
    )


def _writes_itself(kind: type) -> bool:
    """Return whether a custom class overrides get_config or from_config."""
    return not all(is_keras(getattr(kind, name, None)) for name in ("get_config", "from_config"))


def is_same(one: Any, other: Any, depth: int = _DEPTH) -> bool:
    """Return whether two values are equal: numbers, texts, arrays, functions, and objects that hold them."""
    if one is other or not depth:
        return True
    inner = functools.partial(_all_same, depth=depth - 1)
    if isinstance(one, _PLAIN) or isinstance(other, _PLAIN):
        return bool(type(one) is type(other) and (one == other or (one != one and other != other)))
    if hasattr(one, "__array__") and hasattr(other, "__array__"):
        return _same_numbers(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return inner(list(one), list(other))
    if type(one) is not type(other):
        return False
    if is_keras(type(one)) and hasattr(one, "get_config"):
        return bool(keras.saving.serialize_keras_object(one) == keras.saving.serialize_keras_object(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and inner(list(one.values()), [other[key] for key in one])
    if isinstance(one, types.MethodType):
        return one.__func__ is other.__func__ and inner([one.__self__], [other.__self__])
    if isinstance(one, functools.partial):
        return inner([one.func, one.args, one.keywords], [other.func, other.args, other.keywords])
    if isinstance(one, types.FunctionType):
        cells = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (one, other)]
        return one.__code__ is other.__code__ and inner([*cells[0], one.__defaults__], [*cells[1], other.__defaults__])
    held = [
        {key: value for key, value in getattr(thing, "__dict__", {}).items() if key not in TRACKING_ATTRIBUTES}
        for thing in (one, other)
    ]
    return held[0].keys() == held[1].keys() and inner(list(held[0].values()), [held[1][key] for key in held[0]])


def _all_same(some: list[Any], others: list[Any], depth: int) -> bool:
    return len(some) == len(others) and all(is_same(a, b, depth) for a, b in zip(some, others, strict=True))


def _same_numbers(one: Any, other: Any) -> bool:
    if isinstance(one, keras.KerasTensor) or isinstance(other, keras.KerasTensor):
        return True
    arrays = [np.asarray(array) for array in (one, other)]
    same: bool = arrays[0].shape == arrays[1].shape and bool(
        np.all((arrays[0] == arrays[1]) | (arrays[0] != arrays[0]))
    )
    return same
