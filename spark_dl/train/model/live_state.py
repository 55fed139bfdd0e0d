"""State of a model that Keras doesn't save, as a record beside Keras's files.

A `.keras` file holds the configs of layers and optimizer. It doesn't hold flags set on layers and variables (Sequential
loses its own), attributes missing from a config, exclusions from weight decay, loss scaling that Keras added itself,
the paths of variables, seeds that were drawn from, and values that a layer merges when it is saved (LoRA). `describe`
records them; the `restore_*` functions apply them to the model that Keras has loaded.

Layers are identified by their path from the model: by name within Keras's own models, by index elsewhere. A custom
layer whose config has no name gets a new name when it is loaded: it is identified by its class and its index among the
layers of that class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import (
    child_layers,
    compiled_optimizer,
    own_variables,
    seed_generators,
    set_path,
    set_trainable_flag,
)
from spark_dl.train.model.keras_settings import current_settings
from spark_dl.train.model.optimizer_state import describe_optimizers, restore_optimizers
from spark_dl.train.model.parts import is_keras
from spark_dl.train.model.plain_values import apply_attributes, config_or_empty, plain_attributes

__all__ = [
    "LiveState",
    "counterparts",
    "describe",
    "numbered",
    "restore_layers",
    "restore_optimizer",
    "restore_values",
    "walk",
]

# Version of the record's format.
_FORMAT = 1
# As in the files of models that were saved before.
_NOT_RECORDED = "not told"


@dataclass(frozen=True)
class LiveState:
    """State of a model that Keras doesn't save.

    Attributes:
        record: The record, as JSON.
        values: The values that Keras's file doesn't hold unchanged, by the number of the variable.
    """

    record: dict[str, Any]
    values: dict[int, np.ndarray]


@dataclass(frozen=True)
class LocatedLayer:
    """Layer of a model, or the model itself, with its path.

    Attributes:
        place: The path from the model.
        layer: The layer.
        variables: The variables that it holds itself, seeds last.
        first: The number of its first variable in the model.
    """

    place: tuple[Any, ...]
    layer: Any
    variables: tuple[Any, ...]
    first: int


def walk(model: Any) -> list[LocatedLayer]:
    """Return the model and all layers within it, each once, outer layers before inner ones."""
    found: list[LocatedLayer] = []
    seen: set[int] = set()
    count = 0
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), model)]
    while waiting:
        place, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        seeds = [generator.state for generator in seed_generators(layer)]
        variables = (*own_variables(layer), *seeds)
        found.append(LocatedLayer(place, layer, variables, count))
        count += len(variables)
        named = isinstance(layer, keras.Model) and is_keras(type(layer))
        children = child_layers(layer)
        keys = _keys(children) if named else range(len(children))
        waiting += [((*place, key), child) for key, child in reversed(list(zip(keys, children, strict=True)))]
    return found


def _keys(layers: Iterable[Any]) -> Iterator[str]:
    """Yield the keys of a Keras model's layers: their names, except for those that loading renames."""
    counts: Counter[str] = Counter()
    for layer in layers:
        kind = type(layer)
        if is_keras(kind) or "name" in config_or_empty(layer):
            yield layer.name
        else:
            yield f"/{kind.__name__}/{counts[kind.__name__]}"  # layer names contain no slash
            counts[kind.__name__] += 1


def describe(model: keras.Model) -> LiveState:
    """Record the state of a model that Keras doesn't save."""
    located = walk(model)
    settings = {**current_settings(), "dtype_policy": _policy(model.dtype_policy)}
    if settings["dtype_policy"] is None or model.dtype_policy.quantization_mode is not None:
        del settings["dtype_policy"]
    record = {
        "format": _FORMAT,
        "settings": settings,
        "layers": [_describe_layer(one) for one in located],
        "optimizers": _describe_optimizers(model, numbered(located)) if model.compiled else None,
    }
    return LiveState(record, {n: value for one in located for n, value in _merged_values(one)})


def numbered(located: Sequence[LocatedLayer]) -> dict[int, Any]:
    """Return the variables of all layers by their numbers."""
    return {one.first + index: variable for one in located for index, variable in enumerate(one.variables)}


def counterparts(model: keras.Model, copy: keras.Model) -> dict[int, Any]:
    """Return the variables of a model's copy by their numbers in the model."""
    there = {one.place: one for one in walk(copy)}
    return {
        one.first + index: variable
        for one in walk(model)
        if one.place in there and len(there[one.place].variables) == len(one.variables)
        for index, variable in enumerate(there[one.place].variables)
    }


def _describe_optimizers(model: keras.Model, variables: Mapping[int, Any]) -> list[dict[str, Any]] | None:
    return describe_optimizers(getattr(model, "optimizer", None), variables, compiled_optimizer(model))


def _describe_layer(one: LocatedLayer) -> dict[str, Any]:
    seeds = len(seed_generators(one.layer))
    own = one.variables[: len(one.variables) - seeds]
    return {
        "place": list(one.place),
        "class": type(one.layer).__name__,
        "trainable": bool(one.layer.trainable),
        "dtype_policy": _policy(one.layer.dtype_policy),
        "attributes": plain_attributes(one.layer),
        "variables": [
            {
                "path": variable.path,
                "trainable": bool(variable.trainable),
                "regularizer": _serialized(variable.regularizer),
                "constraint": _serialized(variable.constraint),
            }
            for variable in own
        ],
        "seeds": [_seed_state(generator) for generator in seed_generators(one.layer)],
    }


