"""Keras models as bytes (the `.keras` format), and what can be told of a model before it is used.

The user's model is never compiled, built or otherwise changed: it is saved, and a copy is loaded.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from spark_dl.errors import ModelError, SavedModelError, explain, hint
from spark_dl.train.archive import refuse_hostile

__all__ = [
    "FRONT",
    "LossFacts",
    "ModelInput",
    "ModelOutput",
    "ModelShape",
    "by_output",
    "compiled_copy",
    "custom_objects",
    "fixed_shapes",
    "from_bytes",
    "inner_layers",
    "is_seed",
    "leaves",
    "loss_facts",
    "losses_of",
    "seed_states",
    "shape_of",
    "shift_seeds",
    "to_bytes",
    "up_to_layer",
]


# The name of the inner model that holds the transform of an input, followed by the input's where there are several.
FRONT = "transform_fn"

_FED_DTYPES = tuple(f"float{n}" for n in (16, 32, 64)) + tuple(f"{k}int{n}" for k in ("", "u") for n in (8, 16, 32, 64))


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: its key where the model takes a dict, else its layer's name.
        shape: of one row; None where the model leaves a size open.
        dtype: NumPy's name of it, or "string".
    """

    name: str
    shape: tuple[Any, ...]
    dtype: str


@dataclass(frozen=True)
class ModelOutput:
    """One output of a model.

    Attributes:
        name: its key where the model gives a dict, else its layer's name.
        shape: of one row; None where the model leaves a size open.
        activation: name of the activation that it comes from, "" where it can't be told.
    """

    name: str
    shape: tuple[Any, ...]
    activation: str


@dataclass(frozen=True)
class ModelShape:
    """A model's inputs and outputs.

    Attributes:
        inputs: in the model's order; that of the names, sorted, where it takes a dict.
        outputs: in the model's order; that of the names, sorted, where it gives a dict.
        takes_dict: whether the model was built on a dict of inputs.
        gives_dict: whether it was built on a dict of outputs.
    """

    inputs: tuple[ModelInput, ...]
    outputs: tuple[ModelOutput, ...]
    takes_dict: bool = False
    gives_dict: bool = False


@dataclass(frozen=True)
class LossFacts:
    """What the loss tells about labels and outputs.

    Attributes:
        name: in snake case, such as "sparse_categorical_crossentropy".
        from_logits: whether it takes logits.
        reduction: Keras's name of it.
        known: whether it is one of Keras's own, so that its name tells what it takes.
    """

    name: str
    from_logits: bool
    reduction: str
    known: bool = True


def custom_objects(model: keras.Model, *others: Any) -> dict[str, Any]:
    """What Keras needs by name to load a model elsewhere: the user's own functions and classes, registered or not.

    Of what is registered in this process only what the model's config names: the rest may come from modules that aren't
    where the model is loaded.

    Args:
        model: its layers and what they hold, its optimizer and its loss are looked through.
        others: further Keras objects, functions, names, or lists of them, such as the metrics.
    """
    config = str(keras.saving.serialize_keras_object(model))
    registered = keras.saving.get_custom_objects()
    found = {name: thing for name, thing in registered.items() if name in config}
    # _flatten_layers, unlike `layers`, sees what wrappers such as Bidirectional hold.
    layers = list(model._flatten_layers())
    # Keras itself sets functions on layers, such as a wrapped `build`, which hold the whole layer.
    keras_own = keras.layers.Layer
    held = [value for layer in layers for name, value in vars(layer).items() if not hasattr(keras_own, name)]
    metrics = getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)
    compiled = [getattr(model, "optimizer", None), getattr(model, "loss", None), metrics]
    for thing in leaves([layers, held, compiled, others]):
        kind = thing if inspect.isfunction(thing) or inspect.isclass(thing) else type(thing)
        if (inspect.isfunction(thing) or hasattr(thing, "get_config")) and not _is_keras(kind):
            found.setdefault(kind.__name__, kind)
            if not inspect.isfunction(kind):
                found.setdefault(keras.saving.get_registered_name(kind), kind)
    return found


