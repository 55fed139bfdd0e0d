"""Features that are changed alike in training and scoring: Keras layers that become the front of the model itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.train.compiling import FRONT
from spark_dl.train.model_bytes import custom_objects, from_bytes, to_bytes
from spark_dl.train.model_shape import ModelInput, shape_of
from spark_dl.train.parts import inner_layers, is_seed

__all__ = ["with_transform"]


def with_transform(model: keras.Model, transform: Any, shapes: Mapping[str, tuple[int, ...]]) -> keras.Model:
    """A copy of the model that takes its features as they are before the transform.

    The inputs keep their names, outputs and layers theirs, and the compile options and the optimizer's state are kept.
    A model that has this very transform in front already, as a fitted one has, is given back as it is.

    Args:
        model: a functional or Sequential one. It isn't changed, nor are the layers.
        transform: one Keras layer, or a dict by the inputs' names; inputs without one stay as they are. What a layer
            takes has the shape and dtype of the model's input, or those of its own keras.Input.
        shapes: name of an input -> the shape of one row before the transform, where it is another.

    Raises:
        ModelError: the model isn't a graph of layers; or the transform doesn't give what the model takes.
        OptionError: the transform draws random numbers, or the model has another one.
    """
    shape = shape_of(model)
    layers = transform if isinstance(transform, dict) else {shape.inputs[0].name: transform}
    _refuse_random(layers)
    with keras.saving.custom_object_scope(custom_objects(model, list(inner_layers(transform)))):
        fronts = {
            one.name: _front(layers[one.name], one, shapes, FRONT if len(shape.inputs) == 1 else f"{FRONT}_{one.name}")
            for one in shape.inputs
            if one.name in layers
        }
        there = [layer for layer in model.layers if layer.name in {front.name for front in fronts.values()}]
        if there:
            _refuse_others(there, fronts.values())
            return model
        return _joined(from_bytes(to_bytes(model)), fronts)


def _refuse_random(layers: Mapping[str, Any]) -> None:
    drawing = [
        f"{inner.name} ({type(inner).__name__})"
        for inner in inner_layers(list(layers.values()))
        if any(map(is_seed, inner.variables))
    ]
    if drawing:
        raise OptionError(
            explain(
                "transformFn draws random numbers.",
                expected="layers that do the same in training and in scoring",
                received=", ".join(drawing),
                fix="Put them into augment.",
            )
        )


def _front(layer: Any, fed: ModelInput, shapes: Mapping[str, tuple[int, ...]], name: str) -> keras.Model:
    """The model of one input's transform."""
    own = copy.deepcopy(layer)
    own.trainable = False
    asked = getattr(own, "inputs", None) or []
    shape, dtype = (tuple(asked[0].shape[1:]), asked[0].dtype) if asked else (fed.shape, fed.dtype)
    start = keras.Input(shapes.get(fed.name, shape), dtype=dtype, name=fed.name)
    try:
        result = own(start)
    except Exception as error:
        raise ModelError(
            explain(
                f"transformFn can't be put in front of the model's input {fed.name!r}.",
                expected=f"a layer that takes {start.dtype} of the shape {tuple(start.shape[1:])}",
                received=f"{own.name}: {type(error).__name__}: {error}",
                fix="A Sequential that begins with keras.Input says what it takes; columnShapes the shape of a column.",
            )
        ) from error
    if not isinstance(result, keras.KerasTensor) or not _fits(result, fed):
        raise ModelError(
            explain(
                f"What transformFn gives doesn't fit the model's input {fed.name!r}.",
                expected=f"one tensor of {fed.dtype} and the shape {fed.shape} a row",
                received=f"{_told(result)}, from {_told(start)}",
                fix="Set columnShapes for the shape before the transform, or let it begin with keras.Input.",
            )
        )
    return keras.Model(start, result, name=name)


def _fits(given: Any, fed: ModelInput) -> bool:
    """Whether a tensor can be an input, where whole numbers may become fractions, but nothing else anything else."""
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


def _refuse_others(there: Iterable[Any], fronts: Iterable[keras.Model]) -> None:
    wanted = {front.name: front for front in fronts}
    for layer in there:
        front = wanted[layer.name]
        weights, others = front.get_weights(), layer.get_weights()
        same = front.get_config() == layer.get_config() and len(weights) == len(others)
        if not same or not all(np.array_equal(a, b) for a, b in zip(weights, others, strict=True)):
            raise OptionError(
                explain(
                    "The model has another transform in front already.",
                    expected="the one that it was fitted with, or none",
                    received=", ".join(inner.name for inner in front.layers[1:]),
                    fix="Unset transformFn, or train a model without a transform.",
                )
            )


def _joined(model: keras.Model, fronts: Mapping[str, keras.Model]) -> keras.Model:
    """The model with the fronts before its inputs; its layers are called anew, and are the same objects."""
    shape = shape_of(model)
    starts: dict[str, Any] = {}
    fed: dict[str, Any] = {}
    for one in shape.inputs:
        front = fronts.get(one.name)
        taken = front.inputs[0] if front else keras.KerasTensor((None, *one.shape), dtype=one.dtype)
        starts[one.name] = keras.Input(tuple(taken.shape[1:]), dtype=taken.dtype, name=one.name)
        fed[one.name] = front(starts[one.name]) if front else starts[one.name]
    kind = keras.Model if type(model) is keras.Sequential else type(model)
    caller = next(one for one in kind.__mro__ if "call" in vars(one))
    try:
        if issubclass(kind, keras.Sequential) or caller.__module__.partition(".")[0] != "keras":
            raise TypeError(f"{kind.__name__} is a class of its own")
        inputs, features = (_as_built(parts, model, shape.takes_dict) for parts in (starts, fed))
        joined = kind(inputs=inputs, outputs=model.call(features), name=model.name)
    except Exception as error:
        raise ModelError(
            explain(
                f"transformFn can't be put in front of the model {model.name!r}.",
                expected="a functional or Sequential model",
                received=f"{type(error).__name__}: {error}",
                fix="Call the layers of the transform in the model itself.",
            )
        ) from error
    if model.compiled:
        joined.compile_from_config(model.get_compile_config())
        joined.optimizer = model.optimizer  # with its state
    return from_bytes(to_bytes(joined))  # without the graph that the layers had before


def _as_built(parts: Mapping[str, Any], model: keras.Model, takes_dict: bool) -> Any:
    """Tensors by the inputs' names in the structure that the model was built on."""
    if takes_dict:
        return dict(parts)
    tensors = list(parts.values())
    single = isinstance(model, keras.Sequential) or not isinstance(model.input, (list, tuple))
    return tensors[0] if single else tensors
