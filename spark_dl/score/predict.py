"""`transform`: a pandas UDF over the feature columns alone, and the columns made of its result.

The other columns never leave the JVM.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl.data.column import Column
from spark_dl.data.transport import not_finite, selected
from spark_dl.errors import DataError, explain
from spark_dl.imports import forget_archives
from spark_dl.score.heads import Field
from spark_dl.score.scoring_model import ScoringModel

__all__ = ["check_new", "score"]

# Spark reads several numbers of a row from Arrow about twice as fast from as many columns as from a list. Up to here:
_WIDEST = 256


def score(frame: DataFrame, model: ScoringModel, outputs: Mapping[str, str]) -> DataFrame:
    """The DataFrame with the model's output columns added.

    Args:
        frame: has the feature columns.
        model: what to score with.
        outputs: field of the head -> name of the new column; fields that aren't named are not computed.

    Raises:
        DataError: an output column is there already.
    """
    check_new(frame.sparkSession, frame.columns, outputs.values())
    fields = {name: field for name, field in model.head.fields().items() if name in outputs}
    types = ", ".join(
        f"{column} {kind}" for place, field in enumerate(fields.values()) for column, kind in _sent(place, field)
    )
    udf = F.pandas_udf(_scorer(model.sent(frame.sparkSession), list(fields)), types)  # type: ignore[attr-defined]
    scored = f"spark_dl_{uuid.uuid4().hex[:8]}"
    wide = {column.name for spec in model.features for column in spec.columns if not _in_float32(spec.dtype)}
    result = frame.withColumn(scored, udf(*(_input(column, column.name in wide) for column in model.columns)))
    added = {outputs[name]: _received(scored, place, fields[name]) for place, name in enumerate(fields)}
    return result.withColumns(added).drop(scored)


def check_new(spark: SparkSession, columns: Sequence[str], names: Iterable[str]) -> None:
    """Refuse output columns that are there already.

    Raises:
        DataError: one is.
    """
    exact = (spark.conf.get("spark.sql.caseSensitive", "false") or "").lower() == "true"
    present = set(columns) if exact else {name.lower() for name in columns}
    taken = [name for name in names if (name if exact else name.lower()) in present]
    if taken:
        raise DataError(
            explain(
                f"The DataFrame has a column {taken[0]!r} already.",
                expected="new names for the output columns",
                received=f"columns {', '.join(columns)}",
                fix="Drop the column, or set another name, for example with setPredictionCol.",
            )
        )


def _sent(place: int, field: Field) -> list[tuple[str, str]]:
    """The columns, with their types, in which a field travels to the JVM; SQL doesn't take any name of an output."""
    name = f"field{place}"
    number = "float" if field.kind == "array<float>" else "double"
    if field.kind == "double":
        return [(name, number)]
    if field.width <= _WIDEST:
        return [(f"{name}_{index}", number) for index in range(field.width)]
    return [(name, f"array<{number}>")]


def _received(scored: str, place: int, field: Field) -> SparkColumn:
    """A field made of the columns in which it has travelled."""
    parts = [F.col(f"{scored}.{column}") for column, _ in _sent(place, field)]
    value = F.array(*parts) if field.kind != "double" and field.width <= _WIDEST else parts[0]
    return array_to_vector(value) if field.kind == "vector" else value


def _split(place: int, field: Field, values: np.ndarray) -> dict[str, Any]:
    """A field's values, by the columns in which they travel."""
    names = [column for column, _ in _sent(place, field)]
    if field.kind == "double":
        return {names[0]: values}
    return dict(zip(names, values.T, strict=True)) if field.width <= _WIDEST else {names[0]: list(values)}


def _in_float32(dtype: str) -> bool:
    """Whether an input of this dtype takes no more digits of a number than float32 has."""
    return dtype == "bfloat16" or (dtype != "string" and np.can_cast(dtype, np.float32))


def _input(column: Column, wide: bool) -> SparkColumn:
    value = selected(column)
    if column.fill is not None:  # here, since pandas would make fractions of whole numbers with nulls
        fill = F.lit(bool(column.fill) if column.dtype == "bool" else column.fill)
        missing = value.isNull() | not_finite(value) if column.dtype.startswith("float") else value.isNull()
        value = F.when(missing, fill).otherwise(value)
    if column.sparse:
        return F.unwrap_udt(value)
    return vector_to_array(value, "float64" if wide else "float32") if column.kind == "vector" else value


def _scorer(
    model: ScoringModel, wanted: list[str]
) -> Callable[[Iterator[tuple[pd.Series, ...]]], Iterator[pd.DataFrame]]:
    fields = {name: field for name, field in model.head.fields().items() if name in wanted}

    def score_batches(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        forget_archives()
        for series in batches:  # a lone column comes without the tuple
            given = series if isinstance(series, tuple) else (series,)
            columns = model.score_pandas(given)
            content: dict[str, Any] = {}
            for place, (name, kind) in enumerate(fields.items()):
                content.update(_split(place, kind, columns[name]))
            yield pd.DataFrame(content)

    return score_batches
