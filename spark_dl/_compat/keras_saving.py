"""Keras internals: serialization, saving of objects that aren't models, and Keras's own names.

Each docstring names the symbol behind the function. Checked with Keras 3.10, 3.12, 3.14 and 3.15.
`tests/unit/test_compat_keras.py` has a test for each.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras.src import activations, api_export
from keras.src.backend.common import global_state
from keras.src.saving import keras_saveable, object_registration, saving_lib, serialization_lib

__all__ = [
    "PATCHING",
    "builtins_named",
    "function_reference",
    "is_exported",
    "is_plain",
    "is_saveable",
    "load_object",
    "loading_assets",
    "patched",
    "reserved_names",
    "save_object",
    "scope_objects",
    "serializing",
]

# The patched functions of Keras's modules are shared by all threads. One lock for saving and loading, each of which may
# need the other.
PATCHING = threading.RLock()
_SERIALIZERS = (serialization_lib, saving_lib, keras.src.saving, keras.saving, keras.utils)


def scope_objects() -> Mapping[str, Any]:
    """Return the objects of the surrounding `keras.saving.custom_object_scope` by name.

    Behind it is `global_state`'s attribute "custom_objects_scope_dict". `get_registered_object` looks up one name only.
    """
    objects: Mapping[str, Any] = global_state.get_global_attribute("custom_objects_scope_dict", {})
    return objects


def is_saveable(thing: Any) -> bool:
    """Return whether Keras can save an object: a layer, model, loss, metric or optimizer (`KerasSaveable`)."""
    return isinstance(thing, keras_saveable.KerasSaveable)


def save_object(thing: Any) -> bytes:
    """Serialize a layer, loss, metric or optimizer (`saving_lib._save_model_to_fileobj`).

    Layers and optimizers are saved with their variables, metrics without. `keras.saving.save_model` fails for losses
    and metrics.
    """
    stream = io.BytesIO()
    saving_lib._save_model_to_fileobj(thing, stream, "h5")
    return stream.getvalue()


def load_object(content: bytes) -> Any:
    """Load an object from the bytes of `save_object`, in safe mode (`saving_lib._load_model_from_fileobj`)."""
    return saving_lib._load_model_from_fileobj(io.BytesIO(content), custom_objects=None, compile=True, safe_mode=True)


def loading_assets() -> contextlib.AbstractContextManager[None]:
    """Return the scope in which Keras loads the files of layers: not that of configs, in which keras-hub reads no file.

    Behind it is `serialization_lib.SafeModeScope`; `_load_model_from_fileobj` has left it when it loads the files.
    """
    scope: contextlib.AbstractContextManager[None] = serialization_lib.SafeModeScope(None)
    return scope


def is_plain(thing: Any) -> bool:
    """Return whether Keras writes a value as it is: text, number or bool (`serialization_lib.PLAIN_TYPES`)."""
    return isinstance(thing, serialization_lib.PLAIN_TYPES)


def is_exported(kind: type) -> bool:
    """Return whether a class is in Keras's public API (`api_export.REGISTERED_OBJS_TO_NAMES`)."""
    return kind in api_export.REGISTERED_OBJS_TO_NAMES


def builtins_named(name: str) -> list[Any]:
    """Return Keras's own activations, losses, metrics, initializers and so on by a name, as a config refers to them.

    Behind it are `serialization_lib.BUILTIN_MODULES` and `api_export.get_symbol_from_name`.
    """
    found = (api_export.get_symbol_from_name(f"keras.{module}.{name}") for module in serialization_lib.BUILTIN_MODULES)
    return [thing for thing in found if thing is not None]


@functools.cache
def reserved_names() -> frozenset[str]:
    """Return the names that Keras may resolve to objects of its own.

    Behind it are `api_export.REGISTERED_NAMES_TO_OBJS`, `ALL_OBJECTS_DICT` of the modules in
    `serialization_lib.BUILTIN_MODULES`, and the module `keras.src.activations`.
    """
    public = {name.rpartition(".")[2] for name in api_export.REGISTERED_NAMES_TO_OBJS}
    modules = [getattr(keras.src, module) for module in serialization_lib.BUILTIN_MODULES]
    by_text = {name for module in modules for name in getattr(module, "ALL_OBJECTS_DICT", ())}
    return frozenset({*public, *by_text, *vars(activations)})


def function_reference(name: str) -> dict[str, Any]:
    """Return the config that Keras writes for a function: on loading, it is replaced by the object of that name."""
    return {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}


@contextlib.contextmanager
def serializing(
    write: Callable[[Any, Callable[[Any], Any]], Any], name_of: Callable[[Any, Callable[[Any], str]], str]
) -> Iterator[None]:
    """Replace Keras's serialization functions within the block, for this thread only.

    Behind it are `serialization_lib.serialize_keras_object` (in each module that refers to it),
    `object_registration.get_registered_name` and `Lambda._serialize_function_to_config`: Keras has no hook.

    Args:
        write: The function that takes an object and Keras's own `serialize_keras_object` and returns the config.
        name_of: The function that takes a class or function and Keras's own `get_registered_name` and returns the name.
    """
    thread = threading.get_ident()
    made: list[Any] = []  # referenced to keep ids unique, since Keras identifies shared objects by id
    with PATCHING, contextlib.ExitStack() as patches:
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

        for module in _SERIALIZERS:
            patches.enter_context(patched(module, "serialize_keras_object", written))
        patches.enter_context(patched(object_registration, "get_registered_name", named))
        patches.enter_context(patched(keras.layers.Lambda, "_serialize_function_to_config", written_lambda))
        yield


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module or a class within the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
