"""Optimizers of a model, and those of their variables that a `.keras` file leaves out."""

from __future__ import annotations

import io
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl._compat.keras import built_variables
from spark_dl.errors import SavedModelError, explain
from spark_dl.train.model.parts import leaves

__all__ = ["optimizer_variables", "optimizers_of", "restore_unsaved", "unsaved_state"]


def optimizers_of(model: keras.Model) -> list[Any]:
    """Return every optimizer of the model, `model.optimizer` first, each followed by those that it wraps."""
    found: dict[int, Any] = {}
    waiting = list(leaves([model.optimizer, *vars(model).values()]))
    while waiting:
        thing = waiting.pop(0)
        if isinstance(thing, keras.optimizers.Optimizer) and id(thing) not in found:
            found[id(thing)] = thing
            waiting = [*leaves(list(vars(thing).values())), *waiting]
    return list(found.values())


def optimizer_variables(model: keras.Model) -> list[Any]:
    """Return the variables of all optimizers, each once, including private ones such as Nadam's."""
    found: dict[int, Any] = {}
    for optimizer in optimizers_of(model):
        found |= {id(variable): variable for variable in _variables(optimizer, model)}
    return list(found.values())


def _variables(optimizer: Any, model: keras.Model) -> list[Any]:
    of_model = {id(variable) for variable in model.variables}
    kept = [value for _, value in sorted(vars(optimizer).items())]
    found = {
        id(value): value
        for value in leaves([optimizer.variables, kept])
        if isinstance(value, (keras.Variable, tf.Variable)) and id(value) not in of_model
    }
    return list(found.values())


def _unsaved(model: keras.Model) -> list[tuple[Any, list[Any]]]:
    """Return each optimizer with its variables that Keras doesn't save with the model."""
    taken = {id(variable) for variable in model.optimizer.variables}
    found = []
    for optimizer in optimizers_of(model):
        variables = [variable for variable in _variables(optimizer, model) if id(variable) not in taken]
        taken |= {id(variable) for variable in variables}
        found.append((optimizer, variables))
    return found


def unsaved_state(model: keras.Model) -> bytes:
    """Serialize the optimizer variables that a `.keras` file of the model leaves out; empty if there are none."""
    places = {id(variable): place for place, variable in enumerate(model.variables)}
    arrays: dict[str, np.ndarray] = {}
    for index, (optimizer, variables) in enumerate(_unsaved(model)):
        if variables and optimizer.built:
            arrays[f"{index}.of"] = np.array([places.get(id(v), -1) for v in built_variables(optimizer)], np.int64)
            arrays |= {f"{index}.{place}": _plain(variable) for place, variable in enumerate(variables)}
    if not arrays:
        return b""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _plain(variable: Any) -> np.ndarray:
    value = np.asarray(variable)
    # NumPy can't save bfloat16, whose values float32 represents exactly.
    return value.astype(np.float32) if value.dtype.kind == "V" else value


def restore_unsaved(model: keras.Model, content: bytes) -> None:
    """Restore the state from `unsaved_state` in the optimizers of a loaded model.

    Raises:
        SavedModelError: The optimizers' variables have other shapes.
    """
    if not content:
        return
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        every = model.variables
        optimizers = optimizers_of(model)
        for index in sorted({int(name.partition(".")[0]) for name in arrays.files}):
            places = arrays[f"{index}.of"].tolist()
            if index < len(optimizers) and not optimizers[index].built and max(places, default=0) < len(every):
                optimizers[index].build([every[place] for place in places])
        known = dict(enumerate(_unsaved(model)))
        for index in sorted({int(name.partition(".")[0]) for name in arrays.files}):
            _, variables = known.get(index, (None, []))
            values = [arrays[f"{index}.{place}"] for place in range(sum(n.startswith(f"{index}.") for n in arrays) - 1)]
            if [tuple(v.shape) for v in variables] != [v.shape for v in values]:
                raise SavedModelError(
                    explain(
                        "The optimizers' state in a checkpoint doesn't fit the model.",
                        expected=f"variables of the shapes {[tuple(v.shape) for v in variables]}",
                        received=[v.shape for v in values],
                        fix="Remove the unfinished fit from checkpointDir.",
                    )
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value.astype(np.asarray(variable).dtype))
