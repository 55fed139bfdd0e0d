"""The values of a model's variables, taken over by another model of the same structure."""

from __future__ import annotations

import keras

from spark_dl.train.model.archive import record_structure
from spark_dl.train.model.live_state import describe
from spark_dl.train.model.optimizers import optimizer_variables

__all__ = ["take_values"]


def take_values(model: keras.Model, other: keras.Model) -> bool:
    """Assign the values of another model's variables and of its optimizers' variables to those of a model.

    Optimizers that aren't built yet are built. Metrics keep their states, which Keras resets in each epoch.

    Args:
        model: The model that takes the values.
        other: The model that has them.

    Returns:
        False, with nothing changed, if the variables differ in number or shape, or the models in more that isn't in
        their configs, such as attributes that training has changed.
    """
    pairs = []
    for one in (model, other):
        if not one.optimizer.built:
            one.optimizer.build(one.trainable_variables)
        pairs.append([*one.variables, *optimizer_variables(one)])
    mine, theirs = pairs
    if [tuple(variable.shape) for variable in mine] != [tuple(variable.shape) for variable in theirs]:
        return False
    if record_structure(describe(model).record) != record_structure(describe(other).record):
        return False
    for variable, value in zip(mine, theirs, strict=True):
        variable.assign(value)
    return True
