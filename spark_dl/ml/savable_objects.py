"""Rules for saving Keras models: custom objects are saved by names that Keras can resolve when it loads them.

A model whose custom objects have no such names can't be saved.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from spark_dl.errors import SavedModelError, explain
from spark_dl.train.model.names import PACKAGE

__all__ = ["refuse_missing", "savable", "savable_config", "savable_model"]

_CONFIG = "config.json"


def savable(content: bytes, objects: Mapping[str, Any], what: str = "", compiled: bool = False) -> bytes:
    """Convert a model's bytes from the form that is shipped between processes to the form that is saved.

    Args:
        content: The `.keras` bytes, in which custom objects may have names of the package `spark_dl.custom`.
        objects: The custom objects by the names in the bytes.
        what: The thing to save, for error messages; empty for a model.
        compiled: Whether the loaded model needs its compile options; scoring doesn't.

    Returns:
        The `.keras` bytes with the names that Keras would write.

    Raises:
        SavedModelError: A custom object has no name by which another process could find it, such as a lambda.
    """
    if PACKAGE.encode() not in _config_bytes(content):
        return content
    config = json.loads(_config_bytes(content))
    compile_config = config.pop("compile_config", None)
    changed = [_with_plain_names(part, objects) for part in (config, compile_config)]
    _refuse_unnamed([config, compile_config if compiled else None], what or "model")
    if compile_config is not None:
        config["compile_config"] = compile_config
    return _with_config(content, config) if any(changed) else content


def savable_model(what: str, model: Any) -> bytes:
    """Convert a Keras model to the bytes that are saved with an estimator.

    Args:
        what: The thing to save, for error messages.
        model: The Keras model.

    Returns:
        The `.keras` bytes.

    Raises:
        SavedModelError: A custom object has no name by which another process could find it, such as a lambda.
    """
    import keras

    from spark_dl.train.model.serialization import custom_objects, to_bytes

    objects = custom_objects(model)
    with keras.saving.custom_object_scope(objects):
        return savable(to_bytes(model), objects, what, compiled=True)


def savable_config(what: str, thing: Any) -> Any:
    """Return the config of Keras objects that is saved with an estimator.

    Args:
        what: The thing to save, for error messages.
        thing: Keras objects, functions or names, or lists or dicts of them.

    Raises:
        SavedModelError: A custom object has no name by which another process could find it, such as a lambda.
    """
    import keras

    from spark_dl.train.model.identity import config_of
    from spark_dl.train.model.serialization import custom_objects

    objects = custom_objects(thing)
    with keras.saving.custom_object_scope(objects):
        config = config_of(thing)
    _with_plain_names(config, objects)
    _refuse_unnamed(config, what)
    return config


def _with_plain_names(config: Any, objects: Mapping[str, Any]) -> bool:
    """Replace names in a config by those that Keras would write, if unambiguous; return whether any changed."""
    changed = False
    for part, name in list(_given(config)):
        if plain := _plain_name(name, objects):
            part["config" if part.get("class_name") == "function" else "registered_name"] = plain
            changed = True
    return changed


def _refuse_unnamed(config: Any, what: str) -> None:
    missing = [f"{name!r} in {place}" for name, place in _unnamed(config, what) if not _is_known(name)]
    if missing:
        raise SavedModelError(
            explain(
                f"The {what} can't be saved, since no other process could load it.",
                expected="functions and classes with names of their own, and no lambdas",
                received=", ".join(dict.fromkeys(missing)),
                fix="Register them by keras.saving.register_keras_serializable before the fit; or under these names, "
                "here and where they are loaded.",
            )
        )


def refuse_missing(content: bytes, objects: Mapping[str, Any]) -> None:
    """Check that all custom objects of a saved model's compile options are available.

    Args:
        content: The `.keras` bytes.
        objects: The custom objects by their names.

    Raises:
        SavedModelError: The model was compiled, in another process, with functions that can't be saved.
    """
    config = _config_bytes(content)
    names = [name for _, name in _given(json.loads(config))] if PACKAGE.encode() in config else []
    if missing := dict.fromkeys(name for name in names if name not in objects):
        raise SavedModelError(
            explain(
                "The saved model was compiled with functions that can't be saved.",
                expected="functions and classes that are registered with Keras",
                received=", ".join(map(repr, missing)),
                fix="Register them by keras.saving.register_keras_serializable('spark_dl.custom', name), or load the "
                "Keras model without its compile options. transform needs none of them.",
            )
        )


def _config_bytes(content: bytes) -> bytes:
    """Return the config in a model's bytes; empty for damaged bytes, which fail when they are loaded."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.read(_CONFIG)
    except (zipfile.BadZipFile, KeyError):
        return b""


def _with_config(content: bytes, config: Any) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(written, "w") as target:
        for member in source.infolist():
            held = json.dumps(config).encode() if member.filename == _CONFIG else source.read(member)
            target.writestr(member, held)
    return written.getvalue()


def _given(config: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the parts of a config whose names are of the package `spark_dl.custom`, each with its name."""
    if isinstance(config, dict):
        name = config.get("config") if config.get("class_name") == "function" else config.get("registered_name")
        if isinstance(name, str) and name.startswith(PACKAGE):
            yield config, name
        for value in config.values():
            yield from _given(value)
    elif isinstance(config, list):
        for value in config:
            yield from _given(value)


def _unnamed(config: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the names of the package `spark_dl.custom` in a config, each with the layer that contains it."""
    if isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str) and "class_name" in config:
            place = f"{config['class_name']} {inner['name']!r}"
        name = inner if config.get("class_name") == "function" else config.get("registered_name")
        if isinstance(name, str) and name.startswith(PACKAGE):
            yield name, place
        for value in config.values():
            yield from _unnamed(value, place)
    elif isinstance(config, list):
        for value in config:
            yield from _unnamed(value, place)


def _plain_name(name: str, objects: Mapping[str, Any]) -> str:
    """Return the name that Keras would write for an object; empty if Keras wouldn't find the same object by it."""
    from spark_dl.train.model.identity import saved_name

    thing = objects.get(name)
    others = [other for other in objects.values() if other is not thing]
    return saved_name(thing, others)


def _is_known(name: str) -> bool:
    keras = sys.modules.get("keras")  # without an import of Keras, nothing is registered
    return keras is not None and name in keras.saving.get_custom_objects()
