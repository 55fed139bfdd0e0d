"""State of callbacks, such as the patience of EarlyStopping: saved in checkpoints and restored on resume.

It consists of what has changed since training began: numbers, texts, arrays, collections of them, and the two
comparison functions of Keras's own callbacks. It leaves out constructor arguments, what a callback sets up when
training begins, and other objects such as open files. Nothing is pickled.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import CALLBACK_ATTRIBUTES

__all__ = ["CallbackState"]

_PLAIN = (bool, int, float, str, type(None))
_COLLECTIONS = {"list": list, "tuple": tuple, "set": set, "deque": deque}
# The values of `monitor_op`, which the sign of `min_delta` depends on.
_COMPARISONS = {"less": keras.ops.less, "greater": keras.ops.greater}
_VALUES = "values.json"


class CallbackState:
    """State of a rank's callbacks.

    Args:
        callbacks: The callbacks by their position in the user's list.
    """

    def __init__(self, callbacks: Mapping[int, keras.callbacks.Callback]) -> None:
        self._callbacks = callbacks
        self._at_first: dict[int, dict[str, Any]] = {position: {} for position in callbacks}

    def begin(self, content: bytes) -> None:
        """Record the callbacks' initial values, then restore their saved state; called after `on_train_begin`.

        Args:
            content: The return value of `content`, or empty. A callback whose class or position in the list has changed
                isn't restored.
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
        """Serialize the values that have changed since training began; empty if none has."""
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
        if name not in CALLBACK_ATTRIBUTES and _can_be_kept(value):
            yield name, value


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, np.generic):
        return type(value.item()) in _PLAIN
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    if type(value) in _COLLECTIONS.values():
        return all(map(_can_be_kept, value))
    if isinstance(value, dict):
        return all(type(key) in _PLAIN and _can_be_kept(held) for key, held in value.items())
    return type(value) in _PLAIN or any(value is comparison for comparison in _COMPARISONS.values())


def _mark(value: Any) -> Any:
    """Return a fingerprint of a value that changes with any part of it."""
    arrays: list[np.ndarray] = []
    text = json.dumps(_plain(value, arrays))
    return text, [(str(array.dtype), array.shape, zlib.crc32(array.tobytes())) for array in arrays]


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """Convert a value to JSON; arrays are appended to the list and represented by their index in it."""
    if isinstance(value, np.generic):
        return ["value", value.item()]
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return ["array", len(arrays) - 1]
    if type(value) in _COLLECTIONS.values():
        items = [_plain(held, arrays) for held in (sorted(value, key=repr) if isinstance(value, set) else value)]
        return ["deque", [value.maxlen, items]] if isinstance(value, deque) else [type(value).__name__, items]
    if isinstance(value, dict):
        return ["pairs", [[key, _plain(held, arrays)] for key, held in value.items()]]
    if type(value) in _PLAIN:
        return ["value", value]
    return ["comparison", next(name for name, known in _COMPARISONS.items() if value is known)]


def _restored(archive: zipfile.ZipFile, value: Any) -> Any:
    kind, held = value
    if kind == "array":
        with archive.open(f"{int(held)}.npy") as entry:
            return np.lib.format.read_array(entry, allow_pickle=False)  # type: ignore[no-untyped-call]
    if kind == "deque":
        return deque((_restored(archive, one) for one in held[1]), held[0])
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](_restored(archive, one) for one in held)
    if kind in ("pairs", "dict"):  # "dict" in checkpoints of version 0.2.0 and before
        return {key: _restored(archive, one) for key, one in (held if kind == "pairs" else held.items())}
    return _COMPARISONS[held] if kind == "comparison" else held
