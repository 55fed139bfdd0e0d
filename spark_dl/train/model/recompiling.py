"""Compile options applied to a copy of a model, also where its class has a `compile` of its own."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import keras

from spark_dl._compat.keras import LAYER_ATTRIBUTES
from spark_dl.errors import ModelError, explain

__all__ = [
    "compile_again",
    "compile_with",
    "compiles_itself",
    "refuse_lost_compile",
    "refuse_other_compile",
    "takes_loss",
]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def compiles_itself(kind: Any) -> bool:
    """Return whether a class of models has its own `compile`: Keras's `compile_from_config` does nothing then."""
    return kind.compile is not keras.Model.compile and kind.compile_from_config is keras.Model.compile_from_config


def compile_again(model: keras.Model, config: Any) -> None:
    """Compile a copy of a model.

    A class with a `compile` of its own gets what it has passed on to Keras's, which is in the config. The copy stays
    uncompiled if the class doesn't take that.

    Args:
        model: The copy.
        config: The model's compile config, as `keras.Model.get_compile_config` returns it.
    """
    if not compiles_itself(type(model)):
        model.compile_from_config(config)
        return
    model.compiled = False  # Keras says that it is
    if not _own_arguments(type(model)):
        given = keras.saving.deserialize_keras_object(config)
        with contextlib.suppress(Exception):  # the user's code
            model.compile(**{name: value for name, value in given.items() if _takes(type(model), name)})
            model.optimizer.build(model.trainable_variables)


def refuse_lost_compile(model: keras.Model) -> None:
    """Refuse a model whose class has a `compile` with arguments of its own that copies don't get.

    Raises:
        ModelError: It has, and no `compile_from_config`.
    """
    if compiles_itself(type(model)) and (own := _own_arguments(type(model))):
        raise _lost_compile(model, f"the arguments {', '.join(own)}")


def refuse_other_compile(model: keras.Model, copy: keras.Model) -> None:
    """Refuse a copy of a model that the `compile` of its class has compiled otherwise.

    Args:
        model: The model.
        copy: The same model after it was saved and loaded.

    Raises:
        ModelError: The copy isn't compiled, or holds other losses, optimizers, metrics or functions.
    """
    if not compiles_itself(type(model)) or not model.compiled:
        return
    there = vars(copy)
    own = {name: value for name, value in vars(model).items() if not hasattr(keras.Model, name)}
    names = own.keys() - (LAYER_ATTRIBUTES - {"optimizer"})
    held = {name: own[name] for name in sorted(names) if _may_be_compiled(own[name])}
    lost = [name for name, value in held.items() if copy.compiled and not _alike(value, there.get(name))]
    if lost or not copy.compiled:
        raise _lost_compile(model, f"{', '.join(lost) or 'a loss'} that Keras's compile doesn't get")


def takes_loss(model: keras.Model) -> bool:
    """Return whether the `compile` of a model's class takes a loss; one of its own may not."""
    return _takes(type(model), "loss")


def compile_with(model: keras.Model, options: Mapping[str, Any]) -> None:
    """Compile a model with arguments of Keras's `compile`.

    Args:
        model: The model.
        options: The arguments by name; those that are None are left out where a class doesn't take them.

    Raises:
        ModelError: Its class has a `compile` that doesn't take them.
    """
    kind = type(model)
    if kind.compile is not keras.Model.compile:
        options = {name: value for name, value in options.items() if value is not None or _takes(kind, name)}
        try:
            inspect.signature(model.compile).bind(**options)
        except TypeError as error:
            raise ModelError(
                explain(
                    f"The model {model.name!r} can't be compiled with {', '.join(options)}.",
                    expected="a compile that takes them as Keras's does, or a model that is compiled already",
                    received=f"{kind.__name__}.compile{inspect.signature(kind.compile)}: {error}",
                    fix="Compile the model, with super().compile() in its compile, and set none of these options.",
                )
            ) from error
    model.compile(**options)


def _lost_compile(model: keras.Model, lost: str) -> ModelError:
    return ModelError(
        explain(
            f"The model {model.name!r} has a custom compile, which can't be repeated for the copies that ranks train.",
            expected="a class with get_compile_config and compile_from_config, if its compile has arguments or sets "
            "attributes that Keras's compile doesn't",
            received=f"{type(model).__name__}.compile with {lost}, and Keras's compile_from_config",
            fix="Add get_compile_config, which returns the arguments of compile, and compile_from_config, which calls "
            "compile with them: docs/guides/models.md has both.",
        )
    )


def _takes(kind: Any, name: str) -> bool:
    parameters = inspect.signature(kind.compile).parameters
    return name in parameters or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())


def _own_arguments(kind: Any) -> list[str]:
    """Return the arguments of a class's `compile` that Keras's doesn't have."""
    known = inspect.signature(keras.Model.compile).parameters
    parameters = inspect.signature(kind.compile).parameters.values()
    return [one.name for one in parameters if one.kind in _NAMED and one.name not in known]


def _may_be_compiled(value: Any) -> bool:
    kinds = (keras.losses.Loss, keras.optimizers.Optimizer, keras.Metric)
    return isinstance(value, kinds) or inspect.isfunction(value)


def _alike(one: Any, other: Any) -> bool:
    if inspect.isfunction(one):
        return inspect.isfunction(other) and one.__qualname__ == other.__qualname__
    return type(one) is type(other) and _config(one) == _config(other)


def _config(thing: Any) -> Any:
    try:
        config = keras.saving.serialize_keras_object(thing)
        return {**config, "config": {**config["config"], "name": ""}}  # Keras numbers the names
    except Exception:  # Keras's containers of compiled losses and metrics have none
        return None
