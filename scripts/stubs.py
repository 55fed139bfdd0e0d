"""Write the stubs of `spark_dl.ml.params` from the options: `python scripts/stubs.py`.

The classes there get their Params, setters, getters and constructors when they are made: editors and mypy read the
stubs. `--check` changes nothing and fails where a stub isn't current.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from generated import update

from spark_dl.ml.params import OptionParams
from spark_dl.options import Option

FOLDER = Path(__file__).resolve().parent.parent / "spark_dl" / "ml" / "params"
MODULES = ("classifier", "estimator", "fitted", "tagger")
HEAD = '"""Written by scripts/stubs.py from the options: change those, and run it again."""\n'


def stub_of(name: str) -> str:
    """The stub of one module."""
    module = importlib.import_module(f"spark_dl.ml.params.{name}")
    classes = [cls for _, cls in inspect.getmembers(module, _are_params) if cls.__module__ == module.__name__]
    classes.sort(key=lambda cls: len(cls.__mro__))
    text = "\n\n".join("\n".join(class_lines(cls)) for cls in classes)
    bases = {base for cls in classes for base in cls.__bases__ if base not in classes}
    records = sorted(cls.options_class.__name__ for cls in classes)
    imports = [
        *(["from collections.abc import Callable"] if "Callable[" in text else []),
        "from typing import Any, Self\n" if "Any" in text else "from typing import Self\n",
        "from pyspark.ml.param import Param\n",
        *sorted(f"from {base.__module__} import {base.__name__}" for base in bases),
        f"from spark_dl.options import {', '.join(records)}\n",
    ]
    listed = ", ".join(f'"{cls}"' for cls in sorted(cls.__name__ for cls in classes))
    return "\n".join([HEAD, *imports, f"__all__ = [{listed}]\n", text, ""])


def _are_params(member: object) -> TypeGuard[type[OptionParams]]:
    return isinstance(member, type) and issubclass(member, OptionParams)


def class_lines(cls: type[OptionParams]) -> Iterator[str]:
    """The stub of one class: the constructor has every option, the rest what its base doesn't have."""
    (base,) = filter(_are_params, cls.__bases__)
    yield f"class {cls.__name__}({base.__name__}):"
    own = [option for option in cls.options if option not in base.options]
    yield from (f"    {option.name}: Param[{option.type}]" for option in own)
    yield from function_lines("__init__", cls.options, "None")
    yield from function_lines("setParams", cls.options, "Self")
    yield f"    def _options(self) -> {cls.options_class.__name__}: ..."
    for option in own:
        title = option.name[0].upper() + option.name[1:]
        yield f"    def set{title}(self, value: {option.type}) -> Self: ..."
        yield f"    def get{title}(self) -> {option.type}: ..."


def function_lines(name: str, options: tuple[Option, ...], returns: str) -> Iterator[str]:
    """A method with a keyword argument for each option."""
    # The base takes any keyword, and refuses those that it doesn't know when it is called.
    yield f"    def {name}({'  # type: ignore[override]' if name == 'setParams' else ''}"
    yield "        self,"
    yield "        *,"
    for option in options:
        # setParams leaves those as they are that it isn't given.
        default = f'"{option.default}"' if isinstance(option.default, str) else repr(option.default)
        yield f"        {option.name}: {option.type} = {default if name == '__init__' else '...'},"
    yield f"    ) -> {returns}: ..."


if __name__ == "__main__":
    sys.exit(update(__doc__, {FOLDER / f"{name}.pyi": stub_of(name) for name in MODULES}))
