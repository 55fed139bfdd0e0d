"""Identity of custom functions and classes in Keras models: told apart by object, not by name.

Keras writes functions and classes into a model by name. Two closures of one factory have the same name, and a custom
function may have the name of one of Keras's. Objects with an ambiguous name get another one, in the package
`spark_dl.custom`, while the model is copied: only in the written config, never on the object and never in Keras's
registry.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from spark_dl._compat.keras_saving import (
    builtins_named,
    function_reference,
    is_exported,
    is_plain,
    reserved_names,
    scope_objects,
    serializing,
)
from spark_dl.errors import ModelError, explain
from spark_dl.train.model.faithful import changed_arguments, fault, is_same, with_arguments
from spark_dl.train.model.names import PACKAGE
from spark_dl.train.model.parts import leaves

__all__ = ["config_of", "found_objects", "label", "naming", "saved_name"]

# Names of metrics and losses that Keras resolves although no object has that name.
_UNDERSTOOD = ("accuracy", "acc", "ce", "crossentropy")
# Functions that exist by the same name in `tf.nn` and `keras.activations`; their `__name__` in Python may differ, such
# as softmax_v2.
_ACTIVATIONS = (
    *("relu", "relu6", "elu", "selu", "gelu", "leaky_relu", "softmax", "log_softmax", "sigmoid", "tanh"),
    *("softplus", "softsign", "silu"),
)


def is_registered(name: str) -> bool:
    """Return whether a name includes a package, so that it can't be plain text in a config."""
    return ">" in name


def label(thing: Any) -> str:
    """Return a readable name for a custom object."""
    if isinstance(thing, functools.partial):
        return label(thing.func)
    return str(getattr(thing, "__name__", None) or type(thing).__name__).strip("<>")


def found_objects(*things: Any) -> dict[str, Any]:
    """Find the custom functions, classes and callable objects that Keras serializes, by distinct names.

    A name is the registered one, or Python's own if nothing else in the config could be meant by it.

    Args:
        things: Keras models, layers, losses, metrics, optimizers, functions; or lists and dicts of them.

    Raises:
        ModelError: An object can't be copied faithfully.
    """
    finder = _Finder()
    with serializing(finder.write, finder.name_of):
        configs = [keras.saving.serialize_keras_object(thing) for thing in things]
    texts = set(_texts(configs))
    named: dict[str, Any] = {}
    waiting = []
    for thing in finder.found:
        registered = _registered_name(thing)
        if registered and registered not in named and _is_free(registered, thing):
            named[registered] = thing
        else:
            waiting.append(thing)
    own_names = Counter(filter(None, map(_own_name, finder.found)))
    plain = {name for name, count in own_names.items() if count == 1 and name not in texts and not _is_reserved(name)}
    for thing in waiting:
        name = _own_name(thing)
        # Keras would save an object by its former registered name, even if that now belongs to another; a new name
        # avoids this.
        own = name if name in plain and _is_free(name, thing) and not _registered_name(thing) else None
        named[own or _free(f"{PACKAGE}{label(thing)}", named, thing)] = thing
    for thing in finder.found:
        name = _own_name(thing)
        if name in plain and _is_free(name, thing):  # a custom from_config may look it up by this name
            named.setdefault(name, thing)
    return named


@contextlib.contextmanager
def naming() -> Iterator[None]:
    """Make Keras write the objects of the surrounding `custom_object_scope` by their names in it."""
    scope = scope_objects()
    # Needed for an empty scope, too: Keras alone can't save a model compiled with classes of losses or metrics.
    names: dict[Any, str] = {}
    for name in sorted(scope, key=is_registered):  # registered names last, so that they take precedence
        names[_key(scope[name])] = name

    def write(obj: Any, by_keras: Callable[[Any], Any]) -> Any:
        name = names.get(_key(obj)) if _may_be_named(obj) else None
        return with_arguments(obj, by_keras(obj)) if name is None else function_reference(name)

    def name_of(obj: Any, by_keras: Callable[[Any], str]) -> str:
        return names.get(_key(obj)) or by_keras(obj)

    with serializing(write, name_of):
        yield


