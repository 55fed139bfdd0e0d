"""How an option is declared: a field of a frozen record, with its meaning, its check and its rule for resuming."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from spark_dl.errors import OptionError, explain
from spark_dl.options.checks import RefusedError

__all__ = ["Option", "Options", "Resume", "option", "options_of"]

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R", bound="Options")
# What a resumed fit needs of an option: the same value, or one that makes the same model or rows; or any value, where
# the option changes how, and not what, is trained.
Resume = Literal["same", "model", "rows", "any"]


def option(doc: str, check: Callable[[Any], T], default: D, *, on_resume: Resume) -> T | D:
    """Declare an option as a field of a record.

    Args:
        doc: One sentence, for explainParams and the documentation.
        check: Gives a value in its proper type, or raises `RefusedError`.
        default: The value where none is set; None for "not set".
        on_resume: What a resumed fit needs of it.
    """
    metadata = {"doc": doc, "check": check, "on_resume": on_resume}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """The declaration of one option.

    Attributes:
        field: The name in the record, in snake_case.
        doc: One sentence.
        convert: Gives the value in its proper type, or raises `RefusedError`.
        default: The value where none is set.
        on_resume: What a resumed fit needs of it.
        type: The field's annotation.
    """

    field: str
    doc: str
    convert: Callable[[Any], Any]
    default: Any
    on_resume: Resume
    type: str

    @property
    def name(self) -> str:
        """The public name, of the Spark Param: in camelCase."""
        first, *others = self.field.split("_")
        return first + "".join(part.capitalize() for part in others)

    def __reduce__(self) -> tuple[Callable[[str], Option], tuple[str]]:
        """Pickle by name: the check may be a function within another."""
        from spark_dl.options import declared

        return declared, (self.name,)

    def check(self, value: Any) -> Any:
        """Give the value in its proper type; None where the option may be unset.

        Raises:
            OptionError: The value can't be used.
        """
        if value is None and self.default is None:
            return None
        try:
            return self.convert(value)
        except RefusedError as refused:
            raise OptionError(
                explain(
                    f"{self.name} can't have this value.",
                    expected=refused,
                    received=f"{self.name}={value!r} ({type(value).__name__})",
                    fix=f"{self.name}: {self.doc}",
                )
            ) from None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the records of options. `dataclasses.replace` gives one with other values."""

    def by_name(self) -> dict[str, Any]:
        """Each value by the public name of its option."""
        return {option.name: getattr(self, option.field) for option in options_of(type(self))}

    def checked(self) -> Self:
        """Check each value, and give the record of the values in their proper types.

        Raises:
            OptionError: A value can't be used.
        """
        found = {option.field: option.check(getattr(self, option.field)) for option in options_of(type(self))}
        return dataclasses.replace(self, **found)

    def part(self, group: type[R]) -> R:
        """Give the values of one of the groups that this record is made of."""
        return group(**{option.field: getattr(self, option.field) for option in options_of(group)})


def options_of(record: type[Options]) -> tuple[Option, ...]:
    """List the options that a record declares or inherits."""
    return tuple(
        Option(
            field=field.name,
            doc=field.metadata["doc"],
            convert=field.metadata["check"],
            default=field.default,
            on_resume=field.metadata["on_resume"],
            type=str(field.type),
        )
        for field in dataclasses.fields(record)
        if field.metadata
    )
