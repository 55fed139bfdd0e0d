"""Inputs and outputs of a Keras model, found without running it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from spark_dl._compat.keras import all_layers, operation_of, output_index, outputs_within
from spark_dl.errors import ModelError, explain, hint
from spark_dl.train.model.parts import is_keras
from spark_dl.train.model.serialization import to_bytes

__all__ = ["ModelInput", "ModelOutput", "ModelShape", "fixed_shapes", "shape_of", "up_to_layer"]

_FED_DTYPES = tuple(f"float{n}" for n in (16, 32, 64)) + tuple(f"{k}int{n}" for k in ("", "u") for n in (8, 16, 32, 64))
# Layers whose activation is their last operation.
_ACTIVATES = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Activation)


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: The key if the model takes a dict, else the name of its layer.
        shape: The shape of one row; sizes that the model leaves open are None.
        dtype: The NumPy name of the dtype that it is fed with, or "string".
    """

    name: str
    shape: tuple[Any, ...]
    dtype: str


@dataclass(frozen=True)
class ModelOutput:
    """One output of a model.

    Attributes:
        name: The key if the model returns a dict, else the name of its layer.
        shape: The shape of one row; sizes that the model leaves open are None.
        activation: The name of Keras's own activation that computes it; "" if that isn't certain.
    """

    name: str
    shape: tuple[Any, ...]
    activation: str


@dataclass(frozen=True)
class ModelShape:
    """Inputs and outputs of a model.

    Attributes:
        inputs: The inputs in the model's order; sorted by name if it takes a dict.
        outputs: The outputs in the model's order; sorted by name if it returns a dict.
        takes_dict: Whether the model was built on a dict of inputs.
        gives_dict: Whether the model was built on a dict of outputs.
    """

    inputs: tuple[ModelInput, ...]
    outputs: tuple[ModelOutput, ...]
    takes_dict: bool = False
    gives_dict: bool = False


def shape_of(model: Any) -> ModelShape:
    """Return the model's inputs and outputs.

    Raises:
        ModelError: The model isn't a built Keras model, its inputs or outputs are unknown, nested or have equal names,
            or an input has a dtype that columns can't feed.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(
            explain(
                "There is no Keras model to train.",
                expected="model=<a keras.Model>",
                received=f"{model!r} ({type(model).__name__})",
                fix="Set the param `model`.",
            )
        )
    inputs, outputs, takes_dict, gives_dict = _ports(model)
    for dtype in (given.dtype for given in inputs):
        if dtype not in (*_FED_DTYPES, "string"):
            raise ModelError(
                explain(
                    f"The model {model.name!r} can't be fed from columns.",
                    expected=f"inputs of dtype {', '.join(_FED_DTYPES)} or string",
                    received=f"dtype {dtype}",
                    fix="Give keras.Input another dtype.",
                )
            )
    for kind, names in (("inputs", [i.name for i in inputs]), ("outputs", [o.name for o in outputs])):
        if len(set(names)) < len(names):
            raise ModelError(
                explain(
                    f"The {kind} of the model {model.name!r} have the same name.",
                    expected="a name for each",
                    received=", ".join(names),
                    fix="Give their layers names, or build the model on dicts.",
                )
            )
    return ModelShape(tuple(inputs), tuple(outputs), takes_dict, gives_dict)


def fixed_shapes(model: keras.Model, shape: ModelShape, given: Mapping[str, tuple[int, ...]]) -> ModelShape:
    """Fill in the sizes that the model leaves open (None).

    Args:
        model: The model.
        shape: The shape of the model.
        given: The shape of one row by the input's name.

    Raises:
        ModelError: The model doesn't take one of the shapes, or a size is still open.
    """
    inputs = []
    for one in shape.inputs:
        chosen = given.get(one.name, one.shape)
        fits = len(chosen) == len(one.shape) and all(b in (None, a) for a, b in zip(chosen, one.shape, strict=True))
        if not fits or None in chosen:
            raise ModelError(
                explain(
                    f"The shape of the model's input {one.name!r} isn't fixed."
                    if fits
                    else f"The model's input {one.name!r} doesn't take the shape in columnShapes.",
                    expected=f"a shape like {one.shape} of one row, without None",
                    received=chosen,
                    fix="Set columnShapes={column: shape of one row}, or padding={column: value} for rows of varying "
                    "length, or give keras.Input a fixed shape.",
                )
            )
        inputs.append(replace(one, shape=chosen))
    if not any(None in one.shape for one in shape.outputs):
        return replace(shape, inputs=tuple(inputs))
    tensors = [keras.KerasTensor((None, *one.shape), dtype=one.dtype) for one in inputs]
    if shape.takes_dict:
        result = model.compute_output_spec({one.name: t for one, t in zip(inputs, tensors, strict=True)})
    else:
        result = model.compute_output_spec(tensors if len(tensors) > 1 else tensors[0])
    shapes = [tuple(tensor.shape[1:]) for tensor in keras.tree.flatten(result)]
    if any(None in found for found in shapes):
        raise ModelError(
            explain(
                "The shape of the model's output isn't fixed.",
                expected="a shape that follows from those of the inputs",
                received=shapes,
                fix="Give the inputs fixed shapes, or reduce the axis of unknown length in the model.",
            )
        )
    outputs = [replace(one, shape=found) for one, found in zip(shape.outputs, shapes, strict=True)]
    return replace(shape, inputs=tuple(inputs), outputs=tuple(outputs))


def _structures(model: keras.Model) -> tuple[Any, Any]:
    """Return the inputs and outputs in the structure that the model was built on."""
    # A Sequential doesn't expose its inner functional model.
    return (model.inputs, model.outputs) if isinstance(model, keras.Sequential) else (model.input, model.output)


def _ports(model: keras.Model) -> tuple[list[ModelInput], list[ModelOutput], bool, bool]:
    """Return inputs and outputs in Keras's order, that of the flattened structures, and whether these are dicts."""
    if not model.built or not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        return _called_ports(model)
    taken, given = _structures(model)
    inputs = [
        ModelInput(_key(path) or operation_of(tensor).name, tuple(tensor.shape[1:]), _fed_dtype(tensor))
        for path, tensor in _flat(taken, model)
    ]
    outputs = [
        ModelOutput(
            _key(path) or operation_of(tensor).name,
            tuple(tensor.shape[1:]),
            _activation(tensor) if _calls_its_graph(model) else "",
        )
        for path, tensor in _flat(given, model)
    ]
    return inputs, outputs, isinstance(taken, dict), isinstance(given, dict)


