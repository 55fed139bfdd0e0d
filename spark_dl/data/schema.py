"""Match of Spark columns with a model's inputs and outputs, checked on the driver before any Spark job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dl.data.column import Column, FeatureSpec, LabelSpec, NullPolicy
from spark_dl.data.ragged import BYTES
from spark_dl.errors import DataError, explain, hint
from spark_dl.spark.session import takes_case_apart

__all__ = [
    "ColumnRules",
    "boolean_column",
    "check_column",
    "feature_spec",
    "known_width",
    "label_spec",
    "quoted",
    "spark_type",
    "weight_column",
]

_NUMBERS: dict[type[T.DataType], str] = {
    T.BooleanType: "bool",
    T.ByteType: "int8",
    T.ShortType: "int16",
    T.IntegerType: "int32",
    T.LongType: "int64",
    T.FloatType: "float32",
    T.DoubleType: "float64",
}


# Types without one right encoding: a decimal may not fit a double, and a date may stand for a year or a weekday.
_FIXES: list[tuple[tuple[type[T.DataType], ...], str]] = [
    ((T.DecimalType,), "Cast it, for example to double."),
    (
        (T.DateType, T.TimestampType, T.TimestampNTZType),
        "Encode it as numbers, for example with unix_timestamp, dayofweek or months_between.",
    ),
    ((T.StructType,), "Select the fields that are meant as columns of their own, for example F.col('a.b').alias('b')."),
]
# The struct fields of Spark's image data source.
_IMAGE_FIELDS = ("height", "width", "nChannels", "mode", "data")
# Vectors up to this width are mostly dense (pixels, embeddings); wider ones are mostly counts and hashes.
_DENSE_WIDTH = 4096
_NUMERIC = "a Vector, an array of numbers, or a number"


@dataclass(frozen=True)
class ColumnRules:
    """Options for the interpretation of feature columns beyond their Spark type.

    Attributes:
        binary: The content of binary columns: "image" (encoded) or "raw" (uint8 numbers).
        sparse: The Vectors that stay sparse: "auto" (wide ones), "always" or "never".
        nulls: The policy for missing values, which are errors by default.
    """

    binary: str = "image"
    sparse: str = "auto"
    nulls: NullPolicy = field(default_factory=NullPolicy)

    def stays_sparse(self, width: int) -> bool:
        """Return whether a Vector of this width stays sparse."""
        return self.sparse == "always" or (self.sparse == "auto" and width > _DENSE_WIDTH)


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
    columns = [rules.nulls.column(_column(schema, name, param)) for name in names]
    return replace(_feature_spec(schema, columns, param, shape, dtype, rules), key=key)


def _feature_spec(
    schema: T.StructType, columns: Sequence[Column], param: str, shape: tuple[int, ...], dtype: str, rules: ColumnRules
) -> FeatureSpec:
    expected = math.prod(shape)
    if dtype == "string":
        return _text_spec(schema, columns, param, shape)
    for column in columns:
        if column.kind == "text":
            raise DataError(_unsuited(schema, column.name, param, _NUMERIC))
    if any(column.kind == "image" or (rules.binary == "image" and column.kind == "binary") for column in columns):
        return _image_spec(columns, param, shape, dtype)
    wide = [column for column in columns if column.kind != "scalar"]
    if len(wide) > 1:
        raise DataError(
            explain(
                f"Only one of the {param} may be an array, a Vector or binary.",
                expected="scalar columns, and at most one array or Vector",
                received=", ".join(f"{column.name} ({column.kind})" for column in columns),
                fix="Join them with VectorAssembler.",
            )
        )
    width = expected - (len(columns) - len(wide))
    known = known_width(schema, wide[0].name) if wide else None
    if (not wide and width != 0) or (wide and width < 1) or (known is not None and known != width):
        received = len(columns) - len(wide) + (known or 0)
        raise DataError(
            explain(
                "The columns' width isn't the width of the model's input.",
                expected=f"{expected} numbers a row, for the model's input of shape {_shape(shape)}",
                received=f"{received} number{'s' * (received != 1)} a row from " + ", ".join(c.name for c in columns),
                fix=f"Change {param}, or build the model for this width.",
            )
        )
    if np.dtype(dtype).kind in "iu" and any(np.dtype(column.dtype).kind == "f" for column in columns):
        raise DataError(
            explain(
                "Columns of fractions can't feed a model input of whole numbers.",
                expected=f"integer columns, for the model's input of dtype {dtype}",
                received=", ".join(f"{column.name} ({column.dtype})" for column in columns),
                fix="Cast the columns to int, or give the model a float input.",
            )
        )
    sized = [_with_inner(replace(c, width=1 if c.kind == "scalar" else width), shape) for c in columns]
    if len(sized) == 1 and sized[0].kind == "vector" and rules.stays_sparse(width):
        sized = [replace(sized[0], sparse=dtype)]
    return FeatureSpec(tuple(sized), shape, dtype)


def _with_inner(column: Column, shape: tuple[int, ...]) -> Column:
    """Set the required lengths of a nested array's inner arrays, from the shape of one row."""
    if not 0 < column.nested < len(shape):
        return column
    return replace(column, inner=(*shape[1 : column.nested], math.prod(shape[column.nested :])))


