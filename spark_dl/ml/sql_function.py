"""A fitted model as a function of Spark SQL: the types of its arguments are seen when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dl.data.schema import spark_type
from spark_dl.errors import DataError, explain
from spark_dl.fit.columns import InputFacts, feature_specs, input_columns
from spark_dl.options import ColumnOptions
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.score.series import output_series
from spark_dl.spark.python_worker import purge_zipimport_cache

__all__ = ["sql_function"]


def sql_function(model: ScoringModel, options: ColumnOptions, inputs: Sequence[InputFacts], output: str) -> Any:
    """A pandas UDF of the feature columns, in the order of the model's options.

    Args:
        model: what to score with; its features are found at each call.
        options: those of columns.
        inputs: the model's.
        output: field of the head that is returned.
    """
    named, _ = input_columns(options, [one.name for one in inputs])
    names = list(dict.fromkeys(column for columns in named.values() for column in columns))
    field = model.head.fields()[output]
    number = "float" if field.kind == "array<float>" else "double"
    score = _scorer(model, options.part(ColumnOptions), tuple(inputs), names, output)
    return F.pandas_udf(score, "double" if field.kind == "double" else f"array<{number}>")  # type: ignore[attr-defined]


def _scorer(
    model: ScoringModel, options: ColumnOptions, inputs: Sequence[InputFacts], names: Sequence[str], output: str
) -> Callable[[Iterator[tuple[pd.Series, ...]]], Iterator[pd.Series]]:
    def score_batches(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        purge_zipimport_cache()
        for series in batches:  # a lone argument comes without the tuple
            given = series if isinstance(series, tuple) else (series,)
            if len(given) != len(names):
                raise DataError(
                    explain(
                        "The function isn't given the model's feature columns.",
                        expected=f"{len(names)} arguments: {', '.join(names)}",
                        received=f"{len(given)}",
                    )
                )
            if not len(given[0]):
                yield pd.Series([], dtype=float)
                continue
            found = {name: _without_decimals(column) for name, column in zip(names, given, strict=True)}
            firsts = {name: _first(name, column, options.null_policy) for name, column in found.items()}
            schema = T.StructType([T.StructField(name, _type(name, first)) for name, first in firsts.items()])
            # With nulls, whole numbers come as fractions.
            found = {
                name: column.fillna(firsts[name]).astype("int64")
                if _whole(name, column, options.null_policy)
                else column
                for name, column in found.items()
            }
            typed = replace(model, features=feature_specs(schema, options, inputs))
            result = typed.score_pandas([found[column.name] for column in typed.columns])[output]
            yield output_series(result)

    return score_batches


def _without_decimals(column: Any) -> Any:
    """A column of decimals, or of arrays of them, as float64: SQL takes a literal such as 0.5 for a decimal."""
    values: Any = column.dropna() if isinstance(column, pd.Series) else pd.Series()
    first = values.iloc[0] if len(values) else None
    if isinstance(first, Decimal):
        return column.astype("float64")
    if isinstance(first, (list, np.ndarray)) and any(isinstance(one, Decimal) for one in first):
        return pa.array(column, from_pandas=True).cast(pa.list_(pa.float64())).to_pandas()
    return column


def _type(name: str, first: Any) -> T.DataType:
    """The Spark type of such values."""
    if isinstance(first, (bytes, bytearray)):
        return T.BinaryType()
    if isinstance(first, str):
        return T.StringType()
    array = np.asarray(first)
    if array.ndim == 1 and array.dtype == object and not any(isinstance(v, (list, np.ndarray)) for v in array):
        array = array.astype(np.float64)  # with a null among the numbers, which is told where they are read
    if array.ndim > 1 or array.dtype.kind not in "biuf":
        raise DataError(
            explain(
                f"The function can't be given the column {name!r}.",
                expected="a number, an array of numbers, a string or binary",
                received="a struct" if isinstance(first, pd.DataFrame) else type(first).__name__,
                fix="Give a Vector as vector_to_array(column), an array of arrays as flatten(column); for images use "
                "transform.",
            )
        )
    kind = spark_type(array.dtype.name)
    return T.ArrayType(kind) if array.ndim else kind


def _whole(name: str, column: pd.Series, policy: Any) -> bool:
    """Whether a column of fractions is one of whole numbers, with nulls that a whole number stands for."""
    given = policy.get(name) if isinstance(policy, dict) else None
    if not isinstance(given, dict) or not isinstance(given["fill"], int) or column.dtype.kind != "f":
        return False
    values = column.dropna()
    return bool(column.isna().any() and (values == values.round()).all())


def _first(name: str, series: pd.Series, policy: Any) -> Any:
    """A value of the column; where some are missing, the one that stands for them."""
    values = series.dropna() if isinstance(series, pd.Series) else series
    given = policy.get(name) if isinstance(policy, dict) else None
    if isinstance(given, dict) and len(values) < len(series):
        return given["fill"]
    if isinstance(series, pd.DataFrame):
        return series  # of a struct, which is refused
    if len(values):
        return values.iloc[0]
    raise DataError(
        explain(
            f"The column {name!r} can't be scored.",
            expected="no nulls",
            received=f"{len(series)} null or NaN in a batch of {len(series)} rows",
            fix="Clean the column, for example with coalesce.",
        )
    )
