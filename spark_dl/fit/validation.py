"""The option validationData: its rows are appended to the training rows, with a column that marks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, StructField, StructType

from spark_dl.data.column import Column, quoted
from spark_dl.data.schema import check_column
from spark_dl.errors import DataError, OptionError, explain, hint
from spark_dl.options import DataOptions, EstimatorOptions

__all__ = ["marked", "marked_schema", "marking"]

# The boolean column that marks the rows of validationData.
_MARK = "spark_dl_validation"


def marking(options: EstimatorOptions) -> EstimatorOptions:
    """Set validationCol to the mark column if validationData is set.

    Args:
        options: The estimator's options.

    Returns:
        The options with validationCol; the same options without validationData.

    Raises:
        OptionError: validationCol or validationFraction is set as well, or validationData is no DataFrame.
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
                fix="Set one of the three.",
            )
        )
    if not hasattr(options.validation_data, "schema"):
        raise OptionError(
            explain(
                "validationData can't be used.",
                expected="a DataFrame",
                received=type(options.validation_data).__name__,
                fix="Give a DataFrame with the columns of the training data, or None.",
            )
        )
    return replace(options, validation_col=_MARK)


def marked_schema(schema: StructType, options: DataOptions) -> StructType:
    """Add the mark column to a schema if validationData is set."""
    mark = [StructField(_MARK, BooleanType())] if options.validation_data is not None else []
    return StructType([*schema.fields, *mark])


def marked(frame: DataFrame, options: DataOptions, columns: Sequence[Column]) -> DataFrame:
    """Append the rows of validationData, with a mark, to the training rows.

    Args:
        frame: The DataFrame of the training rows.
        options: The data options.
        columns: The columns that are read, with the mark column if validationData is set.

    Returns:
        Both DataFrames' rows with the mark column; the same DataFrame without validationData.

    Raises:
        DataError: validationData lacks one of the columns, or has it in another type.
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
