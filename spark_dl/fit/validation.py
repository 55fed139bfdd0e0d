"""Rows for validation from a DataFrame of their own: joined with the training rows, and marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, StructField, StructType

from spark_dl.data.column import Column
from spark_dl.data.schema import check_column, quoted
from spark_dl.errors import DataError, OptionError, explain, hint
from spark_dl.options import DataOptions, EstimatorOptions

__all__ = ["marked", "marked_schema", "marking"]

# The column that marks the rows of validationData.
_MARK = "spark_dl_validation"


def marking(options: EstimatorOptions) -> EstimatorOptions:
    """The options, with validationCol as the mark where there is validationData.

    Raises:
        OptionError: there is another way to choose rows for validation, too; or it is no DataFrame.
    """
    if options.validation_data is None:
        return options
    if options.validation_col or options.validation_fraction:
        raise OptionError(
            explain(
                "validationData excludes validationCol and validationFraction.",
                expected="one of the three",
                received=f"validationCol={options.validation_col!r}, "
                f"validationFraction={options.validation_fraction}, and validationData",
            )
        )
    if not hasattr(options.validation_data, "schema"):
        raise OptionError(
            explain(
                "validationData can't be used.",
                expected="a DataFrame",
                received=type(options.validation_data).__name__,
            )
        )
    return replace(options, validation_col=_MARK)


def marked_schema(schema: StructType, options: DataOptions) -> StructType:
    """The columns, with the mark where there is validationData."""
    mark = [StructField(_MARK, BooleanType())] if options.validation_data is not None else []
    return StructType([*schema.fields, *mark])


def marked(frame: DataFrame, options: DataOptions, columns: Sequence[Column]) -> DataFrame:
    """The rows for training and, where there is validationData, its rows, marked.

    Args:
        frame: the rows for training.
        options: those of rows.
        columns: what is read; the mark among them, where there is validationData.

    Raises:
        DataError: validationData doesn't have these columns, in the same types.
    """
    held = options.validation_data
    if held is None:
        return frame
    names = [name for name in dict.fromkeys(column.name for column in columns) if name != _MARK]
    for name in names:
        if name in held.columns:
            check_column(held.schema, name, "validationData")
        found = held.schema[name].dataType.simpleString() if name in held.columns else None
        wanted = frame.schema[name].dataType.simpleString()
        if found != wanted:
            raise DataError(
                explain(
                    f"validationData doesn't have the column {name!r} as the training rows have it.",
                    expected=f"{name}: {wanted}",
                    received=f"{name}: {found}" if found else "columns " + ", ".join(held.columns),
                    fix="Cast it." if found else hint(name, held.columns),
                )
            )
    both = [
        rows.select(*[F.col(quoted(name)) for name in names], F.lit(mark).alias(_MARK))
        for rows, mark in ((frame, False), (held, True))
    ]
    return both[0].unionAll(both[1])
