"""Models as they are saved: by names that can be found again where they are loaded, or not at all."""

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
    """A model's bytes, as they are saved.

    Args:
        content: `.keras` bytes by which a model is carried.
        objects: what Keras needs by name to load them.
        what: is saved, for messages.
        compiled: whether what the model was compiled with is needed where it is loaded; scoring doesn't need it.

    Raises:
        SavedModelError: it holds what no loaded model could, since it has no name of its own.
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
    """A model's bytes, as they are saved with an estimator.

    Args:
        what: is saved, for messages.
        model: a Keras model.

    Raises:
        SavedModelError: it can't be saved.
    """
    import keras

    from spark_dl.train.model.serialization import custom_objects, to_bytes

    objects = custom_objects(model)
    with keras.saving.custom_object_scope(objects):
        return savable(to_bytes(model), objects, what, compiled=True)


def savable_config(what: str, thing: Any) -> Any:
    """The config of losses, metrics or other Keras objects, as it is saved with an estimator.

    Args:
        what: is saved, for messages.
        thing: Keras objects, functions or names; or lists or dicts of them.

    Raises:
        SavedModelError: it can't be saved.
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
    """Put the names that Keras itself would write into a config, where they tell all; whether there were any."""
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
    """Refuse to load what was compiled with functions that no file holds.

    Raises:
        SavedModelError: the model was, in another process.
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
    """The config in a model's bytes; nothing where they are damaged, which loading them tells."""
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
    """The parts of a config that have a given name, each with it."""
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
    """The given names in a config, each with the layer that it is in."""
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
    """The name that Keras itself would write and find again; empty where it would find another thing, or nothing."""
    from spark_dl.train.model.identity import saved_name

    thing = objects.get(name)
    others = [other for other in objects.values() if other is not thing]
    return saved_name(thing, others)


def _is_known(name: str) -> bool:
    keras = sys.modules.get("keras")  # who hasn't imported it hasn't registered anything
    return keras is not None and name in keras.saving.get_custom_objects()
