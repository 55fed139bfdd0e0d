"""`spark-dl evaluate`: compute a fitted model's loss and metrics."""

from __future__ import annotations

import argparse

from spark_dl.cli.command import Command, add_config_arguments
from spark_dl.cli.config import given_values
from spark_dl.cli.fitted import ConfiguredModel, read_score_config
from spark_dl.cli.keys import ScoreKeys
from spark_dl.cli.output import metrics_text, write_result
from spark_dl.cli.session import session

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, ScoreKeys, "score")


def _run(given: argparse.Namespace) -> int:
    from spark_dl.log_values import scalars

    config = read_score_config(given_values(given))
    with session("evaluate", config.keys) as spark:
        metrics = ConfiguredModel.of(spark, config).evaluated()
    write_result("evaluated", metrics_text(scalars(metrics)), {"metrics": metrics}, as_json=given.log_json)
    return 0


COMMAND = Command(
    "evaluate",
    "compute a fitted model's loss and metrics on rows with labels",
    _add_arguments,
    _run,
    more="It reads the configuration of `score`; keys of the scored rows have no effect.",
)
