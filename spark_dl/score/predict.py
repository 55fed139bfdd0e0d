"""`transform`: a UDF over the feature columns only, and output columns from its result.

Spark 4.1 and later give the UDF Arrow arrays, earlier ones pandas. The other columns never leave the JVM.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl._compat.spark import arrow_udf
from spark_dl.data.columns import kind_of
from spark_dl.errors import DataError, explain
from spark_dl.score.heads import Field
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.score.series import output_series
from spark_dl.spark.python_worker import purge_zipimport_cache

__all__ = ["check_new", "score"]

# Up to this width a pandas UDF sends a field as separate columns, which Spark reads about twice as fast as a list. From
# an Arrow UDF a list takes less processor time than two columns or more.
_WIDEST = 256


def score(frame: DataFrame, model: ScoringModel, outputs: Mapping[str, str]) -> DataFrame:
    """Add the model's output columns to a DataFrame.

    Args:
        frame: The DataFrame with the feature columns.
        model: The scoring model.
        outputs: The name of the new column by field of the head; other fields don't leave the Python worker.

    Raises:
        DataError: An output column already exists, or two outputs have the same column.
    """
    check_new(frame.sparkSession, frame.columns, outputs.values())
    fields = {name: field for name, field in model.head.fields().items() if name in outputs}
    arrow = arrow_udf()
    widest = 0 if arrow else _WIDEST
    types = ", ".join(
        f"{column} {kind}"
        for place, field in enumerate(fields.values())
        for column, kind in _sent(place, field, widest)
    )
    shipped = model.ship(frame.sparkSession)
    if arrow:
        udf = arrow(_arrow_scorer(shipped, fields), types)
    else:
        udf = F.pandas_udf(_pandas_scorer(shipped, fields), types)  # type: ignore[attr-defined]
    scored = f"spark_dl_{uuid.uuid4().hex[:8]}"
    wide = {column.name for spec in model.features for column in spec.columns if not _in_float32(spec.dtype)}
    arguments = [kind_of(column).udf_argument(column, column.name in wide) for column in model.columns]
    result = frame.withColumn(f"{scored}_once", udf(*arguments))
    # Spark would push a filter on an output below the UDF and score twice: once to filter, once for the remaining rows.
    # It doesn't push such a filter below an explode, but still pushes filters on other columns, which a
    # nondeterministic UDF would prevent, too. The price: a limit isn't pushed either and scores at least one Arrow
    # batch.
    result = result.select("*", F.explode(F.array(f"{scored}_once")).alias(scored)).drop(f"{scored}_once")
    if model.nulls == "drop":
        first, _ = _sent(0, next(iter(fields.values())), widest)[0]
        result = result.where(F.col(f"{scored}.{first}").isNotNull())  # null for rows that couldn't be scored
    nulls = model.nulls == "null"
    added = {}
    for place, (name, field) in enumerate(fields.items()):
        parts = [F.col(f"{scored}.{part}") for part, _ in _sent(place, field, widest)]
        value = F.array(*parts) if field.kind != "double" and field.width <= widest else parts[0]
        value = array_to_vector(value) if field.kind == "vector" else _nested(value, field.shape)
        added[outputs[name]] = F.when(parts[0].isNotNull(), value) if nulls else value
    return result.withColumns(added).drop(scored)


def check_new(spark: SparkSession, columns: Sequence[str], names: Iterable[str]) -> None:
    """Check that output columns are new and distinct, ignoring case unless spark.sql.caseSensitive is set.

    Args:
        spark: The session, for its setting of case sensitivity.
        columns: The existing columns.
        names: The output columns.

    Raises:
        DataError: An output column already exists, or two outputs have the same column.
    """
    names = list(names)
    exact = (spark.conf.get("spark.sql.caseSensitive", "false") or "").lower() == "true"
    present = set(columns) if exact else {name.lower() for name in columns}
    compared = names if exact else [name.lower() for name in names]
    twice = [name for name, one in zip(names, compared, strict=True) if compared.count(one) > 1]
    if twice:
        raise DataError(
            explain(
                f"Several outputs go to one column {twice[0]!r}.",
                expected="a unique name for each output column",
                received=f"output columns {', '.join(names)}",
                fix="Set another name, for example with setPredictionCol, or '' for no probability or rawPrediction.",
            )
        )
    taken = [name for name in names if (name if exact else name.lower()) in present]
    if taken:
        raise DataError(
            explain(
                f"The DataFrame already has a column {taken[0]!r}.",
                expected="new names for the output columns",
                received=f"columns {', '.join(columns)}",
                fix="Drop the column, or set another name, for example with setPredictionCol.",
            )
        )


def _sent(place: int, field: Field, widest: int) -> list[tuple[str, str]]:
    """Return names and types of the UDF columns of a field, numbered, as an output's name may be invalid in SQL.

    Args:
        place: The number of the field.
        field: The field.
        widest: Up to this width, numbers have a column each; wider fields, a list.
    """
    name = f"field{place}"
    number = "float" if field.kind == "array<float>" else "double"
    if field.kind == "double":
        return [(name, number)]
    if field.width <= widest:
        return [(f"{name}_{index}", number) for index in range(field.width)]
    return [(name, f"array<{number}>")]


def _nested(flat: SparkColumn, shape: Sequence[int]) -> SparkColumn:
    """Build the expression of nested arrays from a flat array of their numbers in C order."""
    if len(shape) < 2:
        return flat
    inner = math.prod(shape[1:])
    return F.transform(
        F.sequence(F.lit(0), F.lit(shape[0] - 1)), lambda i: _nested(F.slice(flat, i * inner + 1, inner), shape[1:])
    )


def _arrow_scorer(
    model: ScoringModel, fields: Mapping[str, Field]
) -> Callable[[Iterator[tuple[pa.Array, ...]]], Iterator[pa.Array]]:
    names = [_sent(place, field, 0)[0][0] for place, field in enumerate(fields.values())]

    def score_batches(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
        purge_zipimport_cache()
        for arrays in batches:  # Spark passes a single column without a tuple
            given = arrays if isinstance(arrays, tuple) else (arrays,)
            found = model.score(dict(zip(model.columns, given, strict=True)))
            columns = [_arrow_column(field, found.columns[name], found.unscorable) for name, field in fields.items()]
            yield pa.StructArray.from_arrays(columns, names)

    return score_batches


def _arrow_column(field: Field, values: np.ndarray, nulls: np.ndarray | None) -> pa.Array:
    """Convert a field's values to its UDF column in Arrow, null in the rows that `nulls` marks."""
    numbers = values.astype(np.float32 if field.kind == "array<float>" else np.float64, copy=False)
    if field.kind == "double":
        return pa.array(numbers, mask=nulls)
    offsets = pa.array(np.arange(len(numbers) + 1, dtype=np.int32) * field.width)
    mask = None if nulls is None else pa.array(nulls)
    return pa.ListArray.from_arrays(offsets, pa.array(numbers.reshape(-1)), mask=mask)


