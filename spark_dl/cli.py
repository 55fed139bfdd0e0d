"""The command line interface `spark-dl`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spark_dl.errors import SparkDLError
from spark_dl.redaction import redact

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["main"]

_MASTER = "Spark's master URL; that of spark-submit or local[*] without it"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `spark-dl`.

    Args:
        arguments: The command line arguments; those of the process by default.

    Returns:
        The exit code: 1 if the command fails or the doctor finds a fault, else 0. `ui` returns that of its server.
    """
    parser = argparse.ArgumentParser(prog="spark-dl", description="Deep learning inside Spark ML.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="check the driver and every executor")
    doctor.add_argument("--master", help=_MASTER)
    doctor.add_argument("--cache-dir", help="the directory that driver and executors share")
    doctor.set_defaults(run=_doctor)
    clean = commands.add_parser("clean", help="remove what killed drivers left in a cache directory")
    clean.add_argument("cache_dir")
    clean.set_defaults(run=_clean)
    train = commands.add_parser("train", help="repeat a fit from its MLflow run")
    train.add_argument("--from-run", required=True, metavar="RUN_ID", help="the run")
    train.add_argument("--data", metavar="PATH", help="the rows; without it those that the run names")
    train.add_argument("--format", default="parquet", help="of the rows, as Spark names it (parquet)")
    train.add_argument("--output", metavar="PATH", help="a new directory for the fitted model")
    train.add_argument("--master", help=_MASTER)
    train.set_defaults(run=_train)
    ui = commands.add_parser("ui", help="open the MLflow page on the store that is set (MLFLOW_TRACKING_URI)")
    ui.add_argument("--port", type=int, default=5000, help="of a page that is served here (5000)")
    ui.add_argument("--no-browser", action="store_true", help="only tell the address")
    ui.set_defaults(run=_ui)
    given = parser.parse_args(arguments)
    try:
        exit_code: int = given.run(given)
    except SparkDLError as error:
        sys.stderr.write(f"spark-dl: {error}\n")
        return 1
    return exit_code


@contextmanager
def _session(name: str, master: str | None) -> Iterator[SparkSession]:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(f"spark-dl {name}").config("spark.ui.enabled", "false")
    spark = (builder.master(master) if master else builder).getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()


def _doctor(given: argparse.Namespace) -> int:
    from spark_dl.diagnosis import doctor

    with _session("doctor", given.master) as spark:
        report = doctor(spark, cacheDir=given.cache_dir)
    sys.stdout.write(f"{report}\n")
    return 1 if report.faults else 0


def _clean(given: argparse.Namespace) -> int:
    from spark_dl.io.workspace import clean

    removed = clean(given.cache_dir)
    sys.stdout.write("".join(f"removed {url}\n" for url in removed) + f"{len(removed)} removed.\n")
    return 0


def _train(given: argparse.Namespace) -> int:
    from spark_dl.log_values import scalars
    from spark_dl.ml.repeat import repeat

    with _session("train", given.master) as spark:
        fitted = repeat(spark, given.from_run, given.data, given.format)
        if given.output:
            fitted.write().save(given.output)
    last = scalars({name: values[-1] for name, values in fitted.summary.history.items()})
    sys.stdout.write("  ".join(f"{name}={value:.4f}" for name, value in last.items()) + "\n")
    return 0


def _ui(given: argparse.Namespace) -> int:
    from spark_dl.track.runs import page

    address, command = page(given.port)
    sys.stdout.write(f"{redact(address)}\n")
    sys.stdout.flush()
    process = subprocess.Popen(command) if command else None
    try:
        if not given.no_browser and _answers(address, process):
            webbrowser.open(address)
        return process.wait() if process else 0
    except KeyboardInterrupt:  # Ctrl-C also ends the server
        return process.wait() if process else 0


def _answers(address: str, process: subprocess.Popen[bytes] | None) -> bool:
    """Wait until a page answers; return False if the process that serves it ends first."""
    while process is not None and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return True
        except OSError:
            time.sleep(0.2)
    return process is None


if __name__ == "__main__":
    sys.exit(main())
