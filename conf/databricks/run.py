"""Program of a Databricks job: `spark-dl` with the task's parameters."""

from __future__ import annotations

import sys

from spark_dl.cli import main

# A job's Python takes every SystemExit for a failure, also that of exit code 0.
if code := main(sys.argv[1:]):
    sys.exit(code)
