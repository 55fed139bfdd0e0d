"""The command line interface `spark-dl`."""

from __future__ import annotations

from spark_dl.cli.entry import main

__all__ = ["main"]
