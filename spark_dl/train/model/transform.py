"""Feature transforms that apply to training and scoring alike: Keras layers in front of the model's inputs."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers, is_seed, operation_of
from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.layers.with_assets import WithAssets, has_own_assets
from spark_dl.train.model.compiling import FRONT
from spark_dl.train.model.config_names import renumbered
from spark_dl.train.model.identity import naming
from spark_dl.train.model.parts import inner_layers, is_keras
from spark_dl.train.model.recompiling import compile_again
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes
from spark_dl.train.model.shape import ModelInput, shape_of

__all__ = ["JOINT", "with_joint_transform", "with_transform"]

# The name of the one input in front of several, unless a layer of the model has it.
JOINT = "features"


def with_transform(model: keras.Model, transform: Any, shapes: Mapping[str, tuple[int, ...]]) -> keras.Model:
    """Copy the model with a transform in front, so that it takes the features as they are before the transform.

    Inputs, outputs and layers keep their names; the compile options and the optimizer's state are preserved. A model
    that already has this very transform in front, such as a fitted one, is returned unchanged.

    Args:
        model: A functional or Sequential model. Neither it nor its layers are changed.
        transform: One Keras layer or function of keras.ops, or a dict of them by input name; other inputs are
            unchanged. It takes the shape and dtype of the model's input, or those of its own keras.Input.
        shapes: The shape of one row before the transform by the input's name, if it differs.

    Raises:
        ModelError: The model isn't a graph of layers, or the transform's output doesn't fit the model's input.
        OptionError: The transform draws random numbers or would be trained, or the model has a different one.
    """
    shape = shape_of(model)
    _refuse_graphless(model)
    layers = transform if isinstance(transform, dict) else {shape.inputs[0].name: transform}
    # The keys of a dict may be invalid as layer names.
    starts = {one.name: _start_name(tensor) for one, tensor in zip(shape.inputs, _taken(model), strict=True)}
    names = {name: FRONT if len(starts) == 1 else f"{FRONT}_{start}" for name, start in starts.items()}
    with keras.saving.custom_object_scope(custom_objects(model, transform)):
        fronts = {
            one.name: _front(layers[one.name], one.name, _taken_by(layers[one.name], one, shapes), names[one.name])
            for one in shape.inputs
            if one.name in layers
        }
        _refuse_random(fronts.values())
        there = [layer for layer in model.layers if layer.name in names.values()]
        if there:
            _refuse_others(there, fronts.values())
            return model
        for one in shape.inputs:
            if one.name in fronts:
                _refuse_misfit(fronts[one.name].output, fronts[one.name], one)
        joined = _joined(from_bytes(to_bytes(model)), fronts, starts)
    _refuse_trained(layer for layer in joined.layers if layer.name in names.values())
    return joined


def _taken(model: keras.Model) -> list[Any]:
    """Return the model's input tensors, in the order of its inputs."""
    return list(keras.tree.flatten(model.inputs if isinstance(model, keras.Sequential) else model.input))


def _start_name(tensor: Any) -> str:
    return str(operation_of(tensor).name)


def _refuse_graphless(model: keras.Model) -> None:
    kind = type(model)
    caller = next(one for one in kind.__mro__ if "call" in vars(one))
    graph = model.built and getattr(model, "inputs", None) and is_keras(caller)
    if not graph or (isinstance(model, keras.Sequential) and kind is not keras.Sequential):
        raise ModelError(
            explain(
                f"transformFn can't be put in front of the model {model.name!r}.",
                expected="a functional or Sequential model",
                received=f"{kind.__name__}, a class with a custom call",
                fix="Call the layers of the transform in the model itself.",
            )
        )


