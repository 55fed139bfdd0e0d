"""What callbacks remember, such as the patience of EarlyStopping: kept in checkpoints, put back on a resume.

Plain values, arrays and Keras's own functions are kept, by attribute; what else a callback holds (open files, the
model, other objects) it makes anew when training begins. Nothing is pickled.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

__all__ = ["callback_state", "restore_callbacks"]

# What Keras sets on every callback itself.
_KERAS_OWN = ("_model", "model", "params", "validation_data")
_PLAIN = (bool, int, float, str, type(None))
_VALUES, _FUNCTIONS = "values.json", "functions.json"


def callback_state(callbacks: Mapping[int, keras.callbacks.Callback]) -> bytes:
    """The state of some callbacks, by their position in the user's list; empty where none has any."""
    values: dict[str, dict[str, Any]] = {}
    functions: dict[str, dict[str, list[str]]] = {}
    arrays: dict[str, np.ndarray] = {}
    for position, callback in callbacks.items():
        for name, value in vars(callback).items():
            if name in _KERAS_OWN:
                continue
            if _is_plain(value):
                values.setdefault(str(position), {})[name] = value
            elif isinstance(value, np.generic):
                values.setdefault(str(position), {})[name] = value.item()
            elif _is_keras_function(value):  # such as monitor_op, whose sign another attribute has taken over
                functions.setdefault(str(position), {})[name] = [value.__module__, value.__name__]
            elif _is_array(value):
                arrays[f"{position}/{name}"] = value
            elif isinstance(value, list) and all(map(_is_array, value)):  # such as best_weights
                arrays.update({f"{position}/{name}/{i:06d}": array for i, array in enumerate(value)})
    if not values and not functions and not arrays:
        return b""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(_VALUES, json.dumps(values))
        archive.writestr(_FUNCTIONS, json.dumps(functions))
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return content.getvalue()


def restore_callbacks(callbacks: Mapping[int, keras.callbacks.Callback], content: bytes) -> None:
    """Put the state back, after the callbacks' own `on_train_begin`.

    Args:
        callbacks: as they were given to `callback_state`; those that aren't here are passed over.
        content: what `callback_state` gave.
    """
    if not content:
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        state: dict[str, dict[str, Any]] = json.loads(archive.read(_VALUES))
        for position, named in json.loads(archive.read(_FUNCTIONS)).items():
            functions = {name: _keras_function(*where) for name, where in named.items()}
            state.setdefault(position, {}).update(functions)
        for entry in sorted(set(archive.namelist()) - {_VALUES, _FUNCTIONS}):
            with archive.open(entry) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
            position, name, *index = entry.removesuffix(".npy").split("/")
            known = state.setdefault(position, {})
            if index:
                known.setdefault(name, []).append(array)
            else:
                known[name] = array
    for at, callback in callbacks.items():
        vars(callback).update(state.get(str(at), {}))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(held) for key, held in value.items())
    return type(value) in _PLAIN


def _is_keras_function(value: Any) -> bool:
    module, name = str(getattr(value, "__module__", "")), getattr(value, "__name__", "")
    return module.startswith("keras.") and callable(value) and getattr(sys.modules.get(module), name, None) is value


def _keras_function(module: str, name: str) -> Any:
    if not module.startswith("keras."):
        raise ValueError(f"{module}.{name} isn't Keras's own.")
    return getattr(importlib.import_module(module), name)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype != object