def _fed_dtype(tensor: keras.KerasTensor) -> str:
    """Return the dtype of the numbers that feed an input: Keras casts them to booleans for one of these."""
    return "int8" if tensor.dtype == "bool" else str(tensor.dtype)


def _called_ports(model: keras.Model) -> tuple[list[ModelInput], list[ModelOutput], bool, bool]:
    """Return inputs and outputs of a subclassed model that was built for one tensor or a dict of tensors.

    Raises:
        ModelError: The model isn't built, or was built for something else.
    """
    built = (model.get_build_config() or {}).get("input_shape") if model.built else None
    shapes: dict[str, Any] = built if isinstance(built, dict) else {"input": built}
    lacks_call = type(model).call is keras.Model.call
    if lacks_call or not all(map(_is_shape, shapes.values())) or (isinstance(built, dict) and len(built) < 2):
        raise _unknown_shapes(model, built, lacks_call)
    kind = model.input_dtype
    tensors = {name: keras.KerasTensor((None, *shape[1:]), dtype=kind) for name, shape in shapes.items()}
    result: Any = model.compute_output_spec(tensors if isinstance(built, dict) else tensors["input"])
    inputs = [ModelInput(name, tuple(tensor.shape[1:]), kind) for name, tensor in sorted(tensors.items())]
    outputs = [
        ModelOutput(_key(path) or f"output_{index}", tuple(tensor.shape[1:]), "")
        for index, (path, tensor) in enumerate(_flat(result, model))
    ]
    return inputs, outputs, isinstance(built, dict), isinstance(result, dict)


def _unknown_shapes(model: keras.Model, built: Any, lacks_call: bool) -> ModelError:
    """Return the error for a model whose inputs and outputs can't be found.

    Args:
        model: The model.
        built: The shapes that it was built for; None if it isn't built.
        lacks_call: Whether its class has no `call`.
    """
    received = f"an unbuilt {type(model).__name__}" if built is None else f"built for {built}"
    fix = (
        "Add keras.Input(shape=(...)) as the first layer, call model.build((None, ...)), or return a Sequential from "
        "modelFn, which builds it for columns of known width."
    )
    if lacks_call:
        received = f"{type(model).__name__}, a class without call"
        fix = "Add call to the class: what transform computes of a row, as decoder(encoder(x)). Call it once."
    elif built is not None:
        fix = "Let call take the tensor itself for one input, and a dict of tensors by name for several ones."
    return ModelError(
        explain(
            f"The model {model.name!r} isn't built: the shapes of its inputs and outputs aren't known.",
            expected="a model that begins with keras.Input(shape=...); or a subclass that was built, or called "
            "once, with one tensor or a dict of several tensors",
            received=received,
            fix=fix,
        )
    )


