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
from spark_dl.train.model.compiling import FRONT
from spark_dl.train.model.identity import naming
from spark_dl.train.model.parts import inner_layers, is_keras
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes
from spark_dl.train.model.shape import ModelInput, shape_of

__all__ = ["with_transform"]


def with_transform(model: keras.Model, transform: Any, shapes: Mapping[str, tuple[int, ...]]) -> keras.Model:
    """Copy the model with a transform in front, so that it takes the features as they are before the transform.

    Inputs, outputs and layers keep their names; the compile options and the optimizer's state are preserved. A model
    that already has this very transform in front, such as a fitted one, is returned unchanged.

    Args:
        model: A functional or Sequential model. Neither it nor its layers are changed.
        transform: One Keras layer, or a dict of layers by input name; other inputs are unchanged. A layer takes the
            shape and dtype of the model's input, or those of its own keras.Input.
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
            one.name: _front(layers[one.name], one, shapes.get(one.name), names[one.name])
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
                _refuse_misfit(fronts[one.name], one)
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
                received=f"{kind.__name__}, a class with a call of its own",
                fix="Call the layers of the transform in the model itself.",
            )
        )


def _front(layer: Any, fed: ModelInput, given: tuple[int, ...] | None, name: str) -> keras.Model:
    """Build the model of one input's transform.

    Args:
        layer: The user's layer.
        fed: The model's input.
        given: The shape of one row before the transform, or None.
        name: The name of the new model.
    """
    asked = getattr(layer, "inputs", None) or []
    shape, dtype = (tuple(asked[0].shape[1:]), asked[0].dtype) if asked else (fed.shape, fed.dtype)
    shape = shape if given is None else given
    try:
        with naming():  # Keras copies layers by saving and loading them
            own = copy.deepcopy(layer)
        own.trainable = False
        start = keras.Input(shape, dtype=dtype, name="before")
        front = keras.Model(start, own(start), name=name)
        _freeze(own)
        return from_bytes(to_bytes(front))
    except Exception as error:
        raise ModelError(
            explain(
                f"transformFn can't be put in front of the model's input {fed.name!r}.",
                expected=f"a layer that takes {dtype} of the shape {shape} a row and gives one tensor",
                received=f"{layer.name}: {type(error).__name__}: {error}",
                fix="A Sequential that begins with keras.Input says what it takes; columnShapes the shape of a column.",
            )
        ) from error


def _freeze(layer: Any) -> None:
    """Freeze a layer and all layers within it: the flag isn't passed on to layers created later."""
    for inner in all_layers(layer):
        inner.trainable = False
    for variable in layer.variables:
        variable.trainable = False


def _refuse_misfit(front: keras.Model, fed: ModelInput) -> None:
    if not isinstance(front.output, keras.KerasTensor) or not _fits(front.output, fed):
        raise ModelError(
            explain(
                f"What transformFn gives doesn't fit the model's input {fed.name!r}.",
                expected=f"one tensor of {fed.dtype} and the shape {fed.shape} a row",
                received=f"{_told(front.output)}, from {_told(front.inputs[0])}",
                fix="Set columnShapes for the shape before the transform, or let it begin with keras.Input.",
            )
        )


def _fits(given: Any, fed: ModelInput) -> bool:
    """Return whether a tensor can feed an input: integers may become floats, other dtypes must match."""
    kinds = [
        next((kind for kind in ("string", "float", "int") if kind in dtype), dtype)
        for dtype in (given.dtype, fed.dtype)
    ]
    sizes = tuple(given.shape[1:])
    return (
        (kinds[0] == kinds[1] or kinds == ["int", "float"])
        and len(sizes) == len(fed.shape)
        and all(None in (a, b) or a == b for a, b in zip(sizes, fed.shape, strict=True))
    )


def _told(tensor: Any) -> str:
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

    Both have been loaded from bytes, which normalizes their configs.
    """
    content = to_bytes(front)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        config = json.loads(archive.read("config.json"))["config"]
        assets = {name: archive.read(name) for name in sorted(archive.namelist()) if name.startswith("assets/")}
    return config, assets, [np.asarray(weights).tolist() for weights in front.get_weights()]


def _joined(model: keras.Model, fronts: Mapping[str, keras.Model], starts: Mapping[str, str]) -> keras.Model:
    """Build the model with transforms in front of its inputs; its layers are called again and are the same objects."""
    shape = shape_of(model)
    inputs: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for one in shape.inputs:
        front = fronts.get(one.name)
        taken = front.inputs[0] if front else keras.KerasTensor((None, *one.shape), dtype=one.dtype)
        inputs[one.name] = keras.Input(tuple(taken.shape[1:]), dtype=taken.dtype, name=starts[one.name])
        features[one.name] = front(inputs[one.name]) if front else inputs[one.name]
    kind = type(model)
    try:
        given, changed = (_as_built(parts, model, shape.takes_dict) for parts in (inputs, features))
        outputs = model.call(changed)
        if is_keras(kind):
            joined = keras.Model(given, outputs, name=model.name)
        else:
            with naming():
                config = model.get_config()
            own = {name: value for name, value in config.items() if name not in _OF_GRAPHS}
            joined = kind(inputs=given, outputs=outputs, name=model.name, **own)
    except Exception as error:
        raise ModelError(
            explain(
                f"transformFn can't be put in front of the model {model.name!r}.",
                expected="a model that can be built anew on what its layers give",
                received=f"{type(error).__name__}: {error}",
                fix="Call the layers of the transform in the model itself.",
            )
        ) from error
    if model.compiled:
        with naming():
            compiled = model.get_compile_config()
        joined.compile_from_config(compiled)
        joined.optimizer = model.optimizer  # with its state
    return from_bytes(to_bytes(joined))  # loaded again to drop the layers' previous graph


# Entries that Keras itself writes into the config of a functional model.
_OF_GRAPHS = ("name", "trainable", "dtype", "layers", "input_layers", "output_layers")


def _as_built(parts: Mapping[str, Any], model: keras.Model, takes_dict: bool) -> Any:
    """Arrange tensors by input name in the structure that the model was built on."""
    if takes_dict:
        return dict(parts)
    tensors = list(parts.values())
    single = isinstance(model, keras.Sequential) or not isinstance(model.input, (list, tuple))
    return tensors[0] if single else tensors