def leaves(thing: Any) -> Iterator[Any]:
    """What lists, tuples and dicts hold, at any depth."""
    if isinstance(thing, (list, tuple, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from leaves(part)
    else:
        yield thing


def inner_layers(layers: Any) -> Iterator[Any]:
    """Keras layers, one or several, and all that they hold."""
    for layer in leaves(layers):
        yield from layer._flatten_layers()


def seed_states(model: keras.Model) -> list[Any]:
    """The variables from which a model's random numbers follow."""
    return [variable for variable in model.variables if is_seed(variable)]


def is_seed(variable: Any) -> bool:
    """Whether random numbers follow from a variable."""
    return "seed_generator_state" in variable.path


def shift_seeds(variables: Iterable[Any], rank: int) -> None:
    """Have each rank draw other random numbers: the seeds among the variables are moved on by its number."""
    for variable in filter(is_seed, variables):
        shifted = np.asarray(variable).astype(np.uint64) + np.array([rank, 0], np.uint64)
        variable.assign((shifted % 2**32).astype(str(variable.dtype)))


def _is_keras(kind: Any) -> bool:
    return (getattr(kind, "__module__", None) or "").partition(".")[0] == "keras"


def to_bytes(model: keras.Model) -> bytes:
    """The model with its weights, compile options and optimizer state."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        model.save(path)
        with open(path, "rb") as file:
            return file.read()


def from_bytes(content: bytes, custom_objects: Mapping[str, Any] | None = None, compiled: bool = True) -> keras.Model:
    """The inverse of `to_bytes`. Keras's safe mode stays on: nothing that is loaded executes.

    Raises:
        SavedModelError: the bytes aren't a model that Keras loads safely.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        with open(path, "wb") as file:
            file.write(content)
        try:
            refuse_hostile(content)
            with warnings.catch_warnings():
                # An optimizer that had not been built when it was saved: it begins anew.
                warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
                return keras.saving.load_model(path, custom_objects=custom_objects, compile=compiled, safe_mode=True)
        except Exception as error:
            raise SavedModelError(
                explain(
                    "Keras can't load the model.",
                    expected="a .keras archive without Lambda layers, whose custom objects are registered",
                    received=f"{len(content)} bytes; {type(error).__name__}: {error}",
                    fix="Import the module that registers the custom objects with "
                    "keras.saving.register_keras_serializable, or save the model anew.",
                )
            ) from error


def shape_of(model: Any) -> ModelShape:
    """The model's inputs and outputs.

    Raises:
        ModelError: not a built Keras model whose inputs and outputs are known, each by a name of its own.
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
                    f"The {kind} of the model {model.name!r} can't be told apart.",
                    expected="a name for each",
                    received=", ".join(names),
                    fix="Give their layers names, or build the model on dicts.",
                )
            )
    return ModelShape(tuple(inputs), tuple(outputs), takes_dict, gives_dict)


def fixed_shapes(model: keras.Model, shape: ModelShape, given: Mapping[str, tuple[int, ...]]) -> ModelShape:
    """The shapes with what the model leaves open (None) filled in.

    Args:
        model: whose they are.
        shape: of the model.
        given: name of an input -> the shape of one row.

    Raises:
        ModelError: a shape isn't one that the model takes, or something is left open.
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
                    fix="Set columnShapes={column: shape of one row}, or give keras.Input a fixed shape.",
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
            )
        )
    outputs = [replace(one, shape=found) for one, found in zip(shape.outputs, shapes, strict=True)]
    return replace(shape, inputs=tuple(inputs), outputs=tuple(outputs))


def _structures(model: keras.Model) -> tuple[Any, Any]:
    """The inputs and outputs as the model was built on them."""
    # A Sequential hides the functional model that it is.
    return (model.inputs, model.outputs) if isinstance(model, keras.Sequential) else (model.input, model.output)


def _ports(model: keras.Model) -> tuple[list[ModelInput], list[ModelOutput], bool, bool]:
    """The inputs and outputs in Keras's own order, that of the flattened structures; and whether these are dicts."""
    if not model.built or not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        return _called_ports(model)
    taken, given = _structures(model)
    inputs = [
        ModelInput(_key(path) or tensor._keras_history.operation.name, tuple(tensor.shape[1:]), str(tensor.dtype))
        for path, tensor in _flat(taken, model)
    ]
    outputs = [
        ModelOutput(
            _key(path) or tensor._keras_history.operation.name,
            tuple(tensor.shape[1:]),
            _activation(tensor._keras_history.operation, index),
        )
        for index, (path, tensor) in enumerate(_flat(given, model))
    ]
    return inputs, outputs, isinstance(taken, dict), isinstance(given, dict)


def _called_ports(model: keras.Model) -> tuple[list[ModelInput], list[ModelOutput], bool, bool]:
    """Those of a subclassed model that has been built for one tensor, or for a dict of tensors."""
    built = (model.get_build_config() or {}).get("input_shape") if model.built else None
    shapes: dict[str, Any] = built if isinstance(built, dict) else {"input": built}
    if not all(map(_is_shape, shapes.values())):
        raise ModelError(
            explain(
                f"The model {model.name!r} isn't built: the shapes of its inputs and outputs aren't known.",
                expected="a model that begins with keras.Input(shape=...); or a subclass that was built, or called "
                "once, with one tensor or a dict of tensors",
                received=f"an unbuilt {type(model).__name__}" if built is None else f"built for {built}",
                fix="Add keras.Input(shape=(...)) as the first layer, or call model.build((None, ...)).",
            )
        )
    kind = model.input_dtype
    tensors = {name: keras.KerasTensor((None, *shape[1:]), dtype=kind) for name, shape in shapes.items()}
    result: Any = model.compute_output_spec(tensors if isinstance(built, dict) else tensors["input"])
    inputs = [ModelInput(name, tuple(tensor.shape[1:]), kind) for name, tensor in sorted(tensors.items())]
    outputs = [
        ModelOutput(_key(path) or f"output_{index}", tuple(tensor.shape[1:]), "")
        for index, (path, tensor) in enumerate(_flat(result, model))
    ]
    return inputs, outputs, isinstance(built, dict), isinstance(result, dict)


