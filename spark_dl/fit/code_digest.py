"""Digests of code and objects, equal in every process of one Python release.

A digest covers the bytecode, constants, defaults, closure and used globals of functions, the attributes of classes, and
the state of other objects. It doesn't depend on the source file or the importing module, as functions in notebooks have
no source. Code of Python's standard library and of installed packages is represented by its name and its package's
version.
"""

from __future__ import annotations

import dis
import hashlib
import importlib.metadata
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["code_digest", "digest_of_text", "is_own"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented))
# Attributes that Python sets on classes and objects; they aren't the user's code.
_NOT_CODE = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__", "__firstlineno__"),
    *("__static_attributes__", "__slotnames__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("_abc_impl", "__abstractmethods__", "__parameters__", "__orig_bases__"),
}
# Packages without their version in the digest, so that a fit can resume after an upgrade.
_FOUNDATIONS = ("keras", "tensorflow", "numpy", "spark_dl", "tf_keras")
# Packages whose objects hold connections and counters of this process: only their type is in the digest.
_PROCESS_OWN = ("pyspark", "py4j", "threading", "_thread", "socket", "_io", "mlflow", "grpc", "concurrent")
_MOST_OBJECTS = 100_000
_DEEPEST = 100
# The flags of a code object that describe it; the others come from `from __future__` imports of its file.
_KIND_FLAGS = 0xFFF


def code_digest(thing: Any) -> str:
    """Return the digest of a function, a class, an object, or a collection of them."""
    return digest_of_text("\n".join(_Walk().tokens(thing)))


def digest_of_text(text: str) -> str:
    """Return a digest of a text: 16 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_own(thing: Any) -> bool:
    """Return whether a class or function is the user's: neither of the standard library nor of an installed package."""
    return _installed(thing) is None


