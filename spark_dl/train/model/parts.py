"""Parts of Keras objects: elements of lists and dicts, inner layers, random seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers, is_seed

__all__ = ["inner_layers", "is_keras", "leaves", "seed_states", "shift_seeds"]


def leaves(thing: Any) -> Iterator[Any]:
    """Yield the elements of nested lists, tuples and dicts."""
    if isinstance(thing, (list, tuple, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from leaves(part)
    else:
        yield thing


def inner_layers(layers: Any) -> Iterator[Any]:
    """Yield one or several Keras layers and all layers within them."""
    for layer in leaves(layers):
        yield from all_layers(layer)


def is_keras(kind: Any) -> bool:
    """Return whether a class or a function is Keras's own."""
    return (getattr(kind, "__module__", None) or "").partition(".")[0] == "keras"


def seed_states(model: keras.Model) -> list[Any]:
    """Return the random number generator states of a model."""
    return [variable for variable in model.variables if is_seed(variable)]


def shift_seeds(variables: Iterable[Any], rank: int) -> None:
    """Add the rank to the random seeds among the variables, so that each rank draws different random numbers."""
    for variable in filter(is_seed, variables):
        shifted = np.asarray(variable).astype(np.uint64) + np.array([rank, 0], np.uint64)
        variable.assign((shifted % 2**32).astype(str(variable.dtype)))