def _is_shape(thing: Any) -> bool:
    return isinstance(thing, (tuple, list)) and all(size is None or isinstance(size, int) for size in thing)


def _flat(structure: Any, model: keras.Model) -> list[tuple[tuple[Any, ...], Any]]:
    """Tensors with their places in a list or a dict.

    Raises:
        ModelError: lists or dicts within others.
    """
    found = keras.tree.flatten_with_path(structure)
    if any(len(path) > 1 for path, _ in found):
        raise ModelError(
            explain(
                f"The inputs or outputs of the model {model.name!r} are nested.",
                expected="one tensor, or a list or a dict of tensors",
                received=str([".".join(map(str, path)) for path, _ in found]),
            )
        )
    return list(found)


def _key(path: tuple[Any, ...]) -> str:
    """A tensor's key in a dict; "" elsewhere."""
    return path[0] if path and isinstance(path[0], str) else ""


def _activation(operation: Any, index: int) -> str:
    if isinstance(operation, keras.Model):
        inner = operation.outputs
        return _activation(inner[index if len(inner) > 1 else 0]._keras_history.operation, index)
    name = type(operation).__name__.lower()
    if name in ("softmax", "sigmoid"):  # a layer, or an operation of keras.ops
        return name
    return str(getattr(getattr(operation, "activation", None), "__name__", ""))


def up_to_layer(model: keras.Model, layer: str) -> tuple[bytes, int]:
    """The model that gives a layer's output in place of its own, as bytes, and how many numbers that has a row.

    Raises:
        ModelError: there is no such layer, or its output has no fixed shape.
    """
    names = [one.name for one in model.layers]
    if layer not in names:
        raise ModelError(
            explain(
                f"The model has no layer {layer!r}, which outputLayer names.",
                expected="the name of one of its layers",
                received=layer,
                fix=hint(layer, names),
            )
        )
    output = model.get_layer(layer).output
    if not hasattr(output, "shape") or None in output.shape[1:]:
        raise ModelError(
            explain(
                f"The output of the layer {layer!r} can't be a column.",
                expected="one tensor of fixed shape",
                received=getattr(output, "shape", type(output).__name__),
            )
        )
    inputs, _ = _structures(model)
    return to_bytes(keras.Model(inputs, output)), math.prod(output.shape[1:])


def losses_of(loss: Any, shape: ModelShape) -> tuple[LossFacts, ...]:
    """What the losses of the model's outputs tell, in the outputs' order.

    Args:
        loss: one for all outputs, a list of one for each, or a dict by the outputs' names.
        shape: of the model.

    Raises:
        ModelError: an output has no loss, or it can't be used.
    """
    several = isinstance(loss, (list, tuple, dict))
    given = by_output("loss", loss if several else [loss] * len(shape.outputs), shape)
    return tuple(loss_facts(one) for one in given.values())


def by_output(what: str, given: Any, shape: ModelShape) -> dict[str, Any]:
    """What is given for each output, by its name, in the model's order.

    Args:
        what: is given, for messages.
        given: a list in the model's order, or a dict.
        shape: of the model.

    Raises:
        ModelError: an output without one, or one of no output; or a list for a model that gives a dict.
    """
    names = [output.name for output in shape.outputs]
    one_each = not isinstance(given, dict) and len({id(one) for one in given}) > 1
    found = dict(given) if isinstance(given, dict) else dict(zip(names, given, strict=False))
    if (
        set(found) != set(names)
        or len(given) != len(names)
        or None in found.values()
        or (one_each and shape.gives_dict)
    ):
        raise ModelError(
            explain(
                f"Each output of the model takes a {what}.",
                expected=f"one each for {', '.join(names)}" + (", as a dict by name" if shape.gives_dict else ""),
                received=repr(given),
            )
        )
    return {name: found[name] for name in names}


