"""Keras models as bytes (the `.keras` format), and what can be told of a model before it is used.

The user's model is never compiled, built or otherwise changed: it is saved, and a copy is loaded.
"""

from __future__ import annotations

import inspect
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from spark_dl.errors import ModelError, SavedModelError, explain

__all__ = [
    "LossFacts",
    "ModelShape",
    "compiled_copy",
    "custom_objects",
    "from_bytes",
    "leaves",
    "loss_facts",
    "seed_states",
    "shape_of",
    "to_bytes",
]


_FED_DTYPES = tuple(f"float{n}" for n in (16, 32, 64)) + tuple(f"{k}int{n}" for k in ("", "u") for n in (8, 16, 32, 64))


@dataclass(frozen=True)
class ModelShape:
    """One input and one output of a model; shapes are those of one row.

    Attributes:
        input_shape, input_dtype: of the input.
        output_shape: of the output.
        activation: name of the activation that the output comes from, "" where it can't be told.
    """

    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]
    activation: str


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
    """What Keras needs by name to load a model elsewhere: what is registered, and the user's own functions and classes.

    Args:
        model: its layers and what they hold, its optimizer and its loss are looked through.
        others: further Keras objects, functions, names, or lists of them, such as the metrics.
    """
    found = dict(keras.saving.get_custom_objects())
    # _flatten_layers, unlike `layers`, sees what wrappers such as Bidirectional hold.
    layers = list(model._flatten_layers())
    held = [value for layer in layers for value in vars(layer).values()]
    metrics = getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)
    compiled = [getattr(model, "optimizer", None), getattr(model, "loss", None), metrics]
    for thing in leaves([layers, held, compiled, others]):
        kind = thing if inspect.isfunction(thing) or inspect.isclass(thing) else type(thing)
        if (inspect.isfunction(thing) or hasattr(thing, "get_config")) and not _is_keras(kind):
            found.setdefault(kind.__name__, kind)
    return found


def leaves(thing: Any) -> Iterator[Any]:
    """What lists, tuples and dicts hold, at any depth."""
    if isinstance(thing, (list, tuple, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from leaves(part)
    else:
        yield thing


def seed_states(model: keras.Model) -> list[Any]:
    """The variables from which a model's random numbers follow."""
    return [variable for variable in model.variables if "seed_generator_state" in variable.path]


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
    """The model's input and output.

    Raises:
        ModelError: not a built Keras model with one input and one output of fixed shape.
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
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not model.built or not inputs or not outputs:
        raise ModelError(
            explain(
                f"The model {model.name!r} isn't built: the shapes of its input and output aren't known.",
                expected="a Sequential or functional model that begins with keras.Input(shape=...)",
                received=f"an unbuilt {type(model).__name__}",
                fix="Add keras.Input(shape=(...)) as the first layer.",
            )
        )
    shapes = [tuple(tensor.shape[1:]) for tensor in (*inputs, *outputs)]
    if len(inputs) != 1 or len(outputs) != 1 or any(size is None for shape in shapes for size in shape):
        raise ModelError(
            explain(
                f"The model {model.name!r} can't be fed from columns.",
                expected="one input and one output, each of a fixed shape",
                received=f"inputs {[tuple(t.shape) for t in inputs]}, outputs {[tuple(t.shape) for t in outputs]}",
                fix="Give the model one input of fixed shape; join several columns with inputCols.",
            )
        )
    dtype = str(inputs[0].dtype)
    if dtype not in (*_FED_DTYPES, "string"):
        raise ModelError(
            explain(
                f"The model {model.name!r} can't be fed from columns.",
                expected=f"an input of dtype {', '.join(_FED_DTYPES)} or string",
                received=f"dtype {dtype}",
                fix="Give keras.Input another dtype.",
            )
        )
    return ModelShape(shapes[0], dtype, shapes[1], _last_activation(model))


def _last_activation(model: keras.Model) -> str:
    operation = model.outputs[0]._keras_history.operation
    if isinstance(operation, keras.Model):
        return _last_activation(operation)
    name = type(operation).__name__.lower()
    if name in ("softmax", "sigmoid"):  # a layer, or an operation of keras.ops
        return name
    return str(getattr(getattr(operation, "activation", None), "__name__", ""))


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


def compiled_copy(model: keras.Model, optimizer: Any, loss: Any, metrics: list[Any] | None) -> keras.Model:
    """A copy of the model, compiled anew where an optimizer, a loss or metrics are given.

    What isn't given is taken from the model's own compile options. The given objects are copied, too.

    Raises:
        ModelError: there is no loss.
    """
    with keras.saving.custom_object_scope(custom_objects(model, optimizer, loss, metrics)):
        copy = from_bytes(to_bytes(model))
        if optimizer is None and loss is None and metrics is None and copy.compiled:
            return _built(copy)
        return _built(_recompiled(copy, optimizer, loss, metrics))


def _recompiled(copy: keras.Model, optimizer: Any, loss: Any, metrics: list[Any] | None) -> keras.Model:
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
    given = _copied(optimizer, keras.optimizers) if optimizer is not None else own_optimizer
    copy.compile(
        optimizer=given or "adam",
        loss=_copied(loss, keras.losses),
        metrics=[_copied(m, keras.metrics) for m in metrics] if metrics is not None else own.get("metrics"),
        weighted_metrics=own.get("weighted_metrics"),
        loss_weights=own.get("loss_weights"),
    )
    return copy


def _built(model: keras.Model) -> keras.Model:
    """The model with an optimizer that has its variables: Keras can't load a state that was not there to save."""
    model.optimizer.build(model.trainable_variables)
    return model


def _copied(thing: Any, module: Any) -> Any:
    """A Keras object of the same class and config; names and functions as they are."""
    if isinstance(thing, str) or not hasattr(thing, "get_config"):
        return thing
    return module.deserialize(module.serialize(thing))
