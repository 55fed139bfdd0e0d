"""`spark-dl doctor`: check the driver and every executor."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from spark_dl.cli.command import Command, add_flags
from spark_dl.cli.config import given_values, read_config
from spark_dl.cli.keys import DoctorKeys
from spark_dl.cli.output import write_result
from spark_dl.cli.session import session
from spark_dl.options import options_of

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, options_of(DoctorKeys))


def _run(given: argparse.Namespace) -> int:
    from spark_dl.diagnosis import doctor

    keys = read_config(given_values(given), DoctorKeys, ()).keys
    with session("doctor", keys) as spark:
        report = doctor(spark, cacheDir=keys.cache_dir)
    findings = [asdict(finding) for finding in report.findings]
    write_result("report", str(report), {"faults": len(report.faults), "findings": findings}, as_json=given.log_json)
    return 1 if report.faults else 0


COMMAND = Command("doctor", "check the driver and every executor", _add_arguments, _run)
