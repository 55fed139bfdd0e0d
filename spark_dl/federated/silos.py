"""The silos of a DataFrame: found by one Spark job, checked, and each converted to separate blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl.data.column import quoted
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import ClusterError, DataError, OptionError, explain
from spark_dl.io.store import Store
from spark_dl.spark.job import SparkJob

__all__ = ["Silo", "check_named", "check_slots", "convert_silos", "find_silos"]

# A column with more values hardly names silos; each needs a slot.
_MOST = 1000
_SHOWN = 8


@dataclass(frozen=True)
class Silo:
    """One silo.

    Attributes:
        value: Its value in the column of silos.
        rows: The number of its rows in the DataFrame.
    """

    value: Any
    rows: int

    @property
    def name(self) -> str:
        """Its name in metrics and messages."""
        return str(self.value)


def find_silos(dataset: DataFrame, column: str) -> list[Silo]:
    """Count the rows of each silo, by a Spark job.

    Returns:
        The silos in the order of their values.

    Raises:
        DataError: There are no rows, rows without a silo, fewer than two silos, or more than a column of silos has.
    """
    counted = dataset.groupBy(F.col(quoted(column)).alias("silo")).count().limit(_MOST + 2)
    with SparkJob(counted) as job:
        rows = job.rows()
    silos = sorted((Silo(row["silo"], row["count"]) for row in rows if row["silo"] is not None), key=lambda s: s.value)
    nulls = sum(row["count"] for row in rows if row["silo"] is None)
    if nulls:
        raise DataError(
            explain(
                f"Rows belong to no silo: the column {column!r} has nulls.",
                expected="a value in each row",
                received=f"{nulls:,} rows with a null",
                fix="Fill them, or filter them out before the fit.",
            )
        )
    if not 2 <= len(silos) <= _MOST:
        found = f"more than {_MOST}" if len(silos) > _MOST else f"{len(silos)}: {shown(silos)}" if silos else "no rows"
        raise DataError(
            explain(
                f"The column {column!r} doesn't divide the rows into silos.",
                expected=f"2 to {_MOST} different values, one for each rank",
                received=found,
                fix="Name another column, or use estimator.fit if the rows needn't be isolated.",
            )
        )
    return silos


def shown(silos: Sequence[Silo]) -> str:
    """Return the names of silos for a message, of many only the first."""
    return ", ".join(silo.name for silo in silos[:_SHOWN]) + (", ..." if len(silos) > _SHOWN else "")


def check_named(silos: Sequence[Silo], named: Sequence[Any] | None, column: str) -> None:
    """Check that the silos are those that were named, if any were.

    Raises:
        DataError: A named silo has no rows, or there are rows of others.
    """
    if named is None:
        return
    values = {silo.value for silo in silos}
    absent = [repr(value) for value in dict.fromkeys(named) if value not in values]  # '0' isn't 0
    if absent:
        raise DataError(
            explain(
                f"Silos have no rows: {', '.join(absent[:_SHOWN])}{', ...' if len(absent) > _SHOWN else ''}.",
                expected="rows of each silo that is named in silos",
                received=f"{column}: {', '.join(repr(silo.value) for silo in silos[:_SHOWN])}",
                fix="Write values of the column's type, leave the silos out, or wait for their rows.",
            )
        )
    others = [silo for silo in silos if silo.value not in named]
    if others:
        raise DataError(
            explain(
                f"Silos have rows and aren't named in silos: {shown(others)}.",
                expected="all values of the column, or silos=None",
                received=f"{len(others)} further values of {column}",
                fix="Name them, or filter their rows out before the fit.",
            )
        )


def check_slots(silos: Sequence[Silo], workers: int | None, slots: int | None) -> None:
    """Check that there is one rank for each silo, and a slot for each rank.

    Args:
        silos: The silos.
        workers: The number of ranks that the estimator sets; None if it doesn't.
        slots: The number of slots; None if only the cluster manager knows it.

    Raises:
        OptionError: numWorkers is set to another number.
        ClusterError: There are more silos than slots.
    """
    if workers is not None and workers != len(silos):
        raise OptionError(
            explain(
                f"numWorkers={workers}, but there are {len(silos)} silos.",
                expected="one rank for each silo",
                received=f"{len(silos)} silos: {shown(silos)}",
                fix="Leave numWorkers out: it follows from the silos.",
            )
        )
    if slots is not None and len(silos) > slots:
        raise ClusterError(
            explain(
                f"{len(silos)} silos are more than the cluster's {slots} slots.",
                expected=f"at most {slots} silos: each needs a rank, and all ranks run at the same time",
                received=f"{len(silos)} silos: {shown(silos)}",
                fix="Give the application more executors or cores, join silos, or train on some of them.",
            )
        )


def convert_silos(
    dataset: DataFrame,
    column: str,
    silos: Sequence[Silo],
    convert: Callable[[DataFrame, Store], ConvertedDataset],
    workspace: Store,
) -> ConvertedDataset:
    """Convert each silo's rows to blocks in a separate directory, one silo after the other.

    Args:
        dataset: The DataFrame.
        column: The column of silos.
        silos: The silos.
        convert: Converts a DataFrame's rows to blocks below a directory.
        workspace: The workspace of the fit.

    Returns:
        The dataset of all silos; each block has the number of its silo.

    Raises:
        DataError: A silo has no training rows, or no validation rows where others have some.
    """
    parts = []
    for number, silo in enumerate(silos):
        name = f"silo-{number:04d}"
        found = convert(dataset.where(F.col(quoted(column)) == F.lit(silo.value)), workspace.child(name))
        below = PurePosixPath(found.store.path).relative_to(workspace.path)
        blocks = [replace(block, name=f"{below}/{block.name}", silo=number) for block in found.blocks]
        parts.append(replace(found, store=workspace, blocks=tuple(blocks)))
    for validation in (False, True):
        without = [silo for silo, part in zip(silos, parts, strict=True) if not part.rows(validation)]
        if without and not (validation and len(without) == len(silos)):
            raise DataError(
                explain(
                    f"Silos have no {'validation' if validation else 'training'} rows: {shown(without)}.",
                    expected="at least one in each silo" + (", or in none" if validation else ""),
                    received="; ".join(
                        f"{silo.name}: {part.rows(False)} training and {part.rows(True)} validation rows"
                        for silo, part in [*zip(silos, parts, strict=True)][:_SHOWN]
                    ),
                    fix="Check validationCol, validationFraction and nullPolicy, or filter such silos out.",
                )
            )
    blocks = [block for part in parts for block in part.blocks]
    return replace(parts[0], blocks=tuple(blocks), bytes=sum(part.bytes for part in parts))