def config_of(thing: Any) -> Any:
    """Serialize a Keras object with the names of the surrounding `custom_object_scope`."""
    with naming():
        return keras.saving.serialize_keras_object(thing)


class _Finder:
    """Collector of custom objects, called by Keras's serializer.

    Attributes:
        found: The custom objects in the order in which Keras serializes them, each once.
    """

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._names: dict[Any, str] = {}
        self._comparing = False

    def write(self, obj: Any, by_keras: Callable[[Any], Any]) -> Any:
        """Return the config of an object, with this finder's names."""
        if isinstance(obj, keras.layers.Lambda) and obj.mask is not None:
            raise _not_copied(obj, "a Lambda layer with mask=, which Keras doesn't load", "Write a layer of your own.")
        if _may_be_named(obj) and not self._comparing:
            return function_reference(self._note(obj)) if _is_reference(obj) else self._instance(obj, by_keras)
        config = with_arguments(obj, by_keras(obj))
        if isinstance(obj, (keras.losses.Loss, keras.metrics.Metric)) and (changed := changed_arguments(obj, config)):
            fix = "Make it with its arguments, in place of setting attributes."
            raise _not_copied(obj, changed, fix, "one value of each argument")
        return config

    def name_of(self, obj: Any, by_keras: Callable[[Any], str]) -> str:
        """Return the name that Keras writes for a class or function."""
        own = hasattr(obj, "get_config") if isinstance(obj, type) else isinstance(obj, types.FunctionType)
        return self._note(obj) if own and not _is_keras(obj) and not self._comparing else by_keras(obj)

    def _note(self, obj: Any) -> str:
        key = _key(obj)
        if key not in self._names:
            self._names[key] = f"{PACKAGE}#{len(self.found)}"
            self.found.append(obj)
        return self._names[key]

    def _instance(self, obj: Any, by_keras: Callable[[Any], Any]) -> Any:
        """Return the config of an object of a custom class, or a reference to it if `get_config` is incomplete."""
        has_state = isinstance(obj, (keras.layers.Layer, keras.metrics.Metric, keras.optimizers.Optimizer))
        try:
            config = with_arguments(obj, by_keras(obj))
        except ModelError:
            raise
        except Exception as error:
            if not has_state and callable(obj):
                return function_reference(self._note(obj))
            sentence = " ".join(str(error).split()).partition(". ")[0]
            raise _not_copied(obj, f"{type(error).__name__}: {sentence}") from error
        if not has_state:
            return (
                config if not callable(obj) or self._is_faithful(obj, config) else function_reference(self._note(obj))
            )
        with self._copies():
            wrong = "" if isinstance(obj, keras.Model) else fault(obj, config)
        if wrong:
            raise _not_copied(obj, wrong)
        return config

    @contextlib.contextmanager
    def _copies(self) -> Iterator[None]:
        """Allow configs to be loaded within the block, without collecting the objects of the copies."""
        self._comparing, before = True, self._comparing
        try:
            with keras.saving.custom_object_scope({self._names[_key(thing)]: thing for thing in self.found}):
                yield
        finally:
            self._comparing = before

    def _is_faithful(self, obj: Any, config: Any) -> bool:
        try:
            with self._copies():
                return is_same(obj, keras.saving.deserialize_keras_object(config))
        except Exception:
            return False


def _not_copied(
    obj: Any,
    received: str,
    fix: str = "Write get_config in the class.",
    expected: str = "a get_config that gives all arguments of its __init__",
) -> ModelError:
    name = getattr(obj, "name", None)
    return ModelError(
        explain(
            f"{type(obj).__name__}{f' {name!r}' if name else ''} can't be copied, and training needs copies of it.",
            expected=expected,
            received=received,
            fix=fix,
        )
    )


