"""Check that the model copy that ranks load equals the user's model; the error names what Keras doesn't save."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl._compat.keras import is_seed
from spark_dl.errors import ModelError, explain
from spark_dl.train.model.live_state import describe, walk
from spark_dl.train.model.parts import is_keras, leaves

__all__ = ["refuse_forgotten"]

_SHOWN = 5
# These depend on how far the model has been trained and are restored elsewhere.
_USE = ("built_for", "iterations", "config")


def refuse_forgotten(model: keras.Model, copy: keras.Model) -> None:
    """Raise an error if Keras doesn't save all of a model.

    Args:
        model: The user's model.
        copy: The same model after it was saved and loaded.

    Raises:
        ModelError: The copy differs from the model.
    """
    differences = list(_differences(model, copy))
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ModelError(
            explain(
                f"The model {model.name!r} isn't the same after Keras has saved and loaded it, as the workers get it.",
                expected="layers that create and save all of their state: arguments in get_config, variables in build",
                received="; ".join(differences[:_SHOWN]) + more,
                fix="Compare the model with keras.saving.load_model's, and fix the layer's get_config and build.",
            )
        )


def _differences(model: keras.Model, copy: keras.Model) -> Iterator[str]:
    live, loaded = (json.loads(json.dumps(describe(one).record)) for one in (model, copy))
    there = {tuple(noted["place"]): noted for noted in loaded["layers"]}
    # A renamed layer is no difference if all weights are equal.
    alike = _contents(model) == _contents(copy)
    for one, noted in zip(walk(model), live["layers"], strict=True):
        where = f"{one.layer.name} ({type(one.layer).__name__})"
        other = there.get(tuple(noted["place"]))
        if other is not None:
            yield from (f"{text} of {where}" for text in _of_layer(noted, other))
        elif noted["variables"] and not alike:
            yield f"the layer {where} isn't there"
    same = [noted["place"] for noted in live["layers"]] == [noted["place"] for noted in loaded["layers"]]
    if same:
        for one, two in zip(walk(model), walk(copy), strict=True):
            where = f"{one.layer.name} ({type(one.layer).__name__})"
            yield from (f"{text} of {where}" for text in _of_values(one.variables, two.variables))
            yield from (f"the attribute {name!r} of {where}" for name in _of_objects(one.layer, two.layer))
    if model.compiled and copy.compiled:
        yield from _of_optimizers(live["optimizers"] or [], loaded["optimizers"] or [])


def _of_layer(live: Mapping[str, Any], loaded: Mapping[str, Any]) -> Iterator[str]:
    for name in ("class", "trainable", "dtype_policy"):
        if live[name] != loaded[name]:
            yield f"{name} {loaded[name]} in place of {live[name]}"
    yield from _of_attributes(live, loaded)
    if not live["variables"]:  # variables that it creates when called may exist in the copy already
        return
    if len(live["variables"]) != len(loaded["variables"]):
        yield f"{len(loaded['variables'])} variables in place of {len(live['variables'])}"
        return
    for ours, theirs in zip(live["variables"], loaded["variables"], strict=True):
        for name in ("trainable", "regularizer", "constraint"):
            if ours[name] != theirs[name]:
                yield f"another {name} of the variable {ours['path']}"


def _of_attributes(live: Mapping[str, Any], loaded: Mapping[str, Any]) -> Iterator[str]:
    for name, value in live["attributes"].items():
        # Compared as text, since NaN isn't equal to itself.
        if json.dumps(loaded["attributes"].get(name, value)) != json.dumps(value):
            yield f"{name}={loaded['attributes'][name]!r} in place of {value!r}"


def _of_values(live: Sequence[Any], loaded: Sequence[Any]) -> Iterator[str]:
    for ours, theirs in zip(live, loaded, strict=False):
        if not is_seed(ours) and not _same_bits(np.asarray(ours), np.asarray(theirs)):
            yield f"other values of the variable {ours.path}"


def _contents(model: Any) -> Counter[tuple[Any, ...]]:
    """Return a multiset of the model's weights by shape, dtype, trainability and digest."""
    found: Counter[tuple[Any, ...]] = Counter()
    for variable in model.weights:
        value = np.asarray(variable)
        content = repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        digest = hashlib.sha256(content).digest()
        found[value.shape, str(value.dtype), bool(variable.trainable), digest] += 1
    return found


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.hasobject:
        return bool(np.array_equal(one, other))
    ours, theirs = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return one is other or bool(np.array_equal(ours, theirs))


def _of_objects(live: Any, loaded: Any) -> Iterator[str]:
    """Yield the attributes of a custom class that hold different arrays, tensors or functions."""
    if is_keras(type(live)):
        return
    for name, value in vars(live).items():
        other = vars(loaded).get(name)
        if hasattr(keras.layers.Layer, name):
            continue
        # A tensor that the copy doesn't have is one that a call has left, such as attention scores.
        if any(not _same_bits(*pair) for pair in zip(_constants(value), _constants(other), strict=False)):
            yield name
        elif isinstance(value, np.ndarray):
            if not isinstance(other, np.ndarray):
                yield name
        elif inspect.isfunction(value) and (not inspect.isfunction(other) or value.__qualname__ != other.__qualname__):
            yield name


def _constants(held: Any) -> Iterator[np.ndarray]:
    """Yield the values of arrays and tensors that an attribute holds, alone or in lists and dicts."""
    for one in leaves(held):
        if isinstance(one, np.ndarray) or (isinstance(one, tf.Tensor) and hasattr(one, "numpy")):
            yield np.asarray(one)


def _of_optimizers(live: Sequence[Mapping[str, Any]], loaded: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if [noted["class"] for noted in live] != [noted["class"] for noted in loaded]:
        yield f"the optimizer {loaded[0]['class'] if loaded else None}"
        return
    for ours, theirs in zip(live, loaded, strict=True):
        where = f"of the optimizer {ours['class']}"
        yield from (f"{text} {where}" for text in _of_attributes(ours, theirs))
        for name in ours.keys() - {"class", "attributes", *_USE}:
            if ours[name] != theirs[name]:
                yield f"{name} {where}"
