"""Objects of configurations: `module:name`, and Keras objects by their class and config."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from spark_dl.errors import OptionError, explain, hint
from spark_dl.quiet import quiet_start

__all__ = ["OBJECT_KEYS", "import_module", "import_object", "is_reference", "resolve_objects"]

# Options whose values are objects -> Keras's module of the classes that `class_name` may name.
OBJECT_KEYS = {
    "optimizer": "optimizers",
    "loss": "losses",
    "metrics": "metrics",
    "callbacks": "callbacks",
    "onEpoch": "callbacks",
    "transformFn": "layers",
    "augment": "layers",
}
# Keys whose values are never functions, so that a function makes the value.
_MADE = ("optimizer", "callbacks", "transformFn", "augment")
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_reference(text: object) -> bool:
    """Return whether a value has the form `module:name`.

    >>> is_reference("shop.models:build"), is_reference("models:/shop@champion"), is_reference("adam")
    (True, False, False)
    """
    return isinstance(text, str) and _REFERENCE.fullmatch(text) is not None


def import_object(key: str, reference: str) -> Any:
    """Import the object that `module:name` names.

    Args:
        key: The key of the configuration, for error messages.
        reference: The module and the name.

    Raises:
        OptionError: The module can't be imported, or has no such name.
    """
    module_name, _, name = reference.partition(":")
    module = import_module(key, module_name)
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        known = [known for known in vars(module) if not known.startswith("_")]
        raise OptionError(
            explain(
                f"{key}: the module {module_name!r} has no {name!r}.",
                expected=f"{key}: module:name",
                received=reference,
                fix=hint(name, known),
            )
        ) from None


def import_module(key: str, name: str) -> ModuleType:
    """Import a module of the working directory or of the path.

    What is defined in the working directory travels to the executors by value, as they can't import it.

    Args:
        key: The key of the configuration, for error messages.
        name: The module.

    Raises:
        OptionError: The module can't be imported.
    """
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            quiet_start()  # such a module imports Keras, and an error is one line
        module = importlib.import_module(name)
    except Exception as error:
        raise OptionError(
            explain(
                f"{key}: the module {name!r} can't be imported.",
                expected=f"a module in {folder} or on PYTHONPATH",
                received=f"{type(error).__name__}: {error}",
                fix="Run in the module's directory, add it to PYTHONPATH, or install what the module needs.",
            )
        ) from error
    top = name.partition(".")[0]
    if Path(folder, top).is_dir() or Path(folder, f"{top}.py").is_file():
        cloudpickle.register_pickle_by_value(sys.modules[top])
    return module


def resolve_objects(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `module:name` and `{class_name: ..., config: ...}` in the values of OBJECT_KEYS by the objects.

    Args:
        options: The options of a configuration, by their public names.

    Raises:
        OptionError: An object can't be imported or made.
    """
    return {name: _resolved(name, value) if name in OBJECT_KEYS else value for name, value in options.items()}


def _resolved(key: str, value: Any) -> Any:
    if is_reference(value):
        found = import_object(key, value)
        return _called(key, value, found) if key in _MADE and inspect.isfunction(found) else found
    if isinstance(value, Mapping):
        if "class_name" in value:
            return _keras_object(key, value)
        return {name: _resolved(key, one) for name, one in value.items()}
    if isinstance(value, list):
        # A function of several callbacks returns a list.
        parts = [(_resolved(key, one), is_reference(one)) for one in value]
        return [one for part, named in parts for one in (part if named and isinstance(part, (list, tuple)) else [part])]
    return value


def _called(key: str, reference: str, function: Any) -> Any:
    try:
        return function()
    except Exception as error:
        raise OptionError(
            explain(
                f"{key}: {reference} failed.",
                expected=f"a function without arguments that returns the value of {key}",
                received=f"{type(error).__name__}: {error}",
                fix="Call it in Python to see where it fails.",
            )
        ) from error


def _keras_object(key: str, value: Mapping[str, Any]) -> Any:
    """Make an object of one of Keras's own classes."""
    classes = importlib.import_module(f"keras.{OBJECT_KEYS[key]}")
    name, config = value["class_name"], value.get("config") or {}
    known = {one: cls for one, cls in vars(classes).items() if inspect.isclass(cls)}
    if name not in known or set(value) - {"class_name", "config"}:
        raise OptionError(
            explain(
                f"{key}: there is no such Keras object.",
                expected=f"class_name: a class of keras.{OBJECT_KEYS[key]}, and config: its arguments",
                received=dict(value),
                fix=hint(str(name), known) if name not in known else "",
            )
        )
    try:
        return known[name](**config)
    except Exception as error:
        raise OptionError(
            explain(
                f"{key}: {name} can't be made.",
                expected=f"the arguments of keras.{OBJECT_KEYS[key]}.{name}",
                received=f"{config}: {type(error).__name__}: {error}",
                fix="Change the arguments in config.",
            )
        ) from error
