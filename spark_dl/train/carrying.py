"""The user's objects as bytes for other processes: cloudpickle, with Keras objects in it by distinct names."""

from __future__ import annotations

import copyreg
import io
from collections.abc import Mapping
from typing import Any

import cloudpickle
import keras
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable

from spark_dl.errors import ModelError, explain
from spark_dl.train.identity import label, naming
from spark_dl.train.model_bytes import custom_objects, from_bytes, to_bytes

__all__ = ["carried", "carried_objects"]


def carried(thing: Any, owner: keras.Model | None = None) -> bytes:
    """A thing as cloudpickle's bytes; Keras objects within it are loaded with the very functions that they hold.

    Args:
        thing: layers, callbacks, functions, or what holds them.
        owner: the user's model: what training copies of it.

    Raises:
        ModelError: the thing holds weights of the owner, which training would not change.
    """
    stream = io.BytesIO()
    _Carrier(stream, owner).dump(thing)
    return stream.getvalue()


def carried_objects(objects: Mapping[str, Any], owner: keras.Model | None = None) -> bytes:
    """What Keras needs by name, as bytes.

    Args:
        objects: as `custom_objects` finds them.
        owner: the user's model.

    Raises:
        ModelError: an object can't be pickled; or holds weights of the owner.
    """
    try:
        return carried(dict(objects), owner)
    except Exception:
        for thing in objects.values():
            try:
                carried(thing, owner)
            except ModelError as error:
                raise ModelError(f"{label(thing)}: {error}") from error
            except Exception as error:
                raise ModelError(
                    explain(
                        f"{label(thing)} can't be carried to other processes.",
                        expected="functions and objects that cloudpickle can copy",
                        received=f"{type(error).__name__}: {error}",
                        fix="Make what it holds within the function, when it is called.",
                    )
                ) from error
        raise


class _Carrier(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, stream: io.BytesIO, owner: keras.Model | None) -> None:
        super().__init__(stream)
        self._weights = {id(weight) for weight in owner.variables} if owner is not None else set()

    def reducer_override(self, obj: Any) -> Any:
        """How an object is taken apart; NotImplemented where pickle knows."""
        if isinstance(obj, KerasSaveable):
            if self._weights.intersection(map(id, getattr(obj, "variables", ()))):
                raise _owned(f"the {type(obj).__name__} {obj.name!r}")
            if isinstance(obj, keras.losses.Loss):  # not by its config, which may leave something out
                return copyreg.__newobj__, (type(obj),), vars(obj)  # type: ignore[attr-defined]
            objects = custom_objects(obj)
            with keras.saving.custom_object_scope(objects):
                return _loaded, (_written(obj), objects, isinstance(obj, keras.Model))
        if isinstance(obj, keras.Variable) and id(obj) in self._weights:
            raise _owned(f"the variable {obj.path!r}")
        return super().reducer_override(obj)


def _written(obj: Any) -> bytes:
    if isinstance(obj, keras.Model):
        return to_bytes(obj)
    stream = io.BytesIO()
    with naming():
        saving_lib._save_model_to_fileobj(obj, stream, "h5")
    return stream.getvalue()


def _loaded(content: bytes, objects: dict[str, Any], is_model: bool) -> Any:
    """A Keras object of bytes that this process's driver has written."""
    if is_model:
        return from_bytes(content, objects)
    with keras.saving.custom_object_scope(objects):
        return saving_lib._load_model_from_fileobj(
            io.BytesIO(content), custom_objects=None, compile=True, safe_mode=True
        )


def _owned(what: str) -> ModelError:
    return ModelError(
        explain(
            "It uses weights of the model that is trained, where a copy of the model is trained.",
            expected="functions of their arguments alone",
            received=what,
            fix="Use the layers in the model: in its call, by add_loss, or in a train_step of its own.",
        )
    )
