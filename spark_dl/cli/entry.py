"""Parsing of the command line, and the exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

import spark_dl
from spark_dl.cli.output import json_log, write_result
from spark_dl.errors import OptionError, RankError, SparkDLError
from spark_dl.redaction import redact, redact_error

__all__ = ["main"]

_FAULT, _USAGE, _INTERRUPTED = 1, 2, 130
_EXIT_CODES = "Exit codes: 0 success, 1 fault, 2 wrong usage or configuration, 130 interrupted."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `spark-dl`.

    Args:
        arguments: The command line arguments; those of the process by default.

    Returns:
        The exit code: 1 for a fault, 2 for a configuration that can't be used, 130 after Ctrl-C, else 0. `ui` returns
        that of its server, and 0 after Ctrl-C.

    Raises:
        SystemExit: The arguments can't be parsed (code 2), or ask for help (code 0).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up lines aren't the command's output
    given = _parser().parse_args(arguments)
    with json_log() if given.log_json else contextlib.nullcontext():
        try:
            exit_code: int = given.run(given)
        except KeyboardInterrupt:
            return _failed(given, "interrupted", _INTERRUPTED)
        except SparkDLError as error:
            return _failed(given, str(error), _USAGE if isinstance(error, OptionError) else _FAULT, error)
        except Exception as error:
            redact_error(error)
            return _failed(given, _described(error), _FAULT, error)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    from spark_dl.cli.commands import COMMANDS

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--log-json", action="store_true", help="write JSON lines to stdout: progress and results")
    common.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(prog="spark-dl", description="Deep learning inside Spark ML.", epilog=_EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"spark_dl {spark_dl.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.name, help=command.help, description=command.description, epilog=_EXIT_CODES, parents=[common]
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _failed(given: argparse.Namespace, message: str, exit_code: int, error: Exception | None = None) -> int:
    """Report a failure on stderr, and as a JSON line if asked for; return the exit code."""
    if given.log_json:
        write_result("error", "", {"message": redact(message), "exit_code": exit_code}, as_json=True)
    if given.traceback and error is not None:
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
        if isinstance(error, RankError):
            sys.stderr.write(error.rank_traceback)
    sys.stderr.write(f"spark-dl: {redact(message)}\n")
    return exit_code


def _described(error: Exception) -> str:
    """Describe an error that isn't this package's in one line, without Java's stack trace."""
    from spark_dl.ml.spark_files import first_line

    return f"{type(error).__name__}: {first_line(error)} (--traceback shows where.)"
