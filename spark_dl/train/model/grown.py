"""The weights of a fitted model in one with more classes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spark_dl.errors import ModelError, explain
from spark_dl.train.model.recompiling import compile_again
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes
from spark_dl.train.model.shape import shape_of

__all__ = ["grown_model"]


def grown_model(model: keras.Model, fitted: keras.Model, copied: bool) -> keras.Model:
    """Return a model with the weights of a fitted one, which may have fewer classes.

    Weights are matched in the models' order. Those of equal shape are taken; where a size is the fitted model's number
    of classes and here the greater one, the fitted values are the first ones and the model's own follow: the units of
    the old classes are kept, and those of new classes start as the model has initialised them.

    Args:
        model: The model, with as many classes as it shall have.
        fitted: The fitted model.
        copied: Whether to return a changed copy; else the model itself is changed.

    Returns:
        The model, compiled as the fitted one is if it isn't compiled.

    Raises:
        ModelError: The model isn't built, a weight has another shape, or there are more or fewer weights.
    """
    old, new = (_classes(one) for one in (fitted, model))
    pairs = list(zip(fitted.weights, model.weights, strict=False))
    grown = {(a, b) for a, b in zip(old, new, strict=False) if 1 < a < b}  # one unit stands for two classes
    other = [(a, b) for a, b in pairs if not _grows(a, b, grown)]
    if other or len(fitted.weights) != len(model.weights):
        raise _misfit(fitted, model, other)
    if copied:
        objects = custom_objects(model)
        with keras.saving.custom_object_scope(objects):
            model = from_bytes(to_bytes(model))
    for given, variable in zip(fitted.weights, model.weights, strict=True):
        values = np.array(variable)
        values[tuple(map(slice, given.shape))] = np.asarray(given)
        variable.assign(values)
    if not model.compiled and fitted.compiled:
        compile_again(model, fitted.get_compile_config())
    return model


def _classes(model: Any) -> tuple[int, ...]:
    """Return the last sizes of the model's outputs: their numbers of classes."""
    return tuple(int(output.shape[-1] or 0) if output.shape else 0 for output in shape_of(model).outputs)


def _grows(given: Any, variable: Any, grown: set[tuple[int, int]]) -> bool:
    """Return whether a weight's shape is equal to a fitted one's but for numbers of classes that have grown.

    A kernel grows along its last axis, that of its units: new inputs would change the old classes' outputs.
    """
    old, new = tuple(given.shape), tuple(variable.shape)
    fixed = len(old) - 1 if "kernel" in variable.name else 0
    pairs = list(zip(old, new, strict=False))
    return len(old) == len(new) and all(a == b or (i >= fixed and (a, b) in grown) for i, (a, b) in enumerate(pairs))


def _misfit(fitted: keras.Model, model: keras.Model, other: list[tuple[Any, Any]]) -> ModelError:
    received = ", ".join(f"{b.path} {tuple(b.shape)} for {a.path} {tuple(a.shape)}" for a, b in other[:3])
    return ModelError(
        explain(
            "The model can't start from the weights of warmStart.",
            expected="the layers of the fitted model, of which only the output's may have more units, for more classes",
            received=received or f"{len(model.weights)} weights for {len(fitted.weights)}",
            fix="Build the model as the fitted one was, with the layers of its transformFn, or leave warmStart out.",
        )
    )
