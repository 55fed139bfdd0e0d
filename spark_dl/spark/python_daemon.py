"""Spark's Python daemon with TensorFlow imported, so that no Python worker has to import it.

Spark forks the Python workers of an executor from one daemon. This module in its place
(`spark.python.daemon.module=spark_dl.spark.python_daemon`) imports TensorFlow before the first fork: a scoring task
then starts at once, and the workers share the memory of what is imported.
"""

from __future__ import annotations

import os
import sys

from pyspark.daemon import manager

__all__: list[str] = []


def _import_without_output() -> None:
    """Import what scoring needs. Spark reads the daemon's port from its standard output: nothing else is written there."""
    protocol = os.dup(1)
    os.dup2(2, 1)
    try:
        import keras
        import pandas
        import pyarrow
        import tensorflow  # noqa: F401

        import spark_dl.score.predict  # noqa: F401
    finally:
        sys.stdout.flush()
        os.dup2(protocol, 1)
        os.close(protocol)


if __name__ == "__main__":
    _import_without_output()
    manager()
