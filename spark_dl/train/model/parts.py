"""What Keras objects hold: parts of lists and dicts, layers within layers, the seeds of random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

__all__ = ["inner_layers", "is_keras", "is_seed", "leaves", "seed_states", "shift_seeds"]


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


def is_keras(kind: Any) -> bool:
    """Whether a class or a function is Keras's own."""
    return (getattr(kind, "__module__", None) or "").partition(".")[0] == "keras"


def is_seed(variable: Any) -> bool:
    """Whether random numbers follow from a variable."""
    return "seed_generator_state" in variable.path


def seed_states(model: keras.Model) -> list[Any]:
    """The variables from which a model's random numbers follow."""
    return [variable for variable in model.variables if is_seed(variable)]


def shift_seeds(variables: Iterable[Any], rank: int) -> None:
    """Have each rank draw other random numbers: the seeds among the variables are moved on by its number."""
    for variable in filter(is_seed, variables):
        shifted = np.asarray(variable).astype(np.uint64) + np.array([rank, 0], np.uint64)
        variable.assign((shifted % 2**32).astype(str(variable.dtype)))
