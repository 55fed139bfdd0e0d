"""The declaration of options as fields of frozen dataclasses, with a doc, a check and a rule for resumed fits."""

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
# The rule for an option's value in a resumed fit: "same" as before; any that results in the same "model" or "rows"; or
# "any", for options that change how, and not what, is trained.
Resume = Literal["same", "model", "rows", "any"]


def option(doc: str, check: Callable[[Any], T], default: D, *, on_resume: Resume, secret: bool = False) -> T | D:
    """Declare an option as a field of an options record.

    Args:
        doc: The description in explainParams and in the documentation.
        check: Returns a value converted to the option's type, or raises `RefusedError`.
        default: The default value; None for "not set".
        on_resume: The rule for the value in a resumed fit.
        secret: Whether values are left out of what is shown, logged, saved and raised.
    """
    metadata = {"doc": doc, "check": check, "on_resume": on_resume, "secret": secret}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """The declaration of one option.

    Attributes:
        field: The name of the field in the record, in snake_case.
        doc: The description in explainParams and in the documentation.
        convert: Returns a value converted to the option's type, or raises `RefusedError`.
        default: The default value.
        on_resume: The rule for the value in a resumed fit.
        type: The annotation of the field.
        secret: Whether values are left out of what is shown, logged, saved and raised.
    """

    field: str
    doc: str
    convert: Callable[[Any], Any]
    default: Any
    on_resume: Resume
    type: str
    secret: bool = False

    @property
    def name(self) -> str:
        """The public name of the option and its Spark Param, in camelCase."""
        first, *others = self.field.split("_")
        return first + "".join(part.capitalize() for part in others)

    def check(self, value: Any) -> Any:
        """Check a value and convert it to the option's type.

        Args:
            value: The value; None is accepted if it is the default.

        Returns:
            The converted value.

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
                    received=f"{self.name}={'***' if self.secret else repr(value)} ({type(value).__name__})",
                    fix=f"{self.name}: {self.doc}",
                )
            ) from None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the options records, which are frozen; `dataclasses.replace` makes changed copies."""

    def by_name(self) -> dict[str, Any]:
        """Return the values by the public names of their options."""
        return {option.name: getattr(self, option.field) for option in options_of(type(self))}

    def checked(self) -> Self:
        """Check all values; return a record of the values converted to their options' types.

        Raises:
            OptionError: A value can't be used.
        """
        found = {option.field: option.check(getattr(self, option.field)) for option in options_of(type(self))}
        return dataclasses.replace(self, **found)

    def part(self, group: type[R]) -> R:
        """Return the values of a group of options as a record of that group.

        Args:
            group: The class of the group, a base of this record's class.
        """
        return group(**{option.field: getattr(self, option.field) for option in options_of(group)})


def options_of(record: type[Options]) -> tuple[Option, ...]:
    """Return the options that a record declares or inherits."""
    return tuple(
        Option(
            field=field.name,
            doc=field.metadata["doc"],
            convert=field.metadata["check"],
            default=field.default,
            on_resume=field.metadata["on_resume"],
            type=str(field.type),
            secret=field.metadata["secret"],
        )
        for field in dataclasses.fields(record)
        if field.metadata
    )
