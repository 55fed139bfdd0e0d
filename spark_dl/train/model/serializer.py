"""Keras's serializer, led by us for a while: what it writes for the user's objects, and by what names."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.saving import object_registration, saving_lib, serialization_lib

__all__ = ["reference", "serializing"]

# Keras writes names through functions of its modules, which are one for all threads.
_PATCHING = threading.RLock()
_MODULES = (serialization_lib, saving_lib, keras.src.saving, keras.saving, keras.utils)


def reference(name: str) -> dict[str, Any]:
    """What Keras writes for a function: the object of that name is put in its place as it is loaded."""
    return {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}


@contextlib.contextmanager
def serializing(
    write: Callable[[Any, Callable[[Any], Any]], Any], name_of: Callable[[Any, Callable[[Any], str]], str]
) -> Iterator[None]:
    """Have Keras serialize by these functions within the block, in this thread alone.

    Args:
        write: takes an object and Keras's own `serialize_keras_object`; gives the config.
        name_of: takes a class or function and Keras's own `get_registered_name`; gives the name.
    """
    thread = threading.get_ident()
    made: list[Any] = []  # kept, since what Keras meets again by its id is one object to it
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
