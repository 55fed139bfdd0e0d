"""`spark-dl clean`: remove what killed drivers left in a cache directory."""

from __future__ import annotations

import argparse

from spark_dl.cli.command import Command
from spark_dl.cli.output import write_result

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cache_dir", help="the cacheDir of the fits; run this on their driver's host")


def _run(given: argparse.Namespace) -> int:
    from spark_dl.io.workspace import clean

    removed = clean(given.cache_dir)
    text = "".join(f"removed {url}\n" for url in removed) + f"{len(removed)} removed."
    write_result("cleaned", text, {"removed": removed}, as_json=given.log_json)
    return 0


COMMAND = Command("clean", "remove what killed drivers left in a cache directory", _add_arguments, _run)
