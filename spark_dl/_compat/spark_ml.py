"""Spark ML internals: Params of a class, and removing a saved directory. Checked with PySpark 4.0.

What Spark ML's own stages call or override, such as `_fit`, `_set`, `_setDefault`, `_resetUid` and `_copyValues`, isn't
here: it is how a stage is written in Python, and there is no other way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.ml.param import Param, Params
from pyspark.ml.util import MLWriter
from pyspark.sql import SparkSession

from spark_dl._compat.spark import is_connect

__all__ = ["class_param", "remove_directory"]


def class_param(name: str, doc: str, convert: Callable[[Any], Any]) -> Param[Any]:
    """Return a Param as an attribute of a class, which each instance copies (its parent is `Params._dummy()`)."""
    return Param(Params._dummy(), name, doc, convert)


def remove_directory(spark: SparkSession, path: str) -> None:
    """Remove a path by Spark's file systems, if it exists.

    Behind it are `MLWriter._handleOverwrite`, which needs a JVM, and `ml.connect.readwrite.RemoteMLWriter`.
    """
    if is_connect(spark):
        from pyspark.ml.connect.readwrite import RemoteMLWriter  # late import: needs gRPC

        RemoteMLWriter.handleOverwrite(path, True)
    else:
        MLWriter().session(spark)._handleOverwrite(path)
