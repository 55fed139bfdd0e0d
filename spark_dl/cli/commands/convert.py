"""`spark-dl convert`: convert the rows of a training configuration, and train nothing."""

from __future__ import annotations

import argparse
import time

from spark_dl.cli.command import Command, add_config_arguments
from spark_dl.cli.config import given_values
from spark_dl.cli.fits import ConfiguredFit, read_train_config
from spark_dl.cli.keys import TrainKeys
from spark_dl.cli.output import write_result
from spark_dl.cli.session import session

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, TrainKeys, "train")


def _run(given: argparse.Namespace) -> int:
    config = read_train_config(given_values(given))
    with session("convert", config.keys) as spark:
        fit = ConfiguredFit.of(spark, config, log_json=given.log_json)
        begun = time.monotonic()
        with fit.estimator.convert(fit.rows) as converted:
            fields = {
                "rows": converted.rows,
                "validation_rows": converted.validationRows,
                "bytes": converted.bytes,
                "seconds": round(time.monotonic() - begun, 3),
            }
    text = (
        f"{fields['rows']:,} rows for training, {fields['validation_rows']:,} for validation, "
        f"{fields['bytes'] / 1e6:,.1f} MB in {fields['seconds']:.1f} s"
    )
    write_result("converted", text, fields, as_json=given.log_json)
    return 0


COMMAND = Command(
    "convert",
    "check and convert all rows of a training configuration, and train nothing",
    _add_arguments,
    _run,
    more="It finds values that training would reject, and prints how much room cacheDir needs. The converted rows are "
    "removed at the end.",
)
