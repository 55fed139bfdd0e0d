"""The command `spark-dl`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from spark_dl.errors import SparkDLError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 1 where it found a fault."""
    parser = argparse.ArgumentParser(prog="spark-dl", description="Deep learning inside Spark ML.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="check the driver and every executor")
    doctor.add_argument("--master", help="Spark's master URL; that of spark-submit or local[*] without it")
    doctor.add_argument("--cache-dir", help="the directory that driver and executors share")
    clean = commands.add_parser("clean", help="remove what killed drivers left in a cache directory")
    clean.add_argument("cache_dir")
    given = parser.parse_args(arguments)
    try:
        return _doctor(given.master, given.cache_dir) if given.command == "doctor" else _clean(given.cache_dir)
    except SparkDLError as error:
        sys.stderr.write(f"spark-dl: {error}\n")
        return 1


def _doctor(master: str | None, cache_dir: str | None) -> int:
    from pyspark.sql import SparkSession

    from spark_dl.diagnosis import doctor

    builder = SparkSession.builder.appName("spark-dl doctor").config("spark.ui.enabled", "false")
    spark = (builder.master(master) if master else builder).getOrCreate()
    try:
        report = doctor(spark, cacheDir=cache_dir)
    finally:
        spark.stop()
    sys.stdout.write(f"{report}\n")
    return 1 if report.faults else 0


def _clean(cache_dir: str) -> int:
    from spark_dl.workspace import clean

    removed = clean(cache_dir)
    sys.stdout.write("".join(f"removed {url}\n" for url in removed) + f"{len(removed)} removed.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
