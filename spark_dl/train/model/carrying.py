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


def keras_reducer(*owners: Any, seen: list[Any] | None = None) -> Callable[[Any], Any]:
    """Return a pickle reducer for Keras objects, which are loaded with the very functions that they hold.

    Args:
        *owners: The user's model and its optimizer, copies of which are trained; others, such as None, are ignored.
        seen: A list that gets the variables that are pickled, which may not be pickled a second time.

    Returns:
        A function for `pickling.pickle_for_ranks`. It raises a ModelError for objects that hold variables of an owner,
        which training wouldn't update, and for variables in `seen` from the beginning, which would become two.
    """
    lists = ("variables", "metrics_variables")
    given = [owner for owner in owners if not isinstance(owner, type)]  # an optimizer may be given as a class
    compiled = [getattr(owner, "optimizer", None) for owner in given]
    held = [getattr(one, name, ()) for one in (*given, *compiled) for name in lists]
    owned = {id(variable) for variables in (*held, seen or ()) for variable in variables}
    return functools.partial(_reduced, owned, [] if seen is None else seen)


def _reduced(owned: set[int], seen: list[Any], obj: Any) -> Any:
    """Reduce an object; NotImplemented if pickle handles it itself."""
    if is_saveable(obj):
        if owned.intersection(map(id, getattr(obj, "variables", ()))):
            raise _owned(f"the {type(obj).__name__} {obj.name!r}")
        if isinstance(obj, keras.losses.Loss):  # its config may be incomplete
            return copyreg.__newobj__, (type(obj),), vars(obj)  # type: ignore[attr-defined]
        objects = custom_objects(obj)
        with keras.saving.custom_object_scope(objects):
            return _loaded, (_written(obj), objects, isinstance(obj, keras.Model))
    if isinstance(obj, (keras.Variable, tf.Variable)):
        if id(obj) in owned:
            raise _owned(f"the variable {getattr(obj, 'path', obj.name)!r}")
        seen.append(obj)
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
                "A tf.function that has created variables can't be sent to the ranks.",
                expected="functions of their arguments alone",
                received=f"the tf.function {getattr(function, '__name__', '')!r}",
                fix="Create the variables in a layer's build method.",
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
            "It holds a part of the given model, its optimizer or its loss, but ranks train copies of them.",
            expected="functions of their arguments alone",
            received=what,
            fix="In a callback, use self.model, its optimizer, and its loss (a keras.losses.Loss can hold variables). "
            "In a model, use layers in its call, by add_loss, or in its own train_step.",
        )
    )