def _split(place: int, field: Field, values: np.ndarray, nulls: np.ndarray | None = None) -> dict[str, Any]:
    """Split a field's values into its UDF columns, null in the rows that `nulls` marks."""
    names = [column for column, _ in _sent(place, field, _WIDEST)]
    if field.kind == "double" or field.width > _WIDEST:
        return {names[0]: output_series(values, nulls)}
    return {name: output_series(number, nulls) for name, number in zip(names, values.T, strict=True)}


def _in_float32(dtype: str) -> bool:
    """Return whether float32 is precise enough for an input of this dtype; integers must be seen to be whole."""
    return dtype == "bfloat16" or (dtype != "string" and np.dtype(dtype).kind == "f" and np.can_cast(dtype, np.float32))


def _pandas_scorer(
    model: ScoringModel, fields: Mapping[str, Field]
) -> Callable[[Iterator[tuple[pd.Series, ...]]], Iterator[pd.DataFrame]]:
    def score_batches(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        purge_zipimport_cache()
        for series in batches:  # Spark passes a single column without a tuple
            given = series if isinstance(series, tuple) else (series,)
            found = model.score_pandas(given)
            content: dict[str, Any] = {}
            for place, (name, kind) in enumerate(fields.items()):
                content.update(_split(place, kind, found.columns[name], found.unscorable))
            yield pd.DataFrame(content)

    return score_batches