def _policy(policy: Any) -> Any:
    """Return a dtype policy as JSON; None for a map of several policies."""
    return None if isinstance(policy, keras.dtype_policies.DTypePolicyMap) else keras.dtype_policies.serialize(policy)


def _serialized(thing: Any) -> Any:
    """Return a regularizer or a constraint as JSON; `_NOT_RECORDED` for a lambda and for what Keras can't serialize."""
    if thing is None:
        return None
    try:
        is_lambda = getattr(thing, "__name__", "") == "<lambda>"
        return _NOT_RECORDED if is_lambda else keras.saving.serialize_keras_object(thing)
    except Exception:
        return _NOT_RECORDED


def _seed_state(generator: Any) -> list[int] | None:
    """Return the state of a generator whose seed the user has chosen.

    Returns:
        None for other generators, whose seeds follow from the option `seed`.
    """
    chosen = generator.get_config()["seed"] is not None
    return np.asarray(generator.state).tolist() if chosen else None


def _merged_values(one: LocatedLayer) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the variables of a layer that saves other values than theirs."""
    layer = one.layer
    if type(layer).save_own_variables is keras.layers.Layer.save_own_variables:
        return
    if is_keras(type(layer)) and not getattr(layer, "lora_enabled", False):
        return
    own = one.variables[: len(one.variables) - len(seed_generators(layer))]
    saved: dict[str, Any] = {}
    layer.save_own_variables(saved)
    values = [np.asarray(variable) for variable in own]
    if len(saved) == len(values) and all(
        np.array_equal(np.asarray(a), b) for a, b in zip(saved.values(), values, strict=True)
    ):
        return
    yield from enumerate(values, one.first)


def restore_layers(model: keras.Model, state: LiveState) -> None:
    """Apply the recorded state of layers and their variables to the loaded model.

    Entries that no longer match a layer, because its class has changed, are ignored.
    """
    matching = list(_matching(model, state))
    # Outer layers first: Keras passes the flag on to inner layers.
    for one, noted in matching:
        if one.layer.trainable != noted["trainable"]:
            one.layer.trainable = noted["trainable"]
        apply_attributes(one.layer, noted["attributes"])
        _restore_policy(one.layer, noted["dtype_policy"])
    for one, noted in matching:
        if one.layer.trainable != noted["trainable"]:
            set_trainable_flag(one.layer, noted["trainable"])  # shared, and another parent has changed its flag
        for variable, recorded in zip(one.variables, noted["variables"], strict=False):
            _restore_variable(variable, recorded)


def restore_values(model: keras.Model, state: LiveState) -> None:
    """Assign to variables and seeds of the loaded model the values that Keras's file doesn't hold."""
    numbers = _numbers(state.record["layers"])
    for one, noted in _matching(model, state):
        for index, variable in enumerate(one.variables):
            value = state.values.get(numbers[one.place] + index)
            if value is not None and tuple(value.shape) == tuple(variable.shape):
                variable.assign(value)
        for generator, drawn in zip(seed_generators(one.layer), noted["seeds"], strict=True):
            if drawn is not None:
                generator.state.assign(np.asarray(drawn, str(generator.state.dtype)))


def restore_optimizer(model: keras.Model, state: LiveState) -> bool:
    """Apply the recorded state of the optimizer.

    Returns:
        Whether the optimizer was replaced, so that its state must be loaded again.
    """
    noted = state.record["optimizers"]
    if not noted or not model.compiled or getattr(model, "optimizer", None) is None:
        return False
    numbers = _numbers(state.record["layers"])
    variables = {
        numbers[one.place] + index: variable
        for one, _ in _matching(model, state)
        for index, variable in enumerate(one.variables)
    }
    return restore_optimizers(model, noted, variables)


def _matching(model: keras.Model, state: LiveState) -> Iterator[tuple[LocatedLayer, Mapping[str, Any]]]:
    """Yield the layers that still match their recorded entry, with that entry."""
    located = {one.place: one for one in walk(model)}
    for noted in state.record["layers"]:
        one = located.get(tuple(noted["place"]))
        if one is None or type(one.layer).__name__ != noted["class"]:
            continue
        if len(seed_generators(one.layer)) == len(noted["seeds"]) and len(one.variables) == len(noted["seeds"]) + len(
            noted["variables"]
        ):
            yield one, noted


def _numbers(layers: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], int]:
    """Return the number of each recorded layer's first variable, by the layer's path."""
    found, count = {}, 0
    for noted in layers:
        found[tuple(noted["place"])] = count
        count += len(noted["variables"]) + len(noted["seeds"])
    return found


def _restore_policy(layer: Any, policy: Any) -> None:
    if policy is not None and layer.dtype_policy.quantization_mode is None and _policy(layer.dtype_policy) != policy:
        wanted = keras.dtype_policies.deserialize(policy)
        if wanted.quantization_mode is None:
            layer.dtype_policy = wanted


def _restore_variable(variable: Any, recorded: Mapping[str, Any]) -> None:
    variable.trainable = recorded["trainable"]
    # Optimizers select variables by path, which changes if Keras builds a model in another order.
    set_path(variable, recorded["path"])
    if recorded["regularizer"] not in (_NOT_RECORDED, _serialized(variable.regularizer)):
        variable.regularizer = keras.regularizers.get(recorded["regularizer"])
    if recorded["constraint"] not in (_NOT_RECORDED, _serialized(variable.constraint)):
        variable.constraint = keras.constraints.get(recorded["constraint"])
