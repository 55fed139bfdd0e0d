"""Custom objects as bytes for other processes: cloudpickle, with distinct names for the Keras objects in them."""

from __future__ import annotations

import copyreg
import functools
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from spark_dl._compat.keras_saving import is_saveable, load_object, save_object
from spark_dl._compat.tensorflow import has_created_variables, untraced_state
from spark_dl.errors import ModelError, explain
from spark_dl.train.model.identity import naming
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes

__all__ = ["keras_reducer"]

_TF_FUNCTION = type(tf.function(lambda: None))


def keras_reducer(owner: keras.Model | None = None) -> Callable[[Any], Any]:
    """Return a pickle reducer for Keras objects, which are loaded with the very functions that they hold.

    Args:
        owner: The user's model, of which a copy is trained.

    Returns:
        A function for `pickling.pickle_for_ranks`. It raises a ModelError for objects that hold weights of the owner,
        which training wouldn't update.
    """
    weights = {id(weight) for weight in owner.variables} if owner is not None else set()
    return functools.partial(_reduced, weights)


def _reduced(weights: set[int], obj: Any) -> Any:
    """Reduce an object; NotImplemented if pickle handles it itself."""
    if is_saveable(obj):
        if weights.intersection(map(id, getattr(obj, "variables", ()))):
            raise _owned(f"the {type(obj).__name__} {obj.name!r}")
        if isinstance(obj, keras.losses.Loss):  # its config may be incomplete
            return copyreg.__newobj__, (type(obj),), vars(obj)  # type: ignore[attr-defined]
        objects = custom_objects(obj)
        with keras.saving.custom_object_scope(objects):
            return _loaded, (_written(obj), objects, isinstance(obj, keras.Model))
    if isinstance(obj, keras.Variable) and id(obj) in weights:
        raise _owned(f"the variable {obj.path!r}")
    if isinstance(obj, _TF_FUNCTION):
        return copyreg.__newobj__, (type(obj),), _untraced(obj)  # type: ignore[attr-defined]
    return NotImplemented


def _untraced(function: Any) -> dict[str, Any]:
    """Return the state of a `tf.function` without its graphs: these can't be pickled, and each process traces its own.

    Raises:
        ModelError: Its first call has created variables, which another process would create again.
    """
    if has_created_variables(function):
        raise ModelError(
            explain(
                "A tf.function can't be carried with variables that it has made.",
                expected="functions of their arguments alone",
                received=f"the tf.function {getattr(function, '__name__', '')!r}",
                fix="Make the variables in the build of a layer.",
            )
        )
    return untraced_state(function)


def _written(obj: Any) -> bytes:
    if isinstance(obj, keras.Model):
        with warnings.catch_warnings():  # layers without weights, as in augment, need no building
            warnings.filterwarnings("ignore", message="You are saving a model that has not yet been built")
            return to_bytes(obj)
    with naming():
        return save_object(obj)


def _loaded(content: bytes, objects: dict[str, Any], is_model: bool) -> Any:
    """Load a Keras object from bytes that the driver has written."""
    if is_model:
        return from_bytes(content, objects)
    with keras.saving.custom_object_scope(objects):
        return load_object(content)


def _owned(what: str) -> ModelError:
    return ModelError(
        explain(
            "It uses weights of the model that is trained, where a copy of the model is trained.",
            expected="functions of their arguments alone",
            received=what,
            fix="Use the layers in the model: in its call, by add_loss, or in a train_step of its own.",
        )
    )