def loss_facts(loss: Any) -> LossFacts:
    """What a loss, or its name, tells.

    Raises:
        ModelError: it isn't one loss.
    """
    try:
        found = keras.losses.get(loss)
    except Exception as error:
        raise ModelError(
            explain("The loss can't be used.", expected="a Keras loss, or its name", received=f"{loss!r}: {error}")
        ) from error
    if not callable(found):
        raise ModelError(
            explain("The loss can't be used.", expected="one Keras loss, or its name", received=repr(loss))
        )
    kind = found if inspect.isfunction(found) else type(found)
    return LossFacts(
        name=re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower(),  # `found.name` is the user's to choose
        from_logits=bool(getattr(found, "from_logits", False)),
        reduction=str(getattr(found, "reduction", "sum_over_batch_size")),
        known=_is_keras(kind),
    )


def compiled_copy(
    model: keras.Model,
    optimizer: Any,
    loss: Any,
    metrics: Any,
    loss_weights: Any = None,
    dtype_policy: str | None = None,
) -> keras.Model:
    """A copy of the model, compiled anew where an optimizer, a loss, its weights or metrics are given.

    What isn't given is taken from the model's own compile options. The given objects are copied, too.

    Raises:
        ModelError: there is no loss.
    """
    with keras.saving.custom_object_scope(custom_objects(model, optimizer, loss, metrics)):
        copy = from_bytes(to_bytes(model))
        if dtype_policy:
            copy = _with_policy(copy, dtype_policy)
        elif all(given is None for given in (optimizer, loss, metrics, loss_weights)) and copy.compiled:
            return _built(copy)
        return _built(_recompiled(copy, optimizer, loss, metrics, loss_weights, dtype_policy == "mixed_float16"))


def _last_operations(model: keras.Model) -> Iterator[int]:
    """The ids of the layers that the outputs come from, within inner models, too."""
    for tensor in getattr(model, "outputs", None) or []:
        operation = tensor._keras_history.operation
        yield id(operation)
        if isinstance(operation, keras.Model):
            yield from _last_operations(operation)


def _with_policy(model: keras.Model, policy: str) -> keras.Model:
    """The model under another dtype policy; the layers that its outputs come from compute in float32.

    What is before training, the transform of the features, stays as it is.
    """
    last = set(_last_operations(model))
    before = {id(part) for layer in model.layers if layer.name.startswith(FRONT) for part in inner_layers(layer)}
    for layer in model._flatten_layers():
        if id(layer) not in before:
            layer.dtype_policy = "float32" if id(layer) in last else policy
    # Anew, since tensors between layers have dtypes of their own.
    return from_bytes(to_bytes(model))


def _recompiled(
    copy: keras.Model, optimizer: Any, loss: Any, metrics: Any, loss_weights: Any, scales: bool
) -> keras.Model:
    own = keras.saving.deserialize_keras_object(copy.get_compile_config() or {})
    loss = loss if loss is not None else getattr(copy, "loss", None) if copy.compiled else None
    if loss is None:
        raise ModelError(
            explain(
                f"The model {copy.name!r} has no loss.",
                expected="a compiled model, or the param `loss`",
                received="an uncompiled model and loss=None",
                fix="Compile the model, or set `loss`, for example loss='mse'.",
            )
        )
    own_optimizer = copy.optimizer if copy.compiled else None
    if loss_weights is not None:
        # Keras matches weights and losses as flat lists where their forms differ.
        shape = shape_of(copy)
        several = isinstance(loss, (list, tuple, dict))
        loss = by_output("loss", loss if several else [loss] * len(shape.outputs), shape)
        loss_weights = by_output("weight of its loss", loss_weights, shape)
    given = keras.optimizers.get(
        _copied(optimizer, keras.optimizers) if optimizer is not None else own_optimizer or "adam"
    )
    if scales and not isinstance(given, keras.optimizers.LossScaleOptimizer):
        # Keras does so by itself where it compiles, but forgets it where it loads.
        given = keras.optimizers.LossScaleOptimizer(given)
    copy.compile(
        optimizer=given,
        loss=_copied(loss, keras.losses),
        metrics=_copied(metrics, keras.metrics) if metrics is not None else own.get("metrics"),
        weighted_metrics=own.get("weighted_metrics"),
        loss_weights=loss_weights if loss_weights is not None else own.get("loss_weights"),
    )
    return copy


def _built(model: keras.Model) -> keras.Model:
    """The model with an optimizer that has its variables: Keras can't load a state that was not there to save."""
    model.optimizer.build(model.trainable_variables)
    return model


def _copied(thing: Any, module: Any) -> Any:
    """A Keras object of the same class and config, or several; names and functions as they are."""
    if isinstance(thing, dict):
        return {name: _copied(part, module) for name, part in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_copied(part, module) for part in thing]
    if isinstance(thing, str) or not hasattr(thing, "get_config"):
        return thing
    return module.deserialize(module.serialize(thing))