class _Walk:
    """A traversal of an object and everything it refers to: each object is described once, then by its number."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # keeps objects alive, so that no id is reused
        self._depth = 0

    def tokens(self, thing: Any) -> Iterator[str]:
        """Yield texts that describe an object."""
        if isinstance(thing, _PLAIN):
            yield f"{type(thing).__name__} {thing!r}"
            return
        if id(thing) in self._numbers or len(self._kept) > _MOST_OBJECTS or self._depth > _DEEPEST:
            yield f"again {self._numbers.get(id(thing), '')}"
            return
        # The compiler decides whether equal constants are one tuple or two.
        if not isinstance(thing, (tuple, frozenset)):
            self._numbers[id(thing)] = len(self._kept)
            self._kept.append(thing)
        self._depth += 1
        yield from self._described(thing)
        self._depth -= 1

    def _described(self, thing: Any) -> Iterator[str]:
        for kinds, describe in self._rules():
            if isinstance(thing, kinds):
                yield from describe(thing)
                return
        yield from self._object(thing)

    def _rules(self) -> list[tuple[Any, Callable[[Any], Iterator[str]]]]:
        return [
            (types.CodeType, self._code),
            (types.FunctionType, self._function),
            (types.MethodType, lambda method: self._each("method", [method.__func__, method.__self__])),
            ((staticmethod, classmethod), lambda made: self._each(type(made).__name__, [made.__func__])),
            (property, lambda made: self._each("property", [made.fget, made.fset, made.fdel])),
            (types.ModuleType, lambda module: iter([f"module {module.__name__}"])),
            (type, self._class),
            (Mapping, self._mapping),
            ((set, frozenset), self._set),
            ((list, tuple), lambda items: self._each(type(items).__name__, items)),
            ((np.ndarray, np.generic), self._array),
            (types.BuiltinFunctionType, lambda built_in: iter([f"built-in {built_in.__qualname__}"])),
            (types.CellType, self._cell),
        ]

    def _each(self, kind: str, parts: Any) -> Iterator[str]:
        yield f"{kind} {len(parts)}"
        for part in parts:
            yield from self.tokens(part)

    def _cell(self, cell: Any) -> Iterator[str]:
        try:
            content = cell.cell_contents
        except ValueError:
            yield "empty cell"
        else:
            yield from self.tokens(content)

    def _mapping(self, items: Mapping[Any, Any]) -> Iterator[str]:
        yield f"mapping {len(items)}"
        for key, value in sorted(items.items(), key=lambda item: _alone(item[0])):
            yield from self.tokens(key)
            yield from self.tokens(value)

    def _set(self, items: Any) -> Iterator[str]:
        yield f"set {len(items)}"
        yield from sorted(map(_alone, items))

    def _array(self, array: Any) -> Iterator[str]:
        value = np.asarray(array)
        if value.dtype.hasobject:
            yield from self._each(f"array {value.shape}", value.ravel().tolist())
        else:
            yield f"array {value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"

    def _function(self, function: Any) -> Iterator[str]:
        if (name := _installed(function)) is not None:
            yield name
            return
        code = function.__code__
        yield "function"
        yield from self._code(code, function.__doc__)
        yield from self._each("defaults", [function.__defaults__, function.__kwdefaults__])
        yield from self._each("closure", list(function.__closure__ or ()))
        for name, value in _globals_of(code, function.__globals__, _modules_held(function)):
            yield f"global {name}"
            yield from self.tokens(value)
        # What decorators leave, such as the functions by type of functools.singledispatch.
        left = {name: value for name, value in vars(function).items() if not name.startswith("_")}
        yield from self._each("attributes", [left, getattr(function, "__wrapped__", None)] if vars(function) else [])

    def _code(self, code: types.CodeType, doc: str | None = None) -> Iterator[str]:
        yield f"code {code.co_name} {code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount}"
        yield f"{code.co_flags & _KIND_FLAGS} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}"
        yield code.co_code.hex()
        yield getattr(code, "co_exceptiontable", b"").hex()
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from self._code(constant)
            elif doc is None or constant != doc:
                yield from self.tokens(constant)

    def _class(self, kind: type) -> Iterator[str]:
        if (name := _installed(kind)) is not None:
            yield name
            return
        yield f"class {kind.__name__}"
        yield from self._each("bases", (*kind.__bases__, *([type(kind)] if type(kind) is not type else [])))
        for name, value in sorted(vars(kind).items()):
            if name not in _NOT_CODE:
                yield f"attribute {name}"
                yield from self.tokens(value)

    def _object(self, thing: Any) -> Iterator[str]:
        kind = type(thing)
        yield "object"
        yield from self.tokens(kind)
        if kind.__module__.partition(".")[0] in _PROCESS_OWN:
            return
        if callable(getattr(thing, "python_function", None)):  # a tf.function
            yield from self.tokens(thing.python_function)
        elif _is_keras_object(thing):
            yield from self.tokens(_keras_state(thing))
        elif callable(getattr(thing, "numpy", None)):
            yield from self._array(thing.numpy())
        else:
            yield from self._reduced(thing)

    def _reduced(self, thing: Any) -> Iterator[str]:
        """Describe an object by its pickled state; by nothing more than its type if it can't be pickled."""
        try:
            reduced = thing.__reduce_ex__(2)
        except Exception:
            reduced = "no state"
        if isinstance(reduced, str):
            yield f"named {reduced}"
            yield from self._each("wraps", [getattr(thing, "__wrapped__", None)])  # as functools.lru_cache does
            return
        made_of, items = reduced[:3], reduced[3:5]
        yield from self._each("state", made_of)
        for several in items:
            yield from self._each("items", list(several or ()))


def _alone(thing: Any) -> str:
    return code_digest(thing)


def _globals_of(
    code: types.CodeType, known: Mapping[str, Any], held: Mapping[str, types.ModuleType]
) -> list[tuple[str, Any]]:
    """List what a function uses besides its arguments, by name: globals, and attributes of the user's modules.

    Args:
        code: The function's code.
        known: The function's globals.
        held: The modules in its closure and defaults.
    """
    found: dict[str, Any] = {}
    modules = dict(held)
    names: set[str] = set()
    for part in _codes(code):
        names |= set(part.co_names)
        instructions = list(dis.get_instructions(part))
        for number, instruction in enumerate(instructions):
            name = instruction.argval
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and name in known:
                value = known[name]
                if isinstance(value, types.ModuleType):
                    modules[name] = value
                else:
                    found[name] = value
            elif instruction.opname == "IMPORT_NAME":
                level = instructions[number - 2].argval if number > 1 else 0
                full = _absolute(name, level if isinstance(level, int) else 0, known)
                if isinstance(sys.modules.get(full), types.ModuleType):
                    modules[full] = sys.modules[full]
    for name, module in modules.items():
        found |= _used_of(name, module, names, set())
    return sorted(found.items())


