"""Rows for validation from a DataFrame of their own: joined with the training rows, and marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, StructField, StructType

from spark_dl.data.column import Column
from spark_dl.data.schema import check_column, quoted
from spark_dl.errors import DataError, OptionError, explain, hint

__all__ = ["marked", "marked_schema", "marking"]

# The column that marks the rows of validationData.
_MARK = "spark_dl_validation"


def marking(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with validationCol as the mark where there is validationData.

    Raises:
        OptionError: there is another way to choose rows for validation, too; or it is no DataFrame.
    """
    if values["validationData"] is None:
        return dict(values)
    if values["validationCol"] or values["validationFraction"]:
        raise OptionError(
            explain(
                "validationData excludes validationCol and validationFraction.",
                expected="one of the three",
                received=f"validationCol={values['validationCol']!r}, "
                f"validationFraction={values['validationFraction']}, and validationData",
            )
        )
    if not hasattr(values["validationData"], "schema"):
        raise OptionError(
            explain(
                "validationData can't be used.",
                expected="a DataFrame",
                received=type(values["validationData"]).__name__,
            )
        )
    return {**values, "validationCol": _MARK}


def marked_schema(schema: StructType, values: Mapping[str, Any]) -> StructType:
    """The columns, with the mark where there is validationData."""
    mark = [StructField(_MARK, BooleanType())] if values["validationData"] is not None else []
    return StructType([*schema.fields, *mark])


def marked(frame: DataFrame, values: Mapping[str, Any], columns: Sequence[Column]) -> DataFrame:
    """The rows for training and, where there is validationData, its rows, marked.

    Args:
        frame: the rows for training.
        values: the options.
        columns: what is read; the mark among them, where there is validationData.

    Raises:
        DataError: validationData doesn't have these columns, in the same types.
    """
    held = values["validationData"]
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
