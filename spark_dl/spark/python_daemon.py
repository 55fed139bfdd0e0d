"""Spark's Python daemon with TensorFlow imported, so that no Python worker has to import it.

Spark forks the Python workers of an executor from one daemon. This module in its place
(`spark.python.daemon.module=spark_dl.spark.python_daemon`) imports TensorFlow before the first fork: a scoring task
then starts at once, and the workers share the memory of what is imported.
"""

from __future__ import annotations

import importlib
import os
import sys

from spark_dl._compat.spark import run_python_daemon
from spark_dl.quiet import quiet_imports
from spark_dl.spark.python_worker import settle_imports

__all__ = ["main"]

_MODULES = ("tensorflow", "keras", "pandas", "pyarrow", "spark_dl.score.predict")


def _import_all() -> None:
    """Import what scoring needs. Nothing may be written to the standard output, where Spark reads the daemon's port."""
    protocol = os.dup(1)
    os.dup2(2, 1)
    try:
        with quiet_imports():  # of the executor's standard error, which local mode shows in the notebook
            for name in _MODULES:
                importlib.import_module(name)
        settle_imports()
    finally:
        sys.stdout.flush()
        os.dup2(protocol, 1)
        os.close(protocol)


def main() -> None:
    """Import what scoring needs, then fork workers as Spark's own daemon does.

    Where something can't be imported, one line says so and workers start without it: queries that don't score work,
    and scoring names what is missing.
    """
    try:
        _import_all()
    except ImportError as error:
        sys.stderr.write(
            f"spark_dl.spark.python_daemon: {sys.executable} can't import what scoring needs ({error}). Python workers "
            "start without it. If the driver's Python is another, set PYSPARK_PYTHON to it before the session starts.\n"
        )
        sys.stderr.flush()
    run_python_daemon()


if __name__ == "__main__":
    main()
