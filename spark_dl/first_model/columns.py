"""Roles and statistics of a DataFrame's columns, computed by Spark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyspark.ml.functions import array_to_vector
from pyspark.ml.stat import Summarizer
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dl.data.column import quoted
from spark_dl.data.columns import column_of, kind_of
from spark_dl.data.image_files import can_be_decoded
from spark_dl.errors import DataError, explain
from spark_dl.first_model.label import check_label, classes_of, finite, label_aggregates
from spark_dl.spark.job import SparkJob

__all__ = ["MISSING", "Columns", "FeatureColumn", "described_columns"]

MISSING = "(missing)"  # the string that replaces null
_UNKNOWN = "[UNK]"  # Keras's name of all other strings, which no string may have
_FEW = 20  # numbers and strings with as few values may be categories
_WIDEST = 20_000  # numbers of an array; the code has their means and variances
# Variances that float32 holds, and a square root of which Keras doesn't replace by its epsilon.
_VARIANCES = (1e-12, 1e37)
_CATEGORIES = 1_000  # strings with more values are hashed
_UNIQUE = 0.5  # the share of distinct values above which strings don't repeat
_WORDS = 3.0  # strings that don't repeat and have as many words are texts
_VOCABULARY = 500
_RARE = 5  # words in fewer rows aren't part of the vocabulary
_SKEWED = 2.0
_EXACT = 2**20  # numbers that are used as marks; float32 is exact up to 2**24
_WHOLE = 2.0**24  # float32 has all whole numbers up to it
_BITS = {"byte": 8, "short": 16, "integer": 32, "long": 64}
# The punctuation that Keras's TextVectorization removes.
_PUNCTUATION = r"""[!"#$%&()\*\+,-\./:;<=>?@\[\\\]^_`{|}~']"""


_INEXACT = "whole numbers beyond 2**24, which float32 rounds: cast them to double if they are amounts and no keys"


@dataclass(frozen=True)
class FeatureColumn:
    """A column that the suggested model uses.

    Attributes:
        name: The column's name.
        role: "number", "array" (also Vectors), "category", "hashed", "text" or "image".
        missing: Whether rows have no value.
        fill: The fill value of a missing number: one that the column doesn't have, as a mark, or the mean if no row
            lacks it; an int for integer types, None for booleans.
        mean: The mean of a number; of an array, of each position.
        variance: The variance of a number; of an array, of each position.
        log_mean: The mean of log(1 + number) of a skewed column without negative numbers; None for others.
        log_variance: The variance of the same.
        distinct: The approximate number of distinct strings.
        values: The categories, or the words of a text, the most frequent ones first.
    """

    name: str
    role: str
    missing: bool = False
    fill: float | None = None
    mean: float | tuple[float, ...] = 0.0
    variance: float | tuple[float, ...] = 1.0
    log_mean: float | None = None
    log_variance: float | None = None
    distinct: int = 0
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """The columns and statistics from which a suggested model is generated.

    Attributes:
        label: The label column.
        classes: The number of classes; 0 for a number to predict.
        rows: The number of rows with a label.
        mean: The label's mean.
        deviation: The label's standard deviation.
        used: The columns that the model uses.
        left_out: The reason for each column that it doesn't use.
        unlabelled: The number of rows without a label.
    """

    label: str
    classes: int
    rows: int
    mean: float
    deviation: float
    used: tuple[FeatureColumn, ...]
    left_out: Mapping[str, str]
    unlabelled: int = 0


def described_columns(frame: DataFrame, label: str, task: str | None) -> Columns:
    """Describe a DataFrame's columns, in a few Spark jobs.

    Args:
        frame: The training rows.
        label: The label column.
        task: "classification" or "regression"; None to decide it by the label.

    Raises:
        OptionError: There is no such task.
        DataError: The label can't be used, there are no rows, or no column can be used.
    """
    check_label(frame, label, task)
    has_label = finite(F.col(quoted(label)).cast("double")).isNotNull()
    known = frame.where(has_label)
    others = [field for field in frame.schema.fields if field.name != label]
    found = _one_row(known, [*label_aggregates(label), *(one for field in others for one in _aggregates(field))])
    rows = found["rows"]
    if not rows:
        raise DataError(
            explain("There are no rows with a label.", expected="training rows", received="none", fix="Check the rows.")
        )
    classes = classes_of(found, task)
    used, left_out = [], {}
    for field in others:
        column = _described(field, found, rows)
        if isinstance(column, str):
            left_out[field.name] = column
        else:
            used.append(column)
    used, unusable = _with_contents(known, used)
    left_out.update(unusable)
    if not used:
        raise DataError(
            explain(
                "No column can be used.",
                expected="numbers, strings, arrays, Vectors or images beside the label",
                received="; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "the label alone",
                fix="Add feature columns.",
            )
        )
    unlabelled = _one_row(frame, [F.count_if(~has_label).alias("rows")])["rows"]
    deviation = math.sqrt(found["variance"]) or 1.0
    return Columns(label, classes, rows, found["mean"], deviation, tuple(used), left_out, unlabelled)


def _one_row(frame: DataFrame, aggregates: Sequence[SparkColumn]) -> Any:
    with SparkJob(frame.agg(*aggregates)) as job:
        return job.rows()[0]


def _aggregates(field: T.StructField) -> list[SparkColumn]:
    """Return the statistics of a column, under names that begin with the column's."""
    name, column = field.name, F.col(quoted(field.name))
    if isinstance(field.dataType, (T.NumericType, T.BooleanType)):
        value = finite(column.cast("double"))
        logged = F.when(value >= 0, F.log1p(value))
        found = {
            "count": F.count(value),
            "mean": F.avg(value),
            "variance": F.var_pop(value),
            "low": F.min(value),
            "high": F.max(value),
            "skewness": F.skewness(value),
            "log_mean": F.avg(logged),
            "log_variance": F.var_pop(logged),
            "distinct": F.approx_count_distinct(value),
            "rounded": F.max(_rounds(column)) if isinstance(field.dataType, T.IntegralType) else F.lit(False),
        }
    elif isinstance(field.dataType, T.StringType):
        words = F.size(F.split(F.trim(column), r"\s+"))
        found = {
            "count": F.count(column),
            "distinct": F.approx_count_distinct(column),
            "words": F.avg(F.when(column.isNotNull(), words)),
        }
    else:
        found = {"count": F.count(column)}
        if (numbers := _numbers_of(field.dataType, column)) is not None:
            size = _size_of(field.dataType, column)
            found |= {
                "shortest": F.min(F.when(column.isNotNull(), size)),
                "longest": F.max(size),
                "gaps": F.max(F.exists(numbers, lambda one: finite(one.cast("double")).isNull())),
            }
            whole = isinstance(getattr(field.dataType, "elementType", None), T.IntegralType)
            found["rounded"] = F.max(F.exists(numbers, _rounds)) if whole else F.lit(False)
    return [value.alias(f"{name}.{what}") for what, value in found.items()]


def _is_vector(kind: T.DataType) -> bool:
    return kind.simpleString() == "vector"


def _numbers_of(kind: T.DataType, column: SparkColumn) -> SparkColumn | None:
    """Return the numbers of an array or a Vector, of a sparse one those that aren't zero; None for other types."""
    if _is_vector(kind):
        return F.unwrap_udt(column)["values"]
    element = kind.elementType if isinstance(kind, T.ArrayType) else None
    return column if isinstance(element, T.NumericType) and not isinstance(element, T.DecimalType) else None


def _size_of(kind: T.DataType, column: SparkColumn) -> SparkColumn:
    """Return the length of an array or a Vector; only sparse Vectors have it as a field."""
    if not _is_vector(kind):
        return F.size(column)
    fields = F.unwrap_udt(column)
    return F.coalesce(fields["size"], F.size(fields["values"]))


def _rounds(value: SparkColumn) -> SparkColumn:
    """Return whether float32 rounds a whole number, so that a fit rejects it."""
    size = F.abs(value.cast("double"))
    # The place of the last bit that float32 keeps. No cast to float and back, which Spark's optimizer leaves out.
    last = F.greatest(F.floor(F.log2(F.greatest(size, F.lit(1.0)))) - 23, F.lit(0)).cast("int")
    return (size > _WHOLE) & (value.cast("long") % F.call_function("shiftleft", F.lit(1).cast("long"), last) != 0)


def _described(field: T.StructField, found: Any, rows: int) -> FeatureColumn | str:
    """Return a column with its role and its statistics, or the reason why it isn't used."""
    name, kind = field.name, field.dataType
    count = found[f"{name}.count"]
    if not count:
        return "no values"
    if isinstance(kind, (T.NumericType, T.BooleanType)):
        fed = column_of(name, kind) is not None
        return _number(field, found, rows) if fed else f"{kind.simpleString()}, which a double rounds: cast it"
    if isinstance(kind, T.StringType):
        distinct = found[f"{name}.distinct"]
        if distinct > _UNIQUE * count and distinct > _FEW:
            if found[f"{name}.words"] < _WORDS:
                return "strings that rarely repeat"
            return FeatureColumn(name, "text", count < rows, distinct=distinct)
        if distinct < 2 and count == rows:
            return "one value"
        return FeatureColumn(name, "category" if distinct <= _CATEGORIES else "hashed", count < rows, distinct=distinct)
    if count < rows:
        return f"{rows - count} rows without a value, which {kind.typeName()} columns can't fill"
    if _numbers_of(kind, F.col(quoted(name))) is not None:
        return _described_array(field, found)
    image = isinstance(kind, T.BinaryType) or _is_image_struct(field)
    return FeatureColumn(name, "image") if image else f"{kind.typeName()}, which isn't used"


def _described_array(field: T.StructField, found: Any) -> FeatureColumn | str:
    name, kinds = field.name, "Vectors" if _is_vector(field.dataType) else "arrays"
    shortest, longest, gaps = (found[f"{name}.{what}"] for what in ("shortest", "longest", "gaps"))
    if shortest != longest or not longest:
        return f"{kinds} of {shortest} to {longest} numbers"
    if longest > _WIDEST:
        return f"{kinds} of {longest:,} numbers, too many to write down their means: reduce them, for example by PCA"
    if gaps:
        return f"{kinds} with null, NaN or infinite numbers"
    return _INEXACT if found[f"{name}.rounded"] else FeatureColumn(name, "array")


def _number(field: T.StructField, found: Any, rows: int) -> FeatureColumn | str:
    name = field.name
    count, low, high = (found[f"{name}.{what}"] for what in ("count", "low", "high"))
    whole = isinstance(field.dataType, T.IntegralType)
    if low == high and count == rows:
        return "one value"
    if found[f"{name}.rounded"]:
        return _INEXACT
    if not _is_scaled(found[f"{name}.variance"], low == high):
        return f"numbers from {low:g} to {high:g}, whose variance float32 can't hold: scale them"
    if isinstance(field.dataType, T.BooleanType) and count < rows:
        return f"{rows - count} rows without a value, which a boolean has no mark for: cast it to int"
    fill = _mark(low, high, field.dataType) if count < rows else _rounded(found[f"{name}.mean"], field.dataType)
    if count < rows and fill is None:
        kind = field.dataType.simpleString()
        return f"{rows - count} rows without a value, for which {kind} has no number left: cast it to a wider type"
    if whole and rows > _FEW and high - low < 2 * rows and found[f"{name}.distinct"] > 0.95 * rows:
        return "numbers of rows"
    skewed = low >= 0 and (found[f"{name}.skewness"] or 0) > _SKEWED and found[f"{name}.distinct"] > _FEW
    return FeatureColumn(
        name,
        "number",
        count < rows,
        fill,
        found[f"{name}.mean"],
        found[f"{name}.variance"] or 1.0,
        found[f"{name}.log_mean"] if skewed else None,
        found[f"{name}.log_variance"] if skewed else None,
    )


def _is_scaled(variance: float, constant: bool) -> bool:
    least, most = _VARIANCES
    return constant or least < variance < most


def _mark(low: float, high: float, kind: T.DataType) -> float | None:
    """Return a number, exact in float32, that a column doesn't have and its type holds; None if there is none."""
    whole = isinstance(kind, T.IntegralType)
    limit = 2.0 ** (_BITS[kind.typeName()] - 1 if whole else 127)
    apart = max(1.0, 0.1 * (high - low))
    for sign, end in ((-1, low), (1, high)):
        outer = sign * end + apart  # as if it were above
        power = 2.0 ** math.ceil(math.log2(max(abs(outer), 1.0)))
        far, near = (math.ceil(outer) if abs(outer) < _EXACT else power), math.floor(sign * end) + 1
        for mark in (sign * far, sign * near) if abs(near) < _EXACT else (sign * far,):
            if -limit <= mark < limit:
                return int(mark) if whole else float(mark)
    return None


def _rounded(mean: float, kind: T.DataType) -> float | None:
    if isinstance(kind, T.BooleanType):
        return None
    return round(mean) if isinstance(kind, T.IntegralType) else float(f"{mean:.7g}")


def _with_contents(frame: DataFrame, used: Sequence[FeatureColumn]) -> tuple[list[FeatureColumn], dict[str, str]]:
    """Add the categories, the words and the statistics of arrays; leave out what isn't usable after all."""
    left_out: dict[str, str] = {}
    made = []
    values = _frequent(frame, [column for column in used if column.role in ("category", "text")])
    for column in used:
        known = values.get(column.name, ())
        if column.role == "array":
            made.append(described := _array(frame, column))
            if not all(_is_scaled(one, one == 1.0) for one in described.variance):  # type: ignore[union-attr]
                left_out[made.pop().name] = "numbers whose variance float32 can't hold: scale them"
        elif column.role in ("category", "text") and not known:
            left_out[column.name] = "strings that rarely repeat"
        elif column.role == "image" and not _is_image(frame, column.name):
            left_out[column.name] = "binary, which is no image"
        else:
            made.append(replace(column, values=known))
    return made, left_out


def _frequent(frame: DataFrame, columns: Sequence[FeatureColumn]) -> dict[str, tuple[str, ...]]:
    """Return the categories, and the words of texts, in the order of their number of rows, in one job."""
    if not columns:
        return {}
    parts = []
    for place, column in enumerate(columns):
        value = F.col(quoted(column.name))
        filled = F.coalesce(value, F.lit(MISSING))
        plain = F.regexp_replace(F.lower(F.coalesce(value, F.lit(""))), _PUNCTUATION, "")
        words = F.array_distinct(F.split(F.trim(plain), r"\s+"))
        strings = words if column.role == "text" else F.array(filled)
        parts.append(_numbered(strings, place))
    each = frame.select(F.explode(F.concat(*parts)).alias("one")).groupBy("one.place", "one.value").count()
    often = each.where((F.col("count") >= _RARE) | (F.col("count") >= 2) & (F.length("value") > 0))
    order = Window.partitionBy("place").orderBy(F.desc("count"), "value")
    most = often.withColumn("rank", F.row_number().over(order)).where(F.col("rank") <= _CATEGORIES)
    with SparkJob(most.orderBy("place", "rank")) as job:
        rows = job.rows()
    return {column.name: _chosen(column, place, rows) for place, column in enumerate(columns)}


def _numbered(strings: SparkColumn, place: int) -> SparkColumn:
    """Return an array of structs of a column's place and each string."""
    return F.transform(strings, lambda one: F.struct(F.lit(place).alias("place"), one.alias("value")))


def _chosen(column: FeatureColumn, place: int, rows: Sequence[Any]) -> tuple[str, ...]:
    text = column.role == "text"
    least = _RARE if text else 2
    unusable = ("", _UNKNOWN)
    chosen = [
        row["value"] for row in rows if row["place"] == place and row["count"] >= least and row["value"] not in unusable
    ]
    return tuple(chosen[: _VOCABULARY if text else _CATEGORIES])


def _array(frame: DataFrame, column: FeatureColumn) -> FeatureColumn:
    value = F.col(quoted(column.name))
    vector = value if _is_vector(frame.schema[column.name].dataType) else array_to_vector(value.cast("array<double>"))
    statistics = Summarizer.metrics("mean", "variance").summary(vector)
    found = _one_row(frame, [statistics.alias("found")])["found"]
    variance = tuple(one if one > 0 else 1.0 for one in found["variance"].tolist())
    return replace(column, mean=tuple(found["mean"].tolist()), variance=variance)


def _is_image_struct(field: T.StructField) -> bool:
    column = column_of(field.name, field.dataType)
    return column is not None and kind_of(column).name == "image struct"


def _is_image(frame: DataFrame, name: str) -> bool:
    if _is_image_struct(frame.schema[name]):
        return True
    with SparkJob(frame.select(quoted(name)).limit(1)) as job:
        return all(can_be_decoded(bytes(row[0])) for row in job.rows())