def with_joint_transform(model: keras.Model, transform: Any, shapes: Mapping[str, tuple[int, ...]]) -> keras.Model:
    """Copy the model with one transform in front of all of its inputs, such as a tokenizer with its padding mask.

    Args:
        model: A functional model with several inputs. Neither it nor its layers are changed.
        transform: A Keras layer or function of keras.ops that gives a dict of tensors by the model's inputs, or a list
            in their order. It takes texts, a string in each row, or what its own keras.Input says.
        shapes: The shape of one row before the transform, by JOINT; empty if it isn't set.

    Raises:
        ModelError: The model isn't a graph of layers, or the transform's tensors don't fit the model's inputs.
        OptionError: The transform draws random numbers or would be trained.
    """
    shape = shape_of(model)
    _refuse_graphless(model)
    taken = next(name for name in (JOINT, f"{JOINT}_in", f"{JOINT}_before") if name not in _layer_names(model))
    text = ModelInput(JOINT, (), "string")
    with keras.saving.custom_object_scope(custom_objects(model, transform)):
        front = _front(
            transform, ", ".join(one.name for one in shape.inputs), _taken_by(transform, text, shapes), FRONT
        )
        _refuse_random([front])
        given = _by_input(front.output, shape.inputs)
        if not given:
            raise ModelError(
                explain(
                    "The output of transformFn doesn't fit the model's inputs.",
                    expected=f"a dict of tensors with the keys {', '.join(one.name for one in shape.inputs)}",
                    received=_described(front.output),
                    fix="Return a dict by input name, or set inputCols and a dict of layers by input.",
                )
            )
        for one in shape.inputs:
            _refuse_misfit(given[one.name], front, one)
        copy = from_bytes(to_bytes(model))
        start = keras.Input(tuple(front.inputs[0].shape[1:]), dtype=front.inputs[0].dtype, name=taken)
        made = _by_input(front(start), shape.inputs)
        features = {
            one.name: made[one.name] if made[one.name].dtype == one.dtype else keras.ops.cast(made[one.name], one.dtype)
            for one in shape.inputs
        }
        joined = _rebuilt(copy, start, _as_built(features, copy, shape.takes_dict))
    _refuse_trained(layer for layer in joined.layers if layer.name == FRONT)
    return joined


def _layer_names(model: keras.Model) -> set[str]:
    return {layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)}


def _by_input(given: Any, inputs: Sequence[ModelInput]) -> dict[str, Any]:
    """Return a transform's tensors by the model's inputs, in their order; empty if they don't match."""
    names = [one.name for one in inputs]
    if isinstance(given, (list, tuple)) and len(given) == len(names):
        return dict(zip(names, given, strict=True))
    matches = isinstance(given, dict) and set(given) == set(names)
    return {name: given[name] for name in names} if matches else {}


def _taken_by(layer: Any, fed: ModelInput, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[Any, ...], str]:
    """Return shape and dtype of one row that a transform takes: those of its own keras.Input, or of what it feeds."""
    asked = getattr(layer, "inputs", None) or []
    shape, dtype = (tuple(asked[0].shape[1:]), str(asked[0].dtype)) if asked else (fed.shape, fed.dtype)
    return shapes.get(fed.name, shape), dtype


def _front(layer: Any, feeds: str, takes: tuple[tuple[Any, ...], str], name: str) -> keras.Model:
    """Build the model of a transform.

    Args:
        layer: The user's layer or function. A function becomes the operations that it calls.
        feeds: The name of the model's input, for messages.
        takes: The shape of one row before the transform, and its dtype.
        name: The name of the new model.
    """
    shape, dtype = takes
    try:
        start = keras.Input(shape, dtype=dtype, name="before")
        if isinstance(layer, keras.layers.Layer):
            with naming():  # Keras copies layers by saving and loading them
                own = copy.deepcopy(layer)
            if has_own_assets(own):
                own = WithAssets(own)
            own.trainable = False
            front = keras.Model(start, own(start), name=name)
            _freeze(own)
        else:
            front = keras.Model(start, layer(start), name=name)
            _freeze(front)
        return from_bytes(to_bytes(front))
    except Exception as error:
        shown = getattr(layer, "name", None) or getattr(layer, "__name__", repr(layer))
        raise ModelError(
            explain(
                f"transformFn can't be put in front of the model's input {feeds!r}.",
                expected=f"a layer, or a function of keras.ops, that takes {dtype} of the shape {shape} per row",
                received=f"{shown}: {type(error).__name__}: {error}",
                fix="A Sequential that begins with keras.Input says what it takes; columnShapes the shape of a column.",
            )
        ) from error


