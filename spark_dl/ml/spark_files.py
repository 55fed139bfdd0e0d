"""Queries to Spark's file systems without a Spark job: the URL of a path, and whether it has files."""

from __future__ import annotations

import re
import uuid

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from spark_dl.errors import SavedModelError, explain
from spark_dl.io.paths import spark_pattern

__all__ = ["first_line", "has_files", "resolved"]


def resolved(spark: SparkSession, path: str) -> str:
    """Resolve a path to a URL by Spark's default file system and working directory.

    Args:
        spark: The Spark session.
        path: A path or URL.

    Raises:
        SavedModelError: Spark can't open the path.
    """
    try:
        # Spark's error on a missing path contains its URL.
        _listed(spark, f"{path.rstrip('/')}/{uuid.uuid4().hex}")
    except AnalysisException as error:
        url = (error.getMessageParameters() or {}).get("path", "")
        return re.sub(r"\\(.)", r"\1", url).rpartition("/")[0]
    except Exception as error:
        raise _unopened(path, error) from error
    return path


def has_files(spark: SparkSession, path: str) -> bool:
    """Return whether a path is a file, or a directory with files in it.

    Args:
        spark: The Spark session.
        path: A path or URL.

    Raises:
        SavedModelError: Spark can't open the path.
    """
    try:
        return bool(_listed(spark, path).inputFiles())
    except AnalysisException as error:
        if "PATH_NOT_FOUND" in str(error):
            return False
        raise _unopened(path, error) from error
    except Exception as error:
        raise _unopened(path, error) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without Py4J's prefix and the Java stack trace."""
    lines = [line.removeprefix(": ") for line in str(error).strip().splitlines()]
    if lines and lines[0].startswith("An error occurred while calling") and len(lines) > 1:
        return lines[1]
    return lines[0] if lines else type(error).__name__


def _listed(spark: SparkSession, path: str) -> DataFrame:
    # Twice: of one path alone, Spark looks for a streaming query's metadata, and logs a stack trace if it's missing.
    return spark.read.format("binaryFile").option("recursiveFileLookup", "true").load([spark_pattern(path)] * 2)


def _unopened(path: str, error: Exception) -> SavedModelError:
    return SavedModelError(
        explain(
            f"Spark can't open {path}.",
            expected="a path or URL of a file system that Spark knows",
            received=first_line(error),
            fix="Check the URL, and that Spark has the file system's jar.",
        )
    )
