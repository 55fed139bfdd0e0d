"""Numbers in the code and the attributes of a user's loss or model: candidates for labels with a special meaning."""

from __future__ import annotations

import functools
import inspect
import numbers
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from spark_dl.train.model.parts import leaves

__all__ = ["numbers_of", "rows_near"]

_DEPTH = 4
_MOST = 24
_MOST_ROWS = 64
_MOST_SIZES = 3
# Packages whose code has no labels of the user's.
_FOREIGN = ("keras", "tensorflow", "numpy", "spark_dl", "builtins", "pyspark", "py4j", "pandas", "pyarrow", "mlflow")


def numbers_of(thing: Any) -> tuple[float, ...]:
    """Return the numbers that a loss or a model may compare labels with, without repetitions.

    Args:
        thing: A function, a callable object, or a Keras object with attributes.
    """
    found = dict.fromkeys(float(number) for number in _numbers(thing, _DEPTH, set()) if np.isfinite(number))
    return tuple(found)[:_MOST]


def rows_near(thing: Any) -> tuple[tuple[int, int], ...]:
    """Return sizes of pairs of batches around numbers in the code: smaller ones, joined as large, and larger ones.

    A loss or a metric may treat batches of fewer rows in another way.

    Args:
        thing: A function, a callable object, or a Keras object with attributes.
    """
    sizes = [int(number) for number in numbers_of(thing) if 3 <= number <= _MOST_ROWS and float(number).is_integer()]
    return tuple(pair for n in sizes[:_MOST_SIZES] for pair in ((n // 2, n - n // 2), (n, n + 1)))


def _numbers(thing: Any, depth: int, seen: set[int]) -> Iterator[float]:
    if depth == 0 or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, numbers.Real) and not isinstance(thing, bool):
        yield float(thing)
    elif isinstance(thing, (np.ndarray, np.generic)):
        yield from thing.ravel().tolist() if thing.size <= _MOST and thing.dtype.kind in "iuf" else ()
    elif isinstance(thing, (list, tuple, dict, set, frozenset)):
        for part in leaves(list(thing) if isinstance(thing, (set, frozenset)) else thing):
            yield from _numbers(part, depth - 1, seen)
    elif isinstance(thing, functools.partial):
        yield from _numbers([thing.func, *thing.args, *thing.keywords.values()], depth, seen)
    elif isinstance(thing, types.MethodType):
        yield from _numbers([thing.__func__, thing.__self__], depth, seen)
    elif isinstance(thing, types.FunctionType):
        yield from () if _is_foreign(thing) else _of_function(thing, depth, seen)
    elif isinstance(thing, keras.losses.Loss) or not _is_foreign(type(thing)):
        yield from _of_object(thing, depth, seen)


def _of_function(function: types.FunctionType, depth: int, seen: set[int]) -> Iterator[float]:
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]
    for code in _codes(function.__code__):
        held += [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]
        held += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    yield from _each(held, depth, seen)


def _of_object(thing: Any, depth: int, seen: set[int]) -> Iterator[float]:
    attributes = getattr(thing, "__dict__", {})
    held = list(attributes.values()) if isinstance(attributes, Mapping) else []
    for base in type(thing).__mro__:
        if not _is_foreign(base):
            held += vars(base).values()
    # Layers and variables of a model have no labels, and are many.
    yield from _each([one for one in held if not hasattr(one, "build") and not hasattr(one, "assign")], depth, seen)


def _each(things: list[Any], depth: int, seen: set[int]) -> Iterator[float]:
    for thing in things:
        thing = thing.__func__ if isinstance(thing, (staticmethod, classmethod)) else thing
        yield from _numbers(thing, depth - 1, seen)


def _is_foreign(thing: Any) -> bool:
    return (getattr(inspect.unwrap(thing), "__module__", None) or "").partition(".")[0] in _FOREIGN


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