def _is_shape(thing: Any) -> bool:
    return isinstance(thing, (tuple, list)) and all(size is None or isinstance(size, int) for size in thing)


def _flat(structure: Any, model: keras.Model) -> list[tuple[tuple[Any, ...], Any]]:
    """Return tensors with their paths in a list or a dict.

    Raises:
        ModelError: Lists or dicts are nested.
    """
    found = keras.tree.flatten_with_path(structure)
    if any(len(path) > 1 for path, _ in found):
        raise ModelError(
            explain(
                f"The inputs or outputs of the model {model.name!r} are nested.",
                expected="one tensor, or a list or a dict of tensors",
                received=str([".".join(map(str, path)) for path, _ in found]),
                fix="Flatten them into one list or one dict.",
            )
        )
    return list(found)


def _key(path: tuple[Any, ...]) -> str:
    """Return a tensor's key in a dict; "" if it isn't in a dict."""
    return path[0] if path and isinstance(path[0], str) else ""


def _activation(tensor: Any) -> str:
    """Return the name of Keras's own activation that computes a tensor; "" if that isn't certain.

    Activations are compared by identity: a custom function or layer may have the same name.
    """
    operation = operation_of(tensor)
    if isinstance(operation, keras.Model):
        outputs = getattr(operation, "outputs", None)
        if not outputs or not _calls_its_graph(operation):
            return ""
        return _activation(outputs[output_index(tensor)])
    kind = type(operation)
    if is_keras(kind) and kind.__name__ in ("Softmax", "Sigmoid"):  # a layer or an operation of keras.ops
        last = getattr(operation, "axis", -1) in (-1, len(tensor.shape) - 1)
        return kind.__name__.lower() if last else ""
    activation = getattr(operation, "activation", None)
    # A "linear" activation is conclusive only for Dense and EinsumDense; other layers may pass anything on.
    ends = (keras.layers.Dense, keras.layers.EinsumDense) if activation is keras.activations.linear else _ACTIVATES
    return str(activation.__name__) if kind in ends and inspect.isfunction(activation) and is_keras(activation) else ""


def _calls_its_graph(model: keras.Model) -> bool:
    """Return whether calling the model runs the graph that it was built of, not a custom `call`."""
    return is_keras(type(model).call)


def up_to_layer(model: keras.Model, layer: str) -> tuple[bytes, tuple[int, ...]]:
    """Return the model that ends at a layer, as bytes, and the shape of one row of that layer's output.

    Args:
        model: The model.
        layer: The name of one of its layers, which may be a model.

    Raises:
        ModelError: The model isn't a graph of layers, the layer doesn't exist, or its output isn't one tensor of fixed
            shape.
    """
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None) or not _calls_its_graph(model):
        raise ModelError(
            explain(
                f"outputLayer={layer!r} can't be cut out of the model {model.name!r}.",
                expected="a functional or Sequential model",
                received=f"{type(model).__name__}, a class with a custom call",
                fix="Make that layer's output one of the model's outputs.",
            )
        )
    names = [one.name for one in model.layers]
    if layer not in names:
        around = [one.name for one in model.layers if layer in (inner.name for inner in all_layers(one, False))]
        raise ModelError(
            explain(
                f"The model has no layer {layer!r}, which outputLayer names.",
                expected="the name of one of its layers",
                received=layer,
                fix=f"It is within the layer {around[0]!r}, which can be named." if around else hint(layer, names),
            )
        )
    inputs, outputs = _structures(model)
    # A nested model's own `output` is that of its own graph, and a layer may be called several times.
    found = outputs_within(keras.Model(inputs, outputs), model.get_layer(layer))
    if len(found) != 1 or None in found[0].shape[1:]:
        raise ModelError(
            explain(
                f"The output of the layer {layer!r} can't be a column.",
                expected="one tensor of fixed shape, of a layer that the model calls once",
                received=", ".join(str(tuple(tensor.shape)) for tensor in found) or "none",
                fix="Name another layer, or add one that gives a tensor of fixed shape, such as Flatten.",
            )
        )
    (output,) = found
    return to_bytes(keras.Model(inputs, output)), tuple(output.shape[1:])
