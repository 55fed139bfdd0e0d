"""`spark-dl train`: fit a model as a configuration says, or repeat a fit from its run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spark_dl.cli.command import Command, add_config_arguments
from spark_dl.cli.config import given_values, read_config
from spark_dl.cli.fits import ConfiguredFit, check_output, read_train_config
from spark_dl.cli.keys import OutputKeys, RepeatKeys, TrainKeys
from spark_dl.cli.output import metrics_text, write_result
from spark_dl.cli.session import session
from spark_dl.errors import OptionError, explain
from spark_dl.options import options_of
from spark_dl.quiet import quiet_start

if TYPE_CHECKING:
    from spark_dl.ml.model import KerasModel

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, TrainKeys, "train")
    parser.add_argument("--from-run", metavar="RUN_ID", help="repeat the fit of this MLflow run; without CONFIG.yaml")
    parser.add_argument(
        "--dry-run", action="store_true", help="print which column feeds what, and the cluster's slots; train nothing"
    )


def _run(given: argparse.Namespace) -> int:
    if given.from_run is not None:
        return _repeat(given)
    config = read_train_config(given_values(given))
    with session("train", config.keys) as spark:
        check_output(spark, config.keys)
        fit = ConfiguredFit.of(spark, config, log_json=given.log_json)
        if given.dry_run:
            plan, slots = fit.estimator.plan(fit.rows), fit.slots()
            fields = {"columns": [vars(column) for column in plan.columns], "notes": plan.notes, "slots": slots}
            write_result("plan", f"{plan}\n{slots}", fields, as_json=given.log_json)
        else:
            _save(fit.estimator.fit(fit.rows), config.keys, as_json=given.log_json)
    return 0


def _repeat(given: argparse.Namespace) -> int:
    from spark_dl.ml.repeat import repeat

    values = given_values(given)
    known = [option.name for option in options_of(RepeatKeys)]
    others = [name for name in values if name not in known]
    if others or given.config or given.dry_run:
        raise OptionError(
            explain(
                "--from-run takes the options from the run.",
                expected=f"no CONFIG.yaml, no --dry-run, and no keys but {', '.join(known)}",
                received=", ".join(others) or given.config or "--dry-run",
                fix="Leave them out, or train from a configuration.",
            )
        )
    keys = read_config(values, RepeatKeys, ()).keys
    with session("train", keys) as spark:
        check_output(spark, keys)
        quiet_start()
        _save(repeat(spark, given.from_run, keys.data, keys.format), keys, as_json=given.log_json)
    return 0


def _save(fitted: KerasModel, keys: OutputKeys, *, as_json: bool) -> None:
    """Save the fitted model where the keys say; write its last metrics, its path and its MLflow run."""
    from spark_dl.log_values import scalars

    if keys.output is not None:
        writer = fitted.write()
        (writer.overwrite() if keys.overwrite else writer).save(keys.output)
    summary = fitted.summary
    last = scalars({name: values[-1] for name, values in summary.history.items()})
    places = {"fitted model written to": keys.output, "MLflow run": summary.run_id}
    text = "\n".join([metrics_text(last), *(f"{name} {place}" for name, place in places.items() if place)])
    fields = {"rows": summary.rows, "seconds": summary.seconds, "output": keys.output, "run_id": summary.run_id or None}
    write_result("trained", text, {"metrics": last, **fields}, as_json=as_json)


COMMAND = Command(
    "train",
    "fit a model as a configuration says, or repeat a fit from its MLflow run",
    _add_arguments,
    _run,
    more="The last metrics, the path of the fitted model and its run are written to stdout, the progress to stderr.",
)
