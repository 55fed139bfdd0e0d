"""What callbacks remember, such as the patience of EarlyStopping: kept in checkpoints, put back on a resume.

Kept is what training has changed since it began: numbers, arrays, and the two comparisons of Keras's own callbacks.
What a callback was given, what it sets up when training begins, and what else it holds (open files, other objects) is
its own. Nothing is pickled.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

__all__ = ["CallbackState"]

# What Keras sets on every callback itself.
_KERAS_OWN = ("_model", "model", "params", "validation_data")
_PLAIN = (bool, int, float, type(None))
# The values of `monitor_op`, with which goes the sign of `min_delta`.
_COMPARISONS = {"less": keras.ops.less, "greater": keras.ops.greater}
_VALUES = "values.json"


class CallbackState:
    """The state of a rank's callbacks.

    Args:
        callbacks: by their position in the user's list.
    """

    def __init__(self, callbacks: Mapping[int, keras.callbacks.Callback]) -> None:
        self._callbacks = callbacks
        self._at_first: dict[int, dict[str, Any]] = {position: {} for position in callbacks}

    def begin(self, content: bytes) -> None:
        """Training has begun, for the callbacks too: note how they are, then put back what they remembered.

        Args:
            content: what `content` gave, or nothing. Callbacks of another class, or elsewhere in the list, get nothing.
        """
        for position, callback in self._callbacks.items():
            self._at_first[position] = {name: _mark(value) for name, value in _kept(callback)}
        if not content:
            return
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records: dict[str, dict[str, Any]] = json.loads(archive.read(_VALUES))
            for position, callback in self._callbacks.items():
                record = records.get(str(position), {})
                if record.get("class") == type(callback).__qualname__:
                    for name, value in record["values"].items():
                        defined = getattr(type(callback), name, None)
                        if not callable(defined) and not isinstance(defined, property):
                            setattr(callback, name, _restored(archive, value))

    def content(self) -> bytes:
        """What has changed since training began; empty where nothing has."""
        records: dict[str, Any] = {}
        arrays: list[np.ndarray] = []
        for position, callback in self._callbacks.items():
            first = self._at_first[position]
            changed = {name: value for name, value in _kept(callback) if first.get(name) != _mark(value)}
            if changed:
                values = {name: _plain(value, arrays) for name, value in changed.items()}
                records[str(position)] = {"class": type(callback).__qualname__, "values": values}
        if not records:
            return b""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr(_VALUES, json.dumps(records))
            for index, array in enumerate(arrays):
                with archive.open(f"{index}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)  # type: ignore[no-untyped-call]
        return content.getvalue()


def _kept(callback: keras.callbacks.Callback) -> Iterator[tuple[str, Any]]:
    for name, value in vars(callback).items():
        if name not in _KERAS_OWN and _can_be_kept(value):
            yield name, value


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, np.generic):
        return type(value.item()) in _PLAIN
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    if isinstance(value, list):
        return all(map(_can_be_kept, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _can_be_kept(held) for key, held in value.items())
    return type(value) in _PLAIN or any(value is comparison for comparison in _COMPARISONS.values())


def _mark(value: Any) -> Any:
    """What tells whether a value has changed, also within itself."""
    arrays: list[np.ndarray] = []
    text = json.dumps(_plain(value, arrays))
    return text, [(str(array.dtype), array.shape, zlib.crc32(array.tobytes())) for array in arrays]


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """The value as JSON has it; arrays are put on the list, and named by their place there."""
    if isinstance(value, np.generic):
        return ["value", value.item()]
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return ["array", len(arrays) - 1]
    if isinstance(value, list):
        return ["list", [_plain(held, arrays) for held in value]]
    if isinstance(value, dict):
        return ["dict", {key: _plain(held, arrays) for key, held in value.items()}]
    if type(value) in _PLAIN:
        return ["value", value]
    return ["comparison", next(name for name, known in _COMPARISONS.items() if value is known)]


def _restored(archive: zipfile.ZipFile, value: Any) -> Any:
    kind, held = value
    if kind == "array":
        with archive.open(f"{int(held)}.npy") as entry:
            return np.lib.format.read_array(entry, allow_pickle=False)  # type: ignore[no-untyped-call]
    if kind == "list":
        return [_restored(archive, one) for one in held]
    if kind == "dict":
        return {key: _restored(archive, one) for key, one in held.items()}
    return _COMPARISONS[held] if kind == "comparison" else held
