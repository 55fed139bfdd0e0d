"""`spark-dl score`: write rows with a fitted model's predictions."""

from __future__ import annotations

import argparse

from spark_dl.cli.command import Command, add_config_arguments
from spark_dl.cli.config import given_values
from spark_dl.cli.fitted import ConfiguredModel, read_score_config
from spark_dl.cli.keys import ScoreKeys
from spark_dl.cli.output import write_result
from spark_dl.cli.session import session
from spark_dl.errors import OptionError, explain

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, ScoreKeys, "score")


def _run(given: argparse.Namespace) -> int:
    config = read_score_config(given_values(given))
    keys = config.keys
    if (keys.output is None) == (keys.output_table is None):
        received = "neither" if keys.output is None else "both"
        raise OptionError(
            explain(
                "The scored rows need one output.",
                expected="output (a path) or outputTable",
                received=received,
                fix="Set one of them.",
            )
        )
    from spark_dl.cli.rows import write_rows  # late import: loads PySpark

    with session("score", keys) as spark:
        place = write_rows(ConfiguredModel.of(spark, config).scored(), keys)
    write_result("scored", f"scored rows written to {place}", {"output": place}, as_json=given.log_json)
    return 0


COMMAND = Command("score", "write rows with a fitted model's predictions", _add_arguments, _run)