def _freeze(layer: Any) -> None:
    """Freeze a layer and all layers within it: the flag isn't passed on to layers created later."""
    for inner in all_layers(layer):
        inner.trainable = False
    for variable in layer.variables:
        variable.trainable = False


def _refuse_misfit(given: Any, front: keras.Model, fed: ModelInput) -> None:
    if not isinstance(given, keras.KerasTensor) or not _fits(given, fed):
        raise ModelError(
            explain(
                f"The output of transformFn doesn't fit the model's input {fed.name!r}.",
                expected=f"one tensor of {fed.dtype} and the shape {fed.shape} per row",
                received=f"{_described(given)}, from {_described(front.inputs[0])}",
                fix="Set columnShapes for the shape before the transform, or let it begin with keras.Input.",
            )
        )


def _fits(given: Any, fed: ModelInput) -> bool:
    """Return whether a tensor can feed an input: masks may become numbers, integers floats; others must match."""
    kinds = [
        next((kind for kind in ("string", "float", "int") if kind in dtype), dtype)
        for dtype in (given.dtype, fed.dtype)
    ]
    sizes = tuple(given.shape[1:])
    return (
        (kinds[0] == kinds[1] or tuple(kinds) in (("int", "float"), ("bool", "int"), ("bool", "float")))
        and len(sizes) == len(fed.shape)
        and all(None in (a, b) or a == b for a, b in zip(sizes, fed.shape, strict=True))
    )


def _described(tensor: Any) -> str:
    if isinstance(tensor, dict):
        return ", ".join(f"{name}: {_described(part)}" for name, part in tensor.items())
    return f"{tensor.dtype} {tuple(tensor.shape[1:])}" if hasattr(tensor, "shape") else repr(tensor)


def _refuse_random(fronts: Iterable[keras.Model]) -> None:
    drawing = [layer for layer in inner_layers(list(fronts)) if any(map(is_seed, layer.variables))]
    if drawing:
        raise OptionError(
            explain(
                "transformFn draws random numbers.",
                expected="layers that do the same in training and in scoring",
                received=_named(drawing),
                fix="Put them into augment.",
            )
        )


def _refuse_trained(fronts: Iterable[Any]) -> None:
    trained = [
        layer
        for layer in inner_layers(list(fronts))
        if layer.trainable and (layer.trainable_variables or isinstance(layer, keras.layers.BatchNormalization))
    ]
    if trained:
        raise OptionError(
            explain(
                "transformFn would be trained with the model.",
                expected="layers that Keras saves as frozen (a layer of your own passes `trainable` on to its parent)",
                received=_named(trained),
                fix="Make them a part of the model.",
            )
        )


def _named(layers: Sequence[Any]) -> str:
    """Return the names and classes of the innermost of these layers."""
    outer = {id(layer) for layer in layers if any(one is not layer and one in layers for one in all_layers(layer))}
    return ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in layers if id(layer) not in outer)


def _refuse_others(there: Iterable[Any], fronts: Iterable[keras.Model]) -> None:
    found, wanted = ({front.name: front for front in some} for some in (there, fronts))
    if found.keys() != wanted.keys() or any(_content(found[name]) != _content(wanted[name]) for name in found):
        raise OptionError(
            explain(
                "The model has another transform in front already.",
                expected="the one that it was fitted with, or none",
                received=", ".join(_named(front.layers[1:]) for front in wanted.values()),
                fix="Unset transformFn, or train a model without a transform.",
            )
        )


