"""Hooks into Keras's serializer, for the configs and the names that it writes for custom objects."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.saving import object_registration, saving_lib, serialization_lib

__all__ = ["reference", "serializing"]

# The patched functions of Keras's modules are shared by all threads.
_PATCHING = threading.RLock()
_MODULES = (serialization_lib, saving_lib, keras.src.saving, keras.saving, keras.utils)


def reference(name: str) -> dict[str, Any]:
    """Return the config that Keras writes for a function: on loading, it is replaced by the object of that name."""
    return {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}


@contextlib.contextmanager
def serializing(
    write: Callable[[Any, Callable[[Any], Any]], Any], name_of: Callable[[Any, Callable[[Any], str]], str]
) -> Iterator[None]:
    """Replace Keras's serialization functions within the block, for this thread only.

    Args:
        write: The function that takes an object and Keras's own `serialize_keras_object` and returns the config.
        name_of: The function that takes a class or function and Keras's own `get_registered_name` and returns the name.
    """
    thread = threading.get_ident()
    made: list[Any] = []  # referenced to keep ids unique, since Keras identifies shared objects by id
    with _PATCHING, contextlib.ExitStack() as patches:
        keras_write = serialization_lib.serialize_keras_object
        keras_name = object_registration.get_registered_name
        keras_lambda = keras.layers.Lambda._serialize_function_to_config

        def written(obj: Any) -> Any:
            if threading.get_ident() != thread:
                return keras_write(obj)
            if isinstance(obj, type) and issubclass(obj, (keras.losses.Loss, keras.metrics.Metric)):
                obj = obj()  # as compile does
                made.append(obj)
            return write(obj, keras_write)

        def named(obj: Any) -> str:
            return name_of(obj, keras_name) if threading.get_ident() == thread else keras_name(obj)

        def written_lambda(layer: Any, function: Any) -> Any:
            def by_keras(function: Any) -> Any:
                return keras_lambda(layer, function)

            return write(function, by_keras) if threading.get_ident() == thread else by_keras(function)

        for module in _MODULES:
            patches.enter_context(_patched(module, "serialize_keras_object", written))
        patches.enter_context(_patched(object_registration, "get_registered_name", named))
        patches.enter_context(_patched(keras.layers.Lambda, "_serialize_function_to_config", written_lambda))
        yield


@contextlib.contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
