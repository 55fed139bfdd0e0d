"""What a command is, and the arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spark_dl.cli.config import flag_of, flag_value
from spark_dl.options import Option, Options, options_of

__all__ = ["Command", "add_config_arguments", "add_flags"]


@dataclass(frozen=True)
class Command:
    """A command of `spark-dl`.

    Attributes:
        name: The name on the command line.
        help: What it does, in the list of commands.
        add_arguments: Adds its arguments to a parser.
        run: Runs it with the parsed arguments, and returns the exit code.
        more: What its own help says besides.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    more: str = ""

    @property
    def description(self) -> str:
        """The beginning of the command's own help."""
        first = self.help[0].upper() + self.help[1:]
        return f"{first}. {self.more}".strip()


def add_config_arguments(parser: argparse.ArgumentParser, record: type[Options], template: str) -> None:
    """Add the arguments of a command that reads a configuration file.

    Args:
        parser: The command's parser.
        record: The command's own keys, each of which gets a flag.
        template: The name of the commented configuration that `spark-dl docs` prints.
    """
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.yaml", help=f"the configuration (spark-dl docs {template} prints all keys)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="set a key, in place of the file's; the value is YAML; may be repeated",
    )
    add_flags(parser, options_of(record))


def add_flags(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Add a flag for each option: `--cache-dir` for cacheDir."""
    for option in options:
        is_switch = option.type == "bool"
        parser.add_argument(
            flag_of(option),
            dest=f"key {option.name}",
            default=argparse.SUPPRESS,
            metavar="true|false" if is_switch else option.name.upper(),
            help=option.doc.replace("%", "%%"),
            type=flag_value(option),
            nargs="?" if is_switch else None,
            const=True if is_switch else None,
        )
