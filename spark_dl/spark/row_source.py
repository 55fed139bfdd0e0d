"""Where the rows of a DataFrame come from: the files and the tables that it reads."""

from __future__ import annotations

import contextlib
import re
import uuid
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

__all__ = ["RowSource"]

# A table in an analyzed plan has its catalog's name in front; an alias of the user's has no dot.
_TABLE = re.compile(r"SubqueryAlias ((?:[^\s`]|`[^`]*`)+\.(?:[^\s`]|`[^`]*`)+)$", re.MULTILINE)


@dataclass(frozen=True)
class RowSource:
    """Where the rows of a DataFrame come from.

    Attributes:
        files: The URLs of the files; empty if Spark doesn't know them, as of Iceberg's tables.
        tables: The full names of the tables, in the order of the plan.
    """

    files: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    @staticmethod
    def of(frame: DataFrame) -> RowSource:
        """Find the source of a DataFrame from its plan, without a Spark job.

        Args:
            frame: The DataFrame.
        """
        return RowSource(tuple(frame.inputFiles()), _tables(frame))


def _tables(frame: DataFrame) -> tuple[str, ...]:
    with contextlib.suppress(Exception):  # only for the log
        # Spark makes a temporary view and drops it, and with it whatever is cached of the view's plan: so not the
        # DataFrame's own.
        other = frame.where(F.lit(uuid.uuid4().hex).isNotNull())
        plan = str(frame.sparkSession.sql("EXPLAIN EXTENDED SELECT * FROM {frame}", frame=other).collect()[0][0])
        analyzed = plan.partition("== Analyzed Logical Plan ==")[2].partition("== Optimized Logical Plan ==")[0]
        return tuple(dict.fromkeys(_TABLE.findall(analyzed)))
    return ()