def _content(front: Any) -> tuple[Any, ...]:
    """Return everything that distinguishes two transforms: layers, weights and vocabularies.

    Both have been loaded from bytes, which normalizes their configs. Keras names operations by a counter.
    """
    content = to_bytes(front)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        config = renumbered(json.dumps(json.loads(archive.read("config.json"))["config"]))
        assets = {name: archive.read(name) for name in sorted(archive.namelist()) if name.startswith("assets/")}
    return config, assets, [np.asarray(weights).tolist() for weights in front.get_weights()]


def _joined(model: keras.Model, fronts: Mapping[str, keras.Model], starts: Mapping[str, str]) -> keras.Model:
    """Build the model with transforms in front of its inputs; its layers are called again and are the same objects."""
    shape = shape_of(model)
    inputs: dict[str, Any] = {}
    features: dict[str, Any] = {}
    # A class that builds its graph itself may have given its inputs new names in the copy.
    for one, (name, start) in zip(shape.inputs, starts.items(), strict=True):
        front = fronts.get(name)
        taken = front.inputs[0] if front else keras.KerasTensor((None, *one.shape), dtype=one.dtype)
        inputs[one.name] = keras.Input(tuple(taken.shape[1:]), dtype=taken.dtype, name=start)
        features[one.name] = front(inputs[one.name]) if front else inputs[one.name]
    given, changed = (_as_built(parts, model, shape.takes_dict) for parts in (inputs, features))
    return _rebuilt(model, given, changed)


def _rebuilt(model: keras.Model, given: Any, changed: Any) -> keras.Model:
    """Rebuild the model on other inputs.

    Args:
        model: A copy of the user's model; its layers are called again.
        given: The new inputs.
        changed: What is computed of them and feeds the model, in the structure that it was built on.
    """
    kind = type(model)
    try:
        outputs = model.call(changed)
        joined = keras.Model(given, outputs, name=model.name) if is_keras(kind) else _of_class(model, given, outputs)
    except Exception as error:
        raise ModelError(
            explain(
                f"transformFn can't be put in front of the model {model.name!r}.",
                expected="a model that can be rebuilt on what its layers give",
                received=f"{type(error).__name__}: {error}",
                fix="Call the layers of the transform in the model itself.",
            )
        ) from error
    if model.compiled:
        with naming():
            compiled = model.get_compile_config()
        compile_again(joined, compiled)
        joined.optimizer = model.optimizer  # with its state
    return from_bytes(to_bytes(joined))  # loaded again to drop the layers' previous graph


def _of_class(model: keras.Model, given: Any, outputs: Any) -> keras.Model:
    """Build a model of the user's class on a graph, or a functional one if the class can't and has no steps of its own.

    The tasks of keras-hub, for example, build their graph themselves.
    """
    kind = type(model)
    with naming():
        config = model.get_config()
    own = {name: value for name, value in config.items() if name not in _OF_GRAPHS}
    try:
        return kind(inputs=given, outputs=outputs, name=model.name, **own)
    except Exception:
        owners = [next(one for one in kind.__mro__ if step in vars(one)) for step in _STEPS]
        if not all(map(is_keras, owners)):
            raise
        return keras.Model(given, outputs, name=model.name)


# What a class that only builds its graph leaves to Keras.
_STEPS = ("call", "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")

# Entries that Keras itself writes into the config of a functional model.
_OF_GRAPHS = ("name", "trainable", "dtype", "layers", "input_layers", "output_layers")


def _as_built(parts: Mapping[str, Any], model: keras.Model, takes_dict: bool) -> Any:
    """Arrange tensors by input name in the structure that the model was built on."""
    if takes_dict:
        return dict(parts)
    tensors = list(parts.values())
    single = isinstance(model, keras.Sequential) or not isinstance(model.input, (list, tuple))
    return tensors[0] if single else tensors
