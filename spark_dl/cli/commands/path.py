"""`spark-dl path`: print the file that spark-submit runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from spark_dl.cli.command import Command
from spark_dl.cli.output import write_result

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def _run(given: argparse.Namespace) -> int:
    file = str(Path(__file__).parents[1] / "__main__.py")
    write_result("path", file, {"path": file}, as_json=given.log_json)
    return 0


COMMAND = Command(
    "path",
    "print the path of the program for spark-submit",
    _add_arguments,
    _run,
    more="Use it as `spark-submit --master URL $(spark-dl path) train CONFIG.yaml`.",
)