def _text_spec(schema: T.StructType, columns: Sequence[Column], param: str, shape: tuple[int, ...]) -> FeatureSpec:
    for column in columns:
        if column.kind not in ("text", "binary"):
            raise DataError(_unsuited(schema, column.name, param, "a string, for the model's input of strings"))
    if len(columns) > 1 or math.prod(shape) != 1:
        raise DataError(
            explain(
                "An input of strings takes one column, with a string in each row.",
                expected="one column, and a model input of shape (batch,) or (batch, 1)",
                received=f"columns {', '.join(c.name for c in columns)}, and an input of shape {_shape(shape)}",
                fix="Give the input one column, or use concat_ws on several.",
            )
        )
    return FeatureSpec((replace(columns[0], kind="bytes", dtype=BYTES),), shape, "string")


def _image_spec(columns: Sequence[Column], param: str, shape: tuple[int, ...], dtype: str) -> FeatureSpec:
    if len(columns) > 1 or len(shape) != 3 or shape[-1] not in (1, 3, 4) or dtype == "int8":
        raise DataError(
            explain(
                "Images take one column, and a model input that is an image.",
                expected="one binary column, and an input of (batch, height, width, 1, 3 or 4 channels) that takes 255",
                received=", ".join(f"{c.name} ({c.kind})" for c in columns)
                + f", and an input of shape {_shape(shape)}, {dtype}",
                fix=f"Change {param}, or set binaryFormat='raw' where the bytes are the numbers themselves.",
            )
        )
    return FeatureSpec((replace(columns[0], kind="bytes", dtype=BYTES),), shape, dtype)


def label_spec(
    schema: T.StructType,
    name: str,
    output: tuple[int, ...],
    classes: int | None,
    nulls: NullPolicy | None = None,
    param: str = "labelCol",
    key: str = "",
) -> LabelSpec:
    """Match a label column with a model output.

    Args:
        schema: The DataFrame's schema.
        name: The label column's name.
        output: The shape of one row of the model's output.
        classes: The number of classes where labels are class indices, else None.
        nulls: The policy for missing values, which are errors by default.
        param: The option that named the column, for messages.
        key: The output's name, where the model has several outputs.

    Raises:
        DataError: The column is missing, ambiguous or of an unsuitable type.
    """
    column = _column(schema, name, param)
    if column.kind in ("text", "binary", "image"):
        raise DataError(_unsuited(schema, name, param, _NUMERIC))
    column = (nulls or NullPolicy()).column(column)
    if column.kind == "scalar":
        whole = np.dtype(column.dtype).kind != "f"
        dtype = "int32" if classes is not None else column.dtype if whole else "float32"
        return LabelSpec(column, (), "int8" if dtype == "bool" else dtype, classes, key)
    if classes is not None:
        raise DataError(
            explain(
                f"The label column {name!r} can't hold class indices.",
                expected=f"a number from 0 to {classes - 1} in each row",
                received=f"{name}: {schema[name].dataType.simpleString()}",
                fix="Turn the labels into indices with StringIndexer, or use KerasEstimator with another loss.",
            )
        )
    return LabelSpec(_with_inner(replace(column, width=math.prod(output)), output), output, "float32", None, key)