def _may_be_named(obj: Any) -> bool:
    """Return whether an object is custom: a function, a class, a callable, or an instance of a custom class."""
    if isinstance(obj, (types.FunctionType, type)):
        return isinstance(obj, type) or not _is_keras(obj)
    if hasattr(obj, "get_config"):
        return not _is_keras(type(obj))
    return callable(obj) and not is_plain(obj)


def _is_reference(obj: Any) -> bool:
    return isinstance(obj, type) or not hasattr(obj, "get_config")


def _is_keras(thing: Any) -> bool:
    """Return whether Keras finds its own class or function again by the name that it writes."""
    if isinstance(thing, type):
        return is_exported(thing) or _is_inner(thing)
    there = builtins_named(thing.__name__)
    return bool(there) and all(found is thing for found in there)


def _is_inner(kind: type) -> bool:
    """Return whether a class is a private one of Keras's, such as an operation of a functional model."""
    return kind.__module__.startswith("keras.") and "<locals>" not in kind.__qualname__


def _registered_name(thing: Any) -> str | None:
    try:
        name: str = keras.saving.get_registered_name(thing)
    except (TypeError, AttributeError):  # unhashable, or unregistered and nameless
        return None
    return name if name != getattr(thing, "__name__", None) else None


def _own_name(thing: Any) -> str | None:
    """Return the name by which Keras would write a class or function; None if it wouldn't write it."""
    if by_keras := _name_by_keras(thing):
        return by_keras
    if not isinstance(thing, (types.FunctionType, type)) or not thing.__name__.isidentifier():
        return None
    return thing.__name__ if isinstance(thing, types.FunctionType) or hasattr(thing, "from_config") else None


def _is_reserved(name: str) -> bool:
    return name in _UNDERSTOOD or name in reserved_names()


def _name_by_keras(thing: Any) -> str | None:
    """Return the name of Keras's equivalent of a TensorFlow function; None if there is none."""
    return next((name for name in _ACTIVATIONS if getattr(tf.nn, name) is thing), None)


def saved_name(thing: Any, others: Iterable[Any]) -> str:
    """Return the name that a function or class can be saved by; empty if the name is ambiguous.

    A name is ambiguous if Keras or one of the other objects has it, too.

    Args:
        thing: The function or class.
        others: The functions and classes that are saved together with it.
    """
    if by_keras := _name_by_keras(thing):
        return by_keras
    others = list(others)
    # An object whose registered name was taken over by another would be loaded as that other one.
    registered = _registered_name(thing)
    if registered and registered not in map(_registered_name, others):
        return registered
    name = _own_name(thing)
    return name if name and not _is_reserved(name) and name not in map(_own_name, others) else ""


def _is_free(name: str, thing: Any) -> bool:
    """Return whether no other object is registered by a name.

    For nested objects Keras consults the registry before a scope.
    """
    same: bool = _key(keras.saving.get_custom_objects().get(name, thing)) == _key(thing)
    return same


def _free(name: str, taken: Mapping[str, Any], thing: Any) -> str:
    names = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
    return next(one for one in names if one not in taken and _is_free(one, thing))


def _key(thing: Any) -> Any:
    """Return a key that identifies an object; bound methods are new objects at each access."""
    if isinstance(thing, types.MethodType):
        return id(thing.__self__), id(thing.__func__)
    return id(thing)


def _texts(config: Any) -> Iterator[str]:
    """Yield the plain texts of configs: all that aren't names of classes, functions or modules."""
    if isinstance(config, dict):
        names = {"class_name", "registered_name", "module"} if "class_name" in config else set()
        for key, value in config.items():
            if key not in names:
                yield from _texts(value)
    elif isinstance(config, (list, tuple)):
        for part in config:
            yield from _texts(part)
    else:
        yield from (text for text in leaves(config) if isinstance(text, str))