def _absolute(name: str, level: int, known: Mapping[str, Any]) -> str:
    """Return the full name of a module that a function imports; level counts the dots of a relative import."""
    if not level:
        return name
    package = known.get("__package__") or str(known.get("__name__", "")).rpartition(".")[0]
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])


def _used_of(name: str, module: types.ModuleType, names: set[str], seen: set[int]) -> dict[str, Any]:
    """List a module and, if it is the user's, those of its attributes that have one of the names, at any depth."""
    found: dict[str, Any] = {name: module}
    if _package_kind(module.__name__) != "own" or id(module) in seen:
        return found
    seen.add(id(module))
    for other in sorted(names & vars(module).keys()):
        value = vars(module)[other]
        inner = isinstance(value, types.ModuleType)
        found |= _used_of(f"{name}.{other}", value, names, seen) if inner else {f"{name}.{other}": value}
    return found


def _modules_held(function: types.FunctionType) -> dict[str, types.ModuleType]:
    """List the modules in a function's closure and defaults."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}
    held |= {f"default {number}": value for number, value in enumerate(function.__defaults__ or ())}
    held |= function.__kwdefaults__ or {}
    return {name: value for name, value in held.items() if isinstance(value, types.ModuleType)}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _installed(thing: Any) -> str | None:
    """Name a class or function of the standard library or an installed package; None for the user's code."""
    module = getattr(thing, "__module__", None) or ""
    kind = _package_kind(module)
    if kind == "own":
        return None
    package = module.partition(".")[0]
    name = f"{module}.{getattr(thing, '__qualname__', type(thing).__name__)}"
    if kind == "Python" or package in _FOUNDATIONS:
        return name
    return f"{name} of {package} {_version(package)}"


def _package_kind(module: str) -> str:
    """Classify a module: "Python" for the standard library, "installed" for a package, "own" for the user's."""
    if module in ("", "__main__"):
        return "own"
    if module.partition(".")[0] in sys.stdlib_module_names:
        return "Python"
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None) or ""
    paths = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    if module.partition(".")[0] in _FOUNDATIONS or "site-packages" in file or "dist-packages" in file:
        return "installed"
    return "installed" if any(path and file.startswith(path) for path in paths) else "own"


def _version(package: str) -> str:
    version = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(version, str):
        return version
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _is_keras_object(thing: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "keras" for kind in type(thing).__mro__)


def _keras_state(thing: Any) -> dict[str, Any]:
    """Return a Keras object's config, its non-trainable weights, and the plain attributes of a user's class."""
    from spark_dl._compat.keras import CALLBACK_ATTRIBUTES, is_seed  # late import: loads Keras

    try:
        config = thing.get_config()
    except Exception:
        # Callbacks have no config.
        return {name: value for name, value in vars(thing).items() if name not in CALLBACK_ATTRIBUTES}
    state = {"config": _without_numbers(config)}
    fixed = getattr(thing, "non_trainable_variables", None)
    if isinstance(fixed, list):
        state["fixed"] = [np.asarray(v) for v in fixed if not is_seed(v)]
    elif _installed(type(thing)) is None:
        plain = {name: value for name, value in vars(thing).items() if isinstance(value, _PLAIN)}
        # Keras keeps private counters in its other objects.
        private = any(kind.__name__ == "Loss" for kind in type(thing).__mro__)
        state["attributes"] = {
            name: plain[name] for name in plain if name != "name" and (private or not name.startswith("_"))
        }
    return state


def _without_numbers(config: Any) -> Any:
    """Remove the numbers of names and shared objects from a config: Keras assigns them per process."""
    if isinstance(config, dict):
        return {
            name: re.sub(r"_\d+$", "", value) if name == "name" and isinstance(value, str) else _without_numbers(value)
            for name, value in config.items()
            if name != "shared_object_id"
        }
    return [_without_numbers(part) for part in config] if isinstance(config, (list, tuple)) else config
