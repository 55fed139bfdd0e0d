"""Keras models as bytes, in the `.keras` format: the user's model is saved and a copy loaded, so it never changes."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from spark_dl._compat.keras import all_layers
from spark_dl._compat.keras_loading import loading_without_copies, weights_in_files
from spark_dl.errors import SavedModelError, explain
from spark_dl.train.model.archive import add_record, config_text, read_record, refuse_hostile, split_record
from spark_dl.train.model.identity import config_of, found_objects, naming
from spark_dl.train.model.keras_settings import apply_settings
from spark_dl.train.model.live_state import LiveState, describe, restore_layers, restore_optimizer, restore_values
from spark_dl.train.model.names import PACKAGE
from spark_dl.train.model.recompiling import compile_again

__all__ = ["custom_objects", "from_bytes", "from_file", "import_own_layers", "register", "settings_of", "to_bytes"]

# Registered names of the package's own layers and losses, in a config as JSON.
_OWN = '"spark_dl>'

# From these sizes in bytes on, of an archive and of a variable, a model is loaded without copies.
_LARGE_BYTES, _LARGE_VARIABLE = 16 << 20, 1 << 20


def custom_objects(model: Any, *others: Any) -> dict[str, Any]:
    """Return the custom functions and classes that Keras needs to load a model elsewhere, by name, registered or not.

    Within a `custom_object_scope` of the result, `to_bytes` writes these names. Objects registered in this process are
    included only if the model's config names them: others may come from modules that are missing where the model is
    loaded.

    Args:
        model: The model, with its layers, its optimizer and its losses.
        others: Further Keras objects, functions, names, or lists of them, such as the metrics.

    Raises:
        ModelError: An object can't be copied faithfully.
    """
    found = found_objects(model, *others)
    with keras.saving.custom_object_scope(found):
        config = str(config_of([model, *others]))
    registered = keras.saving.get_custom_objects()
    return {**{name: thing for name, thing in registered.items() if name in config}, **found}


def register(objects: Mapping[str, Any]) -> None:
    """Register with Keras the objects that `custom_objects` found registered elsewhere, by the same names.

    For processes that end with their training. Keras saves an unregistered class by its bare name, which a process that
    has it registered wouldn't find.
    """
    for name, thing in objects.items():
        package, registered, own_name = name.partition(">")
        own = name.startswith(PACKAGE)
        if registered and not own and keras.saving.get_registered_name(thing) != name:
            keras.saving.register_keras_serializable(package, own_name)(thing)


def to_bytes(model: keras.Model) -> bytes:
    """Serialize the model with its weights, compile options, optimizer state, and the state that Keras doesn't save."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        large = 4 * sum(math.prod(variable.shape) for variable in model.variables) >= _LARGE_BYTES
        with naming(), weights_in_files() if large else contextlib.nullcontext():
            model.save(path)
            state = describe(model)
        add_record(path, state.record, state.values)
        with open(path, "rb") as file:
            return file.read()


def from_bytes(content: bytes, custom_objects: Mapping[str, Any] | None = None, compiled: bool = True) -> keras.Model:
    """Load a model from `.keras` bytes: the inverse of `to_bytes`.

    Also loads bytes written by Keras itself or by earlier releases. Keras's safe mode is on: nothing that is loaded is
    executed.

    Args:
        content: The `.keras` bytes.
        custom_objects: The custom objects by name; without any, the surrounding `custom_object_scope` applies.
        compiled: Whether to compile the model.

    Raises:
        SavedModelError: The bytes aren't a model that Keras loads safely.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        with open(path, "wb") as file:
            file.write(content)
        return from_file(path, custom_objects, compiled)


def from_file(path: str, custom_objects: Mapping[str, Any] | None = None, compiled: bool = True) -> keras.Model:
    """Load a model from a `.keras` file as `from_bytes` does from bytes, with no more memory than its weights.

    Args:
        path: The file, which is changed; its directory takes further temporary files.
        custom_objects: The custom objects by name; without any, the surrounding `custom_object_scope` applies.
        compiled: Whether to compile the model.

    Raises:
        SavedModelError: The file isn't a model that Keras loads safely.
    """
    size = os.path.getsize(path)
    try:
        refuse_hostile(path)
        import_own_layers(config_text(path))
        noted = split_record(path)
        with warnings.catch_warnings(), contextlib.ExitStack() as scopes:
            # An optimizer that was saved unbuilt starts without state.
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            # `compile_again` calls it.
            warnings.filterwarnings("ignore", message=r"`compile\(\)` was not called as part of model loading")
            if custom_objects:  # a scope replaces the one around it
                scopes.enter_context(keras.saving.custom_object_scope(custom_objects))
            if size >= _LARGE_BYTES:
                scopes.enter_context(loading_without_copies(_LARGE_VARIABLE))
            return _loaded(path, None if noted is None else LiveState(*noted), compiled)
    except Exception as error:
        raise SavedModelError(
            explain(
                "Keras can't load the model.",
                expected="a .keras archive without Lambda layers, whose custom objects are registered",
                received=f"{size} bytes; {type(error).__name__}: {error}",
                fix="Import the module that registers the custom objects with "
                "keras.saving.register_keras_serializable, or save the model again.",
            )
        ) from error


def import_own_layers(config: str) -> None:
    """Register the layers of `spark_dl.layers` with Keras, if a config names one.

    Args:
        config: The config as JSON.
    """
    if _OWN in config:
        importlib.import_module("spark_dl.layers")


def settings_of(content: bytes | str) -> dict[str, Any]:
    """Return Keras's settings in the process that saved a model, as bytes or a path; empty if they can't be read."""
    try:
        noted = read_record(content)
    except Exception:  # `from_bytes` raises the error
        return {}
    return {} if noted is None else dict(noted["settings"])


def _loaded(path: str, state: LiveState | None, compiled: bool) -> keras.Model:
    if state is None:
        return _refrozen(keras.saving.load_model(path, compile=compiled, safe_mode=True), path)
    with apply_settings(state.record["settings"]):
        model = keras.saving.load_model(path, compile=compiled, safe_mode=True)
        restore_layers(model, state)
        restore_values(model, state)  # before the optimizer is built, which may copy the values
        again = compiled and _compiled_again(model, path)
        if restore_optimizer(model, state) or again:
            keras.Model.load_weights(model, path)  # a class may have one of its own
            restore_values(model, state)
    return model


def _compiled_again(model: keras.Model, path: str) -> bool:
    """Compile a loaded model that Keras hasn't compiled, by the config in its archive; return whether it is now."""
    config = json.loads(config_text(path)).get("compile_config")
    if not config or getattr(model, "optimizer", None) is not None:
        return False
    compile_again(model, config)
    return bool(model.compiled)


def _refrozen(model: keras.Model, path: str) -> keras.Model:
    """Freeze everything within frozen layers: Keras loses the flag of what a layer creates when it is built."""
    trained = len(model.trainable_variables)
    for layer in [layer for layer in all_layers(model) if not layer.trainable]:
        for inner in all_layers(layer, include_self=False):
            inner.trainable = False
        for variable in layer.variables:
            variable.trainable = False
    if len(model.trainable_variables) < trained and model.compiled:
        with naming():
            compiled = model.get_compile_config()
        compile_again(model, compiled)  # with an optimizer for the remaining variables
        keras.Model.load_weights(model, path)
    return model
