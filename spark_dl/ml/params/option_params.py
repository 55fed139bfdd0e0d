"""Spark ML Params made from options, with setters, getters, checks, and keyword arguments of the constructor."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from pyspark.ml.param import Params

from spark_dl._compat.spark_ml import class_param
from spark_dl.errors import OptionError, explain, hint
from spark_dl.options import Option, Options, options_of

__all__ = ["OptionParams", "with_options"]

_INDENT = "    "
_WIDTH = 110  # of a docstring's lines; `help` puts some characters before them

C = TypeVar("C", bound="type[OptionParams]")


class OptionParams(Params):
    """Params made from an options record. Subclasses are decorated with `with_options`.

    Attributes:
        options_class: The options record.
        options: The options that the record declares.
    """

    options_class: ClassVar[type[Options]] = Options
    options: ClassVar[tuple[Option, ...]] = ()

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self._setDefault(**{option.name: option.default for option in self.options})
        self._set_options(values)
        self._init_state()

    def setParams(self, **values: Any) -> Any:
        """Set several params.

        Raises:
            OptionError: There is no param of a name, or a value can't be used.
        """
        self._set_options(values)
        return self

    def _init_state(self) -> None:
        """Set the attributes of a new instance that aren't params."""

    def _set_options(self, values: dict[str, Any]) -> None:
        names = {option.name for option in self.options}
        for name in values:
            if name not in names:
                raise OptionError(
                    explain(
                        f"{type(self).__name__} has no param {name!r}.",
                        expected=f"a param of {type(self).__name__}",
                        received=name,
                        fix=hint(name, names),
                    )
                )
        self._set(**values)

    def _set(self, **values: Any) -> Any:
        """Set params; also check None, which Spark doesn't pass to converters."""
        for option in self.options:
            if option.name in values and values[option.name] is None:
                option.check(None)
        return super()._set(**values)

    def _options(self) -> Options:
        """Return the options record with every param's value, set or default."""
        return self.options_class(**{option.field: self.getOrDefault(option.name) for option in self.options})


def with_options(options_class: type[Options]) -> Callable[[C], C]:
    """Add a Param, a setter and a getter to a class for each option of a record that its bases lack.

    Args:
        options_class: The options record: that of the class's bases, or a subclass of it.
    """

    def decorate(cls: C) -> C:
        if not issubclass(options_class, cls.options_class):
            raise TypeError(f"{options_class.__name__} isn't a subclass of {cls.options_class.__name__}.")
        inherited = cls.options
        cls.options_class, cls.options = options_class, options_of(options_class)
        for option in cls.options:
            if option not in inherited:
                _add_param(cls, option)
        _describe(cls)
        return cls

    return decorate


class _WrappedSignature(inspect.Signature):
    """Signature whose text has several lines, since `help` prints it as it is, before the docstring."""

    def __str__(self) -> str:
        text = ", ".join(["*", *map(str, self.parameters.values())])
        lines = textwrap.wrap(text, 88, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)
        return "\n".join(["(", *lines, ")"])


def _add_param(cls: type[OptionParams], option: Option) -> None:
    title = option.name[0].upper() + option.name[1:]
    setattr(cls, option.name, class_param(option.name, option.doc, option.check))
    for made in (_setter(option, f"set{title}"), _getter(option, f"get{title}")):
        made.__qualname__ = f"{cls.__name__}.{made.__name__}"
        setattr(cls, made.__name__, made)


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
    getter.__doc__ = f"Return the value of {option.name}, set or default."
    return getter


def _describe(cls: type[OptionParams]) -> None:
    """Add the options to a class's signature and docstring, which `help`, notebooks and editors show."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = _WrappedSignature(
        [inspect.Parameter(option.name, keyword, default=option.default) for option in cls.options]
    )
    cls.__signature__ = signature  # type: ignore[attr-defined]
    head = (cls.__doc__ or "").split("\n\n    Args:\n")[0].rstrip()
    texts = (f"{option.name}: {option.doc} Default: {option.default!r}." for option in cls.options)
    lines = [
        textwrap.fill(text, _WIDTH, initial_indent=2 * _INDENT, subsequent_indent=3 * _INDENT, break_on_hyphens=False)
        for text in texts
    ]
    cls.__doc__ = head + "\n\n    Args:\n" + "\n".join(lines) + "\n"
