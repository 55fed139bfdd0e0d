"""Options become Spark ML params: with setters, getters, checks, and keyword arguments of the constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params

from spark_dl.errors import OptionError, explain, hint
from spark_dl.options import Option

__all__ = ["OptionParams", "with_options"]

C = TypeVar("C", bound=type)


class OptionParams(Params):
    """Params that come from options. Subclasses are decorated with `with_options`."""

    options: tuple[Option, ...] = ()

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self._setDefault(**{option.name: option.default for option in self.options})
        self._set_options(values)

    def setParams(self, **values: Any) -> Any:
        """Set several params.

        Raises:
            OptionError: an unknown name, or a value that can't be used.
        """
        self._set_options(values)
        return self

    def _set_options(self, values: dict[str, Any]) -> None:
        names = {option.name for option in self.options}
        for name in values:
            if name not in names:
                raise OptionError(explain(f"{type(self).__name__} has no param {name!r}.", fix=hint(name, names)))
        self._set(**values)

    def _set(self, **values: Any) -> Any:
        """Set params. Spark converts and checks every value but None."""
        for option in self.options:
            if option.name in values and values[option.name] is None:
                option.check(None)
        return super()._set(**values)

    def _values(self) -> dict[str, Any]:
        """Every option's value, set or default."""
        return {option.name: self.getOrDefault(option.name) for option in self.options}


def with_options(*options: Option) -> Callable[[C], C]:
    """Give a class these options, beside those of its bases: a Param, a setter and a getter for each."""

    def decorate(cls: C) -> C:
        inherited = tuple(o for o in cls.options if o.name not in {new.name for new in options})  # type: ignore[attr-defined]
        cls.options = (*inherited, *options)  # type: ignore[attr-defined]
        for option in options:
            title = option.name[0].upper() + option.name[1:]
            setattr(cls, option.name, Param(Params._dummy(), option.name, option.doc, option.check))
            for made in (_setter(option, f"set{title}"), _getter(option, f"get{title}")):
                made.__qualname__ = f"{cls.__name__}.{made.__name__}"
                setattr(cls, made.__name__, made)
        _describe(cls)
        return cls

    return decorate


def _setter(option: Option, name: str) -> Callable[..., Any]:
    def setter(self: Any, value: Any) -> Any:
        return self._set(**{option.name: value})

    setter.__name__ = name
    setter.__doc__ = f"Set {option.name}. {option.doc}"
    return setter


def _getter(option: Option, name: str) -> Callable[..., Any]:
    def getter(self: Any) -> Any:
        return self.getOrDefault(option.name)

    getter.__name__ = name
    getter.__doc__ = f"{option.name}, set or default. {option.doc}"
    return getter


def _describe(cls: type) -> None:
    """Let `help`, notebooks and editors show the keyword arguments, and the docstring their meaning."""
    options: tuple[Option, ...] = cls.options  # type: ignore[attr-defined]
    keyword = inspect.Parameter.KEYWORD_ONLY
    cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(option.name, keyword, default=option.default) for option in options]
    )
    head = (cls.__doc__ or "").split("\n\n    Args:\n")[0].rstrip()
    lines = [f"        {option.name}: {option.doc} Default: {option.default!r}." for option in options]
    cls.__doc__ = head + "\n\n    Args:\n" + "\n".join(lines) + "\n"
