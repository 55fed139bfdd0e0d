"""Pickling of the user's objects for the ranks, on the driver: names the part that can't be pickled before any job."""

from __future__ import annotations

import functools
import inspect
import io
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
from pyspark import Accumulator
from pyspark.errors import PySparkTypeError

from spark_dl.errors import OptionError, SparkDLError, explain

__all__ = ["Pickled", "pickle_for_ranks"]

_DEEPEST = 12

Reducer = Callable[[Any], Any]


@dataclass(frozen=True)
class Pickled:
    """A pickled object.

    Attributes:
        content: The pickle.
        modules: The top-level modules outside the standard library that loading the pickle imports, sorted.
    """

    content: bytes
    modules: tuple[str, ...]


class _Pickler(cloudpickle.Pickler):
    """Cloudpickle's pickler, which records the modules of what is pickled by reference and refuses accumulators."""

    def __init__(self, file: Any, reduce: Reducer | None) -> None:
        super().__init__(file)
        self.modules: set[str] = set()
        self._reduce = reduce

    def reducer_override(self, thing: Any) -> Any:
        """Pickle as cloudpickle does, after this pickler's own `reduce`.

        Raises:
            PySparkTypeError: The object is a Spark accumulator.
        """
        if isinstance(thing, Accumulator):
            raise PySparkTypeError("an Accumulator, whose additions on a rank never reach the driver")
        if self._reduce is not None and (reduced := self._reduce(thing)) is not NotImplemented:
            return reduced
        reduced = super().reducer_override(thing)
        module = ""
        if isinstance(thing, types.ModuleType):
            module = thing.__name__ if thing.__name__ in sys.modules else ""
        elif reduced is NotImplemented and isinstance(thing, (type, types.FunctionType, types.BuiltinFunctionType)):
            module = getattr(thing, "__module__", None) or ""
        self.modules.add(module)
        return reduced


def pickle_for_ranks(what: str, thing: Any, fix: str = "", reduce: Reducer | None = None) -> Pickled:
    """Pickle an object for the ranks.

    Args:
        what: The object's name in messages, such as the option that holds it.
        thing: The object.
        fix: The fix in the error's message; "" for the default one.
        reduce: A function like pickle's `reducer_override`; where it returns NotImplemented, cloudpickle decides.

    Raises:
        OptionError: A part of the object can't be pickled; the message has the path to it.
        SparkDLError: `reduce` raised one; the message has the path to the part in question.
    """
    try:
        return _pickled(thing, reduce)
    except Exception as error:  # an object's own __reduce__ may raise anything
        path, part, cause = _culprit(what, thing, error, reduce)
        if isinstance(cause, SparkDLError):
            raise type(cause)(f"{path}: {cause}") from error
        raise OptionError(
            explain(
                f"{what} can't be sent to the ranks, since a part can't be pickled.",
                expected="objects that can be pickled",
                received=f"{path}, of type {type(part).__name__} ({_first_line(cause)})",
                fix=fix or "Make such objects on the rank, inside the function, and leave them out of closures.",
            )
        ) from error


def _pickled(thing: Any, reduce: Reducer | None) -> Pickled:
    with io.BytesIO() as file:
        pickler = _Pickler(file, reduce)
        pickler.dump(thing)
        by_value = cloudpickle.list_registry_pickle_by_value()
        known = {"", "__main__", "cloudpickle", *sys.stdlib_module_names}
        imported = {
            module.partition(".")[0]
            for module in pickler.modules
            if not any(module == name or module.startswith(f"{name}.") for name in by_value)
        }
        return Pickled(file.getvalue(), tuple(sorted(imported - known)))


def _culprit(path: str, thing: Any, error: Exception, reduce: Reducer | None) -> tuple[str, Any, Exception]:
    """Find the innermost part that can't be pickled.

    Returns:
        The path to the part, the part, and the exception that pickling it raises.
    """
    seen = {id(thing)}
    for _ in range(_DEEPEST):
        if _is_refused(thing, reduce):
            break
        for step, part in _parts(thing):
            if id(part) in seen:
                continue
            seen.add(id(part))
            try:
                _pickled(part, reduce)
            except Exception as inner:
                if isinstance(error, SparkDLError) and not isinstance(inner, SparkDLError):
                    continue  # pickling the whole never reaches this part
                path, thing, error = path + step, part, inner
                break
        else:
            break
    return path, thing, error


def _is_refused(thing: Any, reduce: Reducer | None) -> bool:
    """Return whether `reduce` refuses an object itself, and not one of its parts."""
    try:
        if reduce is not None:
            reduce(thing)
    except SparkDLError:
        return True
    except Exception:
        return False
    return False


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts that an object is pickled with, each after its path relative to the object."""
    if isinstance(thing, dict):
        yield from ((f"[{key!r}]", value) for key, value in list(thing.items()))
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]{_named(part)}", part) for index, part in enumerate(thing))
    elif isinstance(thing, functools.partial):
        yield from ((".func", thing.func), (".args", thing.args), (".keywords", thing.keywords))
    elif isinstance(thing, types.MethodType):
        yield from ((".__self__", thing.__self__), (".__func__", thing.__func__))
    elif isinstance(thing, types.FunctionType):
        found = inspect.getclosurevars(thing)
        yield from ((f", its variable {name!r}", value) for name, value in found.nonlocals.items())
        yield from ((f", its global {name!r}", value) for name, value in found.globals.items())
        yield from ((f", its default {value!r}"[:80], value) for value in thing.__defaults__ or ())
        yield from ((f", its default {name!r}", value) for name, value in (thing.__kwdefaults__ or {}).items())
    elif isinstance(thing, type):
        yield from ((f".{name}", getattr(value, "__func__", value)) for name, value in list(vars(thing).items()))
    else:
        yield from ((f".{name}", value) for name, value in list(getattr(thing, "__dict__", {}).items()))
        slots = (name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()))
        yield from ((f".{name}", getattr(thing, name)) for name in slots if hasattr(thing, name))
        yield f", its class {type(thing).__name__}", type(thing)


def _named(part: Any) -> str:
    """Describe an object in a list by its class, since its index says nothing about it; "" for plain values."""
    return f" ({type(part).__name__})" if hasattr(part, "__dict__") and not isinstance(part, type) else ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
