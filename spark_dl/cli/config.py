"""Reading of configurations: YAML with flat keys, `--set key=value` and flags, checked against the declared keys."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from spark_dl.errors import OptionError, explain, hint
from spark_dl.options import Option, Options, all_options, options_of

__all__ = ["Config", "checked_keys", "flag_of", "flag_value", "given_values", "read_config"]

K = TypeVar("K", bound=Options)


@dataclass(frozen=True)
class Config(Generic[K]):
    """A checked configuration.

    Attributes:
        keys: The command's own keys, with their defaults.
        options: The options that are set, by their public names.
    """

    keys: K
    options: dict[str, Any]


def flag_of(option: Option) -> str:
    """Return an option's flag: `--cache-dir` for cacheDir."""
    return "--" + option.field.replace("_", "-")


def flag_value(option: Option) -> Callable[[str], Any]:
    """Return the conversion of a flag's text: none for texts, YAML for all others."""
    return str if option.type in ("str", "str | None") else _yaml_value


def given_values(given: argparse.Namespace) -> dict[str, Any]:
    """Merge the file, the flags and `--set` of a command line; the later ones win.

    Args:
        given: The parsed arguments.

    Raises:
        OptionError: The file can't be read, isn't YAML or no mapping, or an assignment isn't key=value.
    """
    values = _file_values(given.config) if getattr(given, "config", None) else {}
    prefix = "key "
    values |= {name.removeprefix(prefix): value for name, value in vars(given).items() if name.startswith(prefix)}
    for assignment in getattr(given, "assignments", ()):
        name, sign, text = assignment.partition("=")
        if not sign or not name.strip():
            received = next((one.name for one in all_options() if one.secret and one.name in assignment), assignment)
            raise OptionError(
                explain("--set can't be read.", expected="--set key=value", received=received, fix="Write key=value.")
            )
        values[name.strip()] = _parsed(text, f"The value of {name.strip()}")  # by its name, as it may be a secret
    return values


def read_config(values: Mapping[str, Any], keys: type[K], options: Sequence[Option]) -> Config[K]:
    """Check values against the declared keys and options.

    Args:
        values: The values by key.
        keys: The record of the command's own keys.
        options: The options that are keys, too.

    Raises:
        OptionError: There is no key of a name, or a value can't be used.
    """
    named = {one.name: one for one in options}
    own = {one.name for one in options_of(keys)}
    for name in values:
        if name not in own and name not in named:
            near = hint(str(name), [*own, *named])
            fix = near if near.startswith("Did") else "`spark-dl docs` prints all keys."
            raise OptionError(
                explain(f"There is no key {name!r}.", expected="a key of this configuration", received=name, fix=fix)
            )
    return Config(
        keys=checked_keys({name: value for name, value in values.items() if name in own}, keys),
        options={name: named[name].check(value) for name, value in values.items() if name in named},
    )


def checked_keys(values: Mapping[str, Any], keys: type[K]) -> K:
    """Return the record of a command's own keys, checked.

    Args:
        values: The values by key; others have their defaults.
        keys: The class of the record.

    Raises:
        OptionError: A value can't be used.
    """
    return keys(**{one.field: one.check(values[one.name]) for one in options_of(keys) if one.name in values})


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that occurs twice, and reads 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", mark)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


# YAML 1.1 takes numbers without a point, such as 1e-3, for text.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def _yaml_value(text: str) -> Any:
    return _parsed(text, f"The value {text!r}")


def _file_values(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            explain(
                f"The configuration {path} can't be read.",
                expected="a YAML file in UTF-8",
                received=getattr(error, "strerror", None) or str(error),
                fix="`spark-dl docs train > train.yaml` writes one to start from.",
            )
        ) from error
    values = _parsed(text, path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise OptionError(
            explain(
                f"{path} isn't a configuration.",
                expected="lines of `key: value`",
                received=type(values).__name__,
                fix="`spark-dl docs` prints all keys.",
            )
        )
    return values


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506, a subclass of the safe loader
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise OptionError(
            explain(
                f"{where} isn't YAML.",
                expected="YAML 1.1",
                received=f"{problem or type(error).__name__}{place}",
                fix="Quote texts with special characters.",
            )
        ) from error
