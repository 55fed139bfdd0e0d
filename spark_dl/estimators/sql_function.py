"""A fitted model as a function of Spark SQL: the types of its arguments are seen when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dl.data.schema import spark_type
from spark_dl.errors import DataError, explain
from spark_dl.estimators.columns import InputFacts, feature_specs, input_columns
from spark_dl.score.predict import ScoringModel

__all__ = ["sql_function"]


def sql_function(model: ScoringModel, values: Mapping[str, Any], inputs: Sequence[InputFacts], output: str) -> Any:
    """A pandas UDF of the feature columns, in the order of the model's options.

    Args:
        model: what to score with; its features are found at each call.
        values: the options of columns.
        inputs: the model's.
        output: field of the head that is returned.
    """
    named, _ = input_columns(values, [one.name for one in inputs])
    names = list(dict.fromkeys(column for columns in named.values() for column in columns))
    field = model.head.fields()[output]
    number = "float" if field.kind == "array<float>" else "double"
    kept = {name: values[name] for name in ("featuresCol", "inputCols", "binaryFormat", "nullPolicy")}
    score = _scorer(model, kept, tuple(inputs), names, output)
    return F.pandas_udf(score, "double" if field.kind == "double" else f"array<{number}>")  # type: ignore[call-overload]


def _scorer(
    model: ScoringModel, values: Mapping[str, Any], inputs: Sequence[InputFacts], names: Sequence[str], output: str
) -> Callable[[Iterator[tuple[pd.Series, ...]]], Iterator[pd.Series]]:
    def score_batches(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
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
            found = dict(zip(names, given, strict=True))
            firsts = {name: _first(name, column, values["nullPolicy"]) for name, column in found.items()}
            schema = T.StructType([T.StructField(name, _type(first)) for name, first in firsts.items()])
            typed = replace(model, features=feature_specs(schema, values, inputs))
            result = typed.score_pandas([found[column.name] for column in typed.columns])[output]
            yield pd.Series(list(result) if result.ndim > 1 else result)

    return score_batches


def _type(first: Any) -> T.DataType:
    """The Spark type of such values."""
    if isinstance(first, (bytes, bytearray)):
        return T.BinaryType()
    if isinstance(first, str):
        return T.StringType()
    if isinstance(first, (np.ndarray, list)):
        array = np.asarray(first)
        if array.dtype == object:  # with a null among the numbers, which is told where they are read
            array = array.astype(np.float64)
        return T.ArrayType(spark_type(array.dtype.name))
    return spark_type(np.asarray(first).dtype.name)


def _first(name: str, series: pd.Series, policy: Any) -> Any:
    """A value of the column; where all are missing, the one that stands for them."""
    values = series.dropna()
    if len(values):
        return values.iloc[0]
    given = policy.get(name) if isinstance(policy, dict) else None
    if isinstance(given, dict):
        return given["fill"]
    raise DataError(
        explain(
            f"The column {name!r} can't be scored.",
            expected="no nulls",
            received=f"{len(series)} null or NaN in a batch of {len(series)} rows",
            fix="Clean the column, for example with coalesce. A Vector is given as vector_to_array(column): a function "
            "sees nulls in its place.",
        )
    )
