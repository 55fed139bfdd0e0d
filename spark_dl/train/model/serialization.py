"""Keras models as bytes, in the `.keras` format: the user's model is never changed, but saved, and a copy is loaded."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from spark_dl.errors import SavedModelError, explain
from spark_dl.train.model.archive import add_record, read_record, refuse_hostile, split_record
from spark_dl.train.model.identity import config_of, found_objects, naming
from spark_dl.train.model.keras_settings import apply_settings
from spark_dl.train.model.live_state import LiveState, describe, restore_layers, restore_optimizer, restore_values
from spark_dl.train.model.names import PACKAGE

__all__ = ["custom_objects", "from_bytes", "register", "settings_of", "to_bytes"]


def custom_objects(model: Any, *others: Any) -> dict[str, Any]:
    """What Keras needs by name to load a model elsewhere: the user's own functions and classes, registered or not.

    Within a `custom_object_scope` of it, `to_bytes` writes these names. Of what is registered in this process only what
    the model's config names: the rest may come from modules that aren't where the model is loaded.

    Args:
        model: with its layers, its optimizer and its losses.
        others: further Keras objects, functions, names, or lists of them, such as the metrics.

    Raises:
        ModelError: a copy of an object would be another one.
    """
    found = found_objects(model, *others)
    with keras.saving.custom_object_scope(found):
        config = str(config_of([model, *others]))
    registered = keras.saving.get_custom_objects()
    return {**{name: thing for name, thing in registered.items() if name in config}, **found}


def register(objects: Mapping[str, Any]) -> None:
    """Register with Keras, in a process that ends with its training, what `custom_objects` found registered elsewhere.

    Keras saves a class that isn't registered by its bare name, which nobody who has it registered would find.
    """
    for name, thing in objects.items():
        package, registered, own_name = name.partition(">")
        own = name.startswith(PACKAGE)
        if registered and not own and keras.saving.get_registered_name(thing) != name:
            keras.saving.register_keras_serializable(package, own_name)(thing)


def to_bytes(model: keras.Model) -> bytes:
    """The model with its weights, compile options and optimizer state, and with what Keras itself forgets of it."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        with naming():
            model.save(path)
            state = describe(model)
        add_record(path, state.record, state.values)
        with open(path, "rb") as file:
            return file.read()


def from_bytes(content: bytes, custom_objects: Mapping[str, Any] | None = None, compiled: bool = True) -> keras.Model:
    """The inverse of `to_bytes`. Keras's safe mode stays on: nothing that is loaded executes.

    It also loads what Keras alone has saved, and what earlier releases have.

    Raises:
        SavedModelError: the bytes aren't a model that Keras loads safely.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        with open(path, "wb") as file:
            file.write(content)
        try:
            refuse_hostile(content)
            noted = split_record(path)
            with warnings.catch_warnings():
                # An optimizer that had not been built when it was saved: it begins anew.
                warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
                # A scope takes the place of the one around it.
                with keras.saving.custom_object_scope(custom_objects) if custom_objects else contextlib.nullcontext():
                    return _loaded(path, None if noted is None else LiveState(*noted), compiled)
        except Exception as error:
            raise SavedModelError(
                explain(
                    "Keras can't load the model.",
                    expected="a .keras archive without Lambda layers, whose custom objects are registered",
                    received=f"{len(content)} bytes; {type(error).__name__}: {error}",
                    fix="Import the module that registers the custom objects with "
                    "keras.saving.register_keras_serializable, or save the model anew.",
                )
            ) from error


def settings_of(content: bytes) -> dict[str, Any]:
    """Keras's settings in the process that has saved a model; empty where they can't be read."""
    try:
        noted = read_record(content)
    except Exception:  # `from_bytes` says what is wrong
        return {}
    return {} if noted is None else dict(noted["settings"])


def _loaded(path: str, state: LiveState | None, compiled: bool) -> keras.Model:
    if state is None:
        return _refrozen(keras.saving.load_model(path, compile=compiled, safe_mode=True), path)
    with apply_settings(state.record["settings"]):
        model = keras.saving.load_model(path, compile=compiled, safe_mode=True)
        restore_layers(model, state)
        restore_values(model, state)  # which an optimizer may keep as it is built
        if restore_optimizer(model, state):
            model.load_weights(path)
            restore_values(model, state)
    return model


def _refrozen(model: keras.Model, path: str) -> keras.Model:
    """The model with all frozen that a frozen layer holds: Keras forgets it of what a layer makes as it is built."""
    trained = len(model.trainable_variables)
    for layer in [layer for layer in model._flatten_layers() if not layer.trainable]:
        for inner in layer._flatten_layers(include_self=False):
            inner.trainable = False
        for variable in layer.variables:
            variable.trainable = False
    if len(model.trainable_variables) < trained and model.compiled:
        with naming():
            compiled = model.get_compile_config()
        model.compile_from_config(compiled)  # with an optimizer for what is left
        model.load_weights(path)
    return model
