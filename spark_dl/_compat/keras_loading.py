"""Keras internals: loading a large model without copies of its weights. Checked with Keras 3.10, 3.12, 3.14 and 3.15.

Each docstring names the symbol behind the function. `tests/unit/test_compat_keras.py` has a test for each.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras.src import backend
from keras.src.initializers import random_initializers
from keras.src.saving import saving_lib

from spark_dl._compat.keras_saving import PATCHING, patched

__all__ = ["loading_without_copies", "weights_in_files"]

# TensorFlow uses the memory of a NumPy array at this alignment as a tensor's, and copies any other array.
_ALIGNMENT = 64
_FLOATS = ("float16", "float32", "float64")
# Packages whose layers don't read the initial values of their weights.
_PACKAGES = ("keras", "keras_hub")


@contextlib.contextmanager
def loading_without_copies(least_bytes: int) -> Iterator[None]:
    """Load models with little more memory than their weights within the block, in this thread only.

    Behind it are `H5IOStore.__getitem__`, which reads a variable's value, `Layer.add_weight`, and the backend's
    `Variable._initialize_with_initializer`, `_convert_to_tensor` and `_direct_assign`. Random initial values of the
    layers of Keras and keras-hub are computed only for variables that no value was loaded for: TensorFlow's allocator
    for CPUs keeps the memory that their computation took, three times the variable's. Other layers may compute with
    them when they are built.

    Args:
        least_bytes: The size from which on a variable is initialised and read without copies.
    """
    with PATCHING, weights_in_files(), contextlib.ExitStack() as patches:
        loading = _Loading(least_bytes)
        for owner, name, value in loading.patches():
            patches.enter_context(patched(owner, name, value))
        yield
        loading.initialize_rest()


@contextlib.contextmanager
def weights_in_files() -> Iterator[None]:
    """Save and load models within the block, in this thread only, with a file for all weights instead of memory.

    Behind it is `saving_lib.is_memory_sufficient`, by which Keras decides. The file is beside the model's own.
    """
    thread, in_memory = threading.get_ident(), saving_lib.is_memory_sufficient

    def is_memory_sufficient(model: Any) -> bool:
        return threading.get_ident() != thread and bool(in_memory(model))

    with PATCHING, patched(saving_lib, "is_memory_sufficient", is_memory_sufficient):
        yield


class _Loading:
    """Keras's functions of a load, and the variables and values that it has met."""

    def __init__(self, least_bytes: int) -> None:
        self._least = least_bytes
        self._thread = threading.get_ident()
        self._known_layer = False  # whether a layer of these packages is adding a weight
        self._pending: dict[int, tuple[Any, Callable[..., Any]]] = {}
        self._read: dict[int, weakref.ref[np.ndarray]] = {}  # by id; a part or a transposed view isn't in it

    def patches(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """Return owner, name and replacement of each function."""
        kind, store = backend.Variable, saving_lib.H5IOStore
        read = store.__getitem__
        initialize, assign, convert = kind._initialize_with_initializer, kind._direct_assign, kind._convert_to_tensor
        add = keras.layers.Layer.add_weight

        def read_aligned(store: Any, key: str) -> Any:
            found = self._is_here() and self._aligned(_data_set(store._h5_entry_group, key))
            return read(store, key) if found is False or found is None else found

        def add_weight(layer: Any, *options: Any, **named: Any) -> Any:
            if not self._is_here():
                return add(layer, *options, **named)
            self._known_layer = type(layer).__module__.partition(".")[0] in _PACKAGES
            try:
                return add(layer, *options, **named)
            finally:
                self._known_layer = False

        def initialize_later(variable: Any, initializer: Any) -> None:
            if self._is_here() and self._is_deferrable(initializer, variable._shape, variable._dtype):
                self._pending[id(variable)] = (variable, initializer)
                variable._initialize(_tensor_of(_aligned_zeros(variable._shape, variable._dtype)))
            else:
                initialize(variable, initializer)

        def convert_in_place(variable: Any, value: Any, dtype: Any = None) -> Any:
            reference = self._read.pop(id(value), None) if self._is_here() else None
            array = None if reference is None else reference()
            in_place = array is not None and array is value and array.dtype == dtype
            return _tensor_of(value) if in_place else convert(variable, value, dtype)

        def assigned(variable: Any, value: Any) -> Any:
            self._pending.pop(id(variable), None)
            return assign(variable, value)

        return [
            (store, "__getitem__", read_aligned),
            (keras.layers.Layer, "add_weight", add_weight),
            (kind, "_initialize_with_initializer", initialize_later),
            (kind, "_convert_to_tensor", convert_in_place),
            (kind, "_direct_assign", assigned),
        ]

    def initialize_rest(self) -> None:
        """Compute the initial values of the variables that no value was loaded for."""
        for variable, initializer in list(self._pending.values()):
            # A layer may also have loaded a value into TensorFlow's variable, which Keras's doesn't notice.
            if not np.asarray(variable._value.read_value()).any():
                variable.assign(initializer(variable._shape, dtype=variable._dtype))

    def _is_here(self) -> bool:
        return threading.get_ident() == self._thread

    def _aligned(self, data: Any) -> np.ndarray | None:
        """Read a large data set of numbers into aligned memory; None for others, such as bfloat16."""
        if data is None or data.nbytes < self._least or data.dtype.kind not in "fiu" or "dtype" in data.attrs:
            return None
        value = _aligned_zeros(data.shape, data.dtype)
        data.read_direct(value)
        self._read[id(value)] = weakref.ref(value)
        return value

    def _is_deferrable(self, initializer: Any, shape: Any, dtype: str) -> bool:
        """Return whether a variable is large, and its initial value a random one that its layer doesn't read."""
        random = isinstance(initializer, random_initializers.RandomInitializer) and dtype in _FLOATS
        return self._known_layer and random and math.prod(shape) * np.dtype(dtype).itemsize >= self._least


def _data_set(group: Any, key: str) -> Any:
    """Return what the file has by this name, or None for Keras to read it (`saving_lib.safe_get_h5_dataset`).

    Keras before 3.14.1 lacks that function: what its own read may refuse, such as data outside the file, is left to it.
    """
    if hasattr(saving_lib, "safe_get_h5_dataset"):
        return saving_lib.safe_get_h5_dataset(group, key)
    found = group.get(key)
    return found if isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual else None


def _tensor_of(array: np.ndarray) -> tf.Tensor:
    """Return a tensor with the memory of an aligned array, which `tf.constant` would copy."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _aligned_zeros(shape: Any, dtype: Any) -> np.ndarray:
    """Allocate zeros at TensorFlow's alignment; large ones take no memory before they are written."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    place = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -place.ctypes.data % _ALIGNMENT
    aligned: np.ndarray = place[start : start + size].view(dtype).reshape(shape)
    return aligned