def weight_column(schema: T.StructType, name: str, nulls: NullPolicy | None = None) -> Column:
    """Look up the column of sample weights.

    Raises:
        DataError: The column is missing, ambiguous or not a number.
    """
    column = _column(schema, name, "weightCol")
    if column.kind != "scalar":
        raise DataError(_unsuited(schema, name, "weightCol", "a number in each row"))
    return (nulls or NullPolicy()).column(column)


def boolean_column(schema: T.StructType, name: str, nulls: NullPolicy | None = None) -> Column:
    """Look up the column that marks the validation rows.

    Raises:
        DataError: The column is missing, ambiguous or not boolean.
    """
    check_column(schema, name, "validationCol")
    if not isinstance(schema[name].dataType, T.BooleanType):
        raise DataError(_unsuited(schema, name, "validationCol", "a boolean column"))
    return (nulls or NullPolicy()).column(Column(name, "scalar", "bool", 1))


def spark_type(dtype: str) -> T.DataType:
    """Return the Spark type that corresponds to a NumPy dtype.

    >>> spark_type("int16").simpleString()
    'smallint'
    """
    return next(kind for kind, name in _NUMBERS.items() if name == dtype)()


def quoted(name: str) -> str:
    """Quote a column's name for Spark SQL, whatever characters it contains.

    >>> quoted("a.b")
    '`a.b`'
    """
    return "`" + name.replace("`", "``") + "`"


def _column(schema: T.StructType, name: str, param: str) -> Column:
    check_column(schema, name, param)
    kind = schema[name].dataType
    if isinstance(kind, VectorUDT):
        return Column(name, "vector", "float64", 0)
    nested, element = 0, kind
    while isinstance(element, T.ArrayType):
        nested, element = nested + 1, element.elementType
    if nested and type(element) in _NUMBERS:
        return Column(name, "array", _NUMBERS[type(element)], 0, nested - 1)
    if isinstance(kind, T.BinaryType):
        return Column(name, "binary", "uint8", 0)
    if isinstance(kind, T.StructType) and set(_IMAGE_FIELDS) <= set(kind.names):
        return Column(name, "image", "uint8", 0, image_struct=True)
    if isinstance(kind, T.StringType):
        return Column(name, "text", BYTES, 0)
    if type(kind) in _NUMBERS:
        return Column(name, "scalar", _NUMBERS[type(kind)], 1)
    raise DataError(_unsuited(schema, name, param, _NUMERIC))


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
    if found and len(alike) > len(found) and not takes_case_apart():
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
            f"The DataFrame has {len(found)} columns {name!r}, which {param} names: Spark can't tell them apart.",
            expected=f"one column {name!r}",
            received="columns " + ", ".join(schema.names),
            fix="Give each column a name of its own, for example with DataFrame.toDF, or with alias before a join.",
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


def _unsuited(schema: T.StructType, name: str, param: str, expected: str) -> str:
    element = schema[name].dataType
    while isinstance(element, T.ArrayType):
        element = element.elementType
    return explain(
        f"The column {name!r}, which {param} names, can't be fed to the model.",
        expected=expected,
        received=f"{name}: {schema[name].dataType.simpleString()}",
        fix=next(
            (fix for kinds, fix in _FIXES if isinstance(element, kinds)),
            "Cast or encode it, for example with StringIndexer or VectorAssembler.",
        ),
    )


def known_width(schema: T.StructType, name: str) -> int | None:
    """Return the width in a column's metadata, as Spark ML stages such as VectorAssembler write it; None without it."""
    width = schema[name].metadata.get("ml_attr", {}).get("num_attrs")
    return int(width) if width is not None else None


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["batch", *map(str, shape)]) + ")"
