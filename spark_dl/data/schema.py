"""Match of Spark columns with a model's inputs and outputs, checked on the driver before any Spark job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pyspark.sql import types as T

from spark_dl.data.column import Column
from spark_dl.data.columns import InputRules, ModelInput, column_of, kind_named, kind_of
from spark_dl.data.columns.number import number_dtype
from spark_dl.data.null_policy import NullPolicy
from spark_dl.data.padding_policy import PaddingPolicy
from spark_dl.data.specs import FeatureSpec, LabelSpec
from spark_dl.errors import DataError, explain, hint, shape_text
from spark_dl.spark.session import is_case_sensitive

__all__ = [
    "ColumnRules",
    "boolean_column",
    "check_column",
    "feature_spec",
    "known_width",
    "label_spec",
    "spark_type",
    "weight_column",
]

_NUMBERS = (T.BooleanType, T.ByteType, T.ShortType, T.IntegerType, T.LongType, T.FloatType, T.DoubleType)
# Types without one right encoding: a long key may not fit a double, and a date may stand for a year or a weekday.
_FIXES: list[tuple[tuple[type[T.DataType], ...], str]] = [
    ((T.DecimalType,), "Cast it, for example to double, an array to array<double>."),
    (
        (T.DateType, T.TimestampType, T.TimestampNTZType),
        "Encode it as numbers, for example with unix_timestamp, dayofweek or months_between.",
    ),
    ((T.StructType,), "Select the fields that are meant as columns of their own, for example F.col('a.b').alias('b')."),
]
_DECODE = "Decode images in Spark to arrays of numbers: a mask to one with the class of each pixel."
_LABEL_FIXES = {"binary": _DECODE, "image struct": _DECODE}
_NUMERIC = "a Vector, an array of numbers, or a number"
_TEXT = "a string, for the model's input of strings"


@dataclass(frozen=True)
class ColumnRules(InputRules):
    """Options for the interpretation of columns beyond their Spark type.

    Attributes:
        nulls: The policy for missing values, which are errors by default.
        padding: The padding of rows of varying length; by default they aren't padded.
    """

    nulls: NullPolicy = field(default_factory=NullPolicy)
    padding: PaddingPolicy = field(default_factory=PaddingPolicy)


def feature_spec(
    schema: T.StructType,
    names: Sequence[str],
    param: str,
    shape: tuple[int, ...],
    dtype: str,
    rules: ColumnRules | None = None,
    key: str = "",
) -> FeatureSpec:
    """Match feature columns with a model input.

    Args:
        schema: The DataFrame's schema.
        names: The names of the feature columns.
        param: The option that named them, for messages.
        shape: The shape of one row of the model's input.
        dtype: The dtype of the model's input; "string" for text.
        rules: The options for the columns' interpretation.
        key: The input's name, where the model has several inputs.

    Raises:
        DataError: A column is missing, ambiguous or of an unsuitable type, or the widths don't fit.
    """
    rules = rules or ColumnRules()
    columns = tuple(_column(schema, name, param) for name in names)
    model_input = ModelInput(shape, dtype, columns, rules)
    return FeatureSpec(tuple(_fed_columns(schema, param, model_input, rules)), shape, dtype, key)


def _fed_columns(schema: T.StructType, param: str, model_input: ModelInput, rules: ColumnRules) -> list[Column]:
    fed: list[Column] = []
    for column in model_input.columns:
        kind = kind_of(column).feeds(model_input)
        if kind is None:
            raise DataError(_unsuited(schema, column.name, param, _TEXT if model_input.dtype == "string" else _NUMERIC))
        fed.append(rules.padding.column(rules.nulls.column(replace(column, kind=kind)), model_input.dtype))
    for column in fed:
        if kind_of(column).coding:  # bytes can't be joined with other columns
            kind_of(column).check_input(model_input, param)
            return [kind_of(column).matched(column, 0, model_input)]
    width = _array_width(schema, param, model_input)
    return [kind_of(column).matched(column, width, model_input) for column in fed]


def _array_width(schema: T.StructType, param: str, model_input: ModelInput) -> int:
    """Return the number of values in a row that the only column that isn't a scalar must have.

    Raises:
        DataError: There are several such columns, or the columns' width isn't the input's.
    """
    columns = model_input.columns
    wide = [column for column in columns if not kind_of(column).is_scalar]
    if len(wide) > 1:
        raise DataError(
            explain(
                f"Only one of the {param} may be an array, a Vector or binary.",
                expected="scalar columns, and at most one array or Vector",
                received=", ".join(f"{column.name} ({column.kind})" for column in columns),
                fix="Join them with VectorAssembler.",
            )
        )
    expected = math.prod(model_input.shape)
    width = expected - (len(columns) - len(wide))
    known = known_width(schema, wide[0].name) if wide else None
    if (not wide and width != 0) or (wide and width < 1) or (known is not None and known != width):
        received = len(columns) - len(wide) + (known or 0)
        raise DataError(
            explain(
                "The columns' width isn't the width of the model's input.",
                expected=f"{expected} numbers per row, for the model's input of shape {shape_text(model_input.shape)}",
                received=f"{received} number{'s' * (received != 1)} per row from " + ", ".join(c.name for c in columns),
                fix=f"Change {param}, or build the model for this width.",
            )
        )
    return width


def label_spec(
    schema: T.StructType,
    name: str,
    shape: tuple[int, ...],
    classes: int | None,
    rules: ColumnRules | None = None,
    param: str = "labelCol",
    key: str = "",
) -> LabelSpec:
    """Match a label column with a model output.

    Args:
        schema: The DataFrame's schema.
        name: The label column's name.
        shape: The shape of one row of the label, if the column isn't one of numbers.
        classes: The number of classes where labels are class indices, else None.
        rules: The options for the column's interpretation.
        param: The option that named the column, for messages.
        key: The output's name, where the model has several outputs.

    Raises:
        DataError: The column is missing, ambiguous or of an unsuitable type.
    """
    column = _column(schema, name, param)
    kind = kind_of(column)
    if not kind.is_label:
        raise DataError(_unsuited(schema, name, param, _NUMERIC, _LABEL_FIXES.get(kind.name, "")))
    rules = rules or ColumnRules()
    column = rules.nulls.column(column)
    if kind.is_scalar:
        whole = np.dtype(column.dtype).kind != "f"
        dtype = "int32" if classes is not None else column.dtype if whole else "float32"
        return LabelSpec(column, (), "int8" if dtype == "bool" else dtype, classes, key)
    if classes is not None and not shape:
        raise DataError(
            explain(
                f"The label column {name!r} can't hold class indices.",
                expected=f"a number from 0 to {classes - 1} in each row",
                received=f"{name}: {schema[name].dataType.simpleString()}",
                fix="Turn the labels into indices with StringIndexer, or use KerasEstimator with another loss.",
            )
        )
    dtype = "float32" if classes is None else "int32"
    column = rules.padding.column(column, dtype)
    model_input = ModelInput(shape, dtype, (column,), InputRules(sparse="never"))
    return LabelSpec(kind.matched(column, math.prod(shape), model_input), shape, dtype, classes, key)


def weight_column(
    schema: T.StructType, name: str, rules: ColumnRules | None = None, positions: tuple[int, ...] = ()
) -> tuple[Column, tuple[int, ...]]:
    """Look up the column of sample weights.

    Args:
        schema: The DataFrame's schema.
        name: The column's name.
        rules: The options for the column's interpretation.
        positions: The shape of one row of the loss before it is averaged: () for one number.

    Returns:
        The column, and the shape of one row's weights.

    Raises:
        DataError: The column is missing, ambiguous or not a number, nor an array with a number for each position.
    """
    column = _column(schema, name, "weightCol")
    kind = kind_of(column)
    rules = rules or ColumnRules()
    column = rules.nulls.column(column)
    if kind.is_scalar:
        # Keras doesn't broadcast weights of shape (rows,) over positions.
        return column, (1,) * len(positions)
    if not (positions and kind.is_label):
        raise DataError(_unsuited(schema, name, "weightCol", "a number in each row"))
    column = rules.padding.column(column, "float32")
    model_input = ModelInput(positions, "float32", (column,), InputRules(sparse="never"))
    return kind.matched(column, math.prod(positions), model_input), positions


def boolean_column(schema: T.StructType, name: str, nulls: NullPolicy | None = None) -> Column:
    """Look up the column that marks the validation rows.

    Raises:
        DataError: The column is missing, ambiguous or not boolean.
    """
    check_column(schema, name, "validationCol")
    column = kind_named("boolean").column(name, schema[name].dataType)
    if column is None:
        raise DataError(
            explain(
                f"The column {name!r}, which validationCol names, can't mark rows.",
                expected="a boolean column",
                received=f"{name}: {schema[name].dataType.simpleString()}",
                fix="Cast it to boolean, or make it by a comparison.",
            )
        )
    return (nulls or NullPolicy()).column(column)


def spark_type(dtype: str) -> T.DataType:
    """Return the Spark type that corresponds to a NumPy dtype.

    >>> spark_type("int16").simpleString()
    'smallint'
    """
    return next(kind() for kind in _NUMBERS if number_dtype(kind()) == dtype)


def _column(schema: T.StructType, name: str, param: str) -> Column:
    check_column(schema, name, param)
    column = column_of(name, schema[name].dataType)
    if column is None:
        raise DataError(_unsuited(schema, name, param, _NUMERIC))
    return column


def check_column(schema: T.StructType, name: str, param: str) -> None:
    """Check that exactly one column has a name; the lookup is case-sensitive, as in Spark ML.

    Args:
        schema: The DataFrame's schema.
        name: The column's name, in which a dot has no special meaning.
        param: The option that names the column, for messages.

    Raises:
        DataError: No column has this name, or several have it. Names that differ only in case count as the same unless
            spark.sql.caseSensitive is set, as Spark can't select one of them.
    """
    found = [known for known in schema.names if known == name]
    alike = [known for known in schema.names if known.lower() == name.lower()]
    if found and len(alike) > len(found) and not is_case_sensitive():
        found = alike
    if len(found) == 1:
        return
    if not found:
        raise DataError(
            explain(
                f"The DataFrame has no column {name!r}, which {param} names.",
                expected=f"a column {name!r}",
                received="columns " + ", ".join(schema.names),
                fix=_name_hint(schema, name),
            )
        )
    raise DataError(
        explain(
            f"The DataFrame has {len(found)} columns {name!r}, which {param} names: Spark can't resolve the name.",
            expected=f"one column {name!r}",
            received="columns " + ", ".join(schema.names),
            fix="Give each column a unique name, for example with DataFrame.toDF, or with alias before a join.",
        )
    )


def _name_hint(schema: T.StructType, name: str) -> str:
    """Suggest a fix for an unknown name: to drop backticks, to make a column of a struct's field, or a similar name."""
    if name.strip("`") in schema.names:
        return f"Name it without backticks: {name.strip('`')!r}."
    outer, dot, field = name.replace("`", "").partition(".")
    if dot and outer in schema.names and isinstance(schema[outer].dataType, T.StructType):
        return f"A field of a struct must be a column: df.withColumn({field!r}, F.col({name!r}))."
    return hint(name, schema.names)


def _unsuited(schema: T.StructType, name: str, param: str, expected: str, fix: str = "") -> str:
    element = schema[name].dataType
    while isinstance(element, T.ArrayType):
        element = element.elementType
    return explain(
        f"The column {name!r}, which {param} names, can't be fed to the model.",
        expected=expected,
        received=f"{name}: {schema[name].dataType.simpleString()}",
        fix=fix
        or next(
            (fix for kinds, fix in _FIXES if isinstance(element, kinds)),
            "Cast or encode it, for example with StringIndexer or VectorAssembler.",
        ),
    )


def known_width(schema: T.StructType, name: str) -> int | None:
    """Return the width in a column's metadata, as Spark ML stages such as VectorAssembler write it; None without it."""
    width = schema[name].metadata.get("ml_attr", {}).get("num_attrs")
    return int(width) if width is not None else None
