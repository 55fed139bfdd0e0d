"""A fitted model as a Spark SQL function, which finds the types of its arguments when it is called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dl.data.column import Column
from spark_dl.data.columns import kind_of
from spark_dl.data.schema import spark_type
from spark_dl.errors import DataError, explain
from spark_dl.fit.columns import InputFacts, feature_specs, input_columns
from spark_dl.options import ColumnOptions
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.score.series import output_series
from spark_dl.spark.python_worker import purge_zipimport_cache

__all__ = ["sql_function"]


def sql_function(model: ScoringModel, options: ColumnOptions, inputs: Sequence[InputFacts], output: str) -> Any:
    """Make a pandas UDF whose arguments are the feature columns, in the order of the model's options.

    Args:
        model: The scoring model, without features; each call adds them.
        options: The column options.
        inputs: The Keras model's inputs.
        output: The field of the head to return.

    Returns:
        The pandas UDF.
    """
    named, _ = input_columns(options, [one.name for one in inputs])
    names = list(dict.fromkeys(column for columns in named.values() for column in columns))
    field = model.head.fields()[output]
    score = _scorer(model, options.part(ColumnOptions), tuple(inputs), names, output)
    return F.pandas_udf(score, field.array_type)  # type: ignore[attr-defined]


def _scorer(
    model: ScoringModel, options: ColumnOptions, inputs: Sequence[InputFacts], names: Sequence[str], output: str
) -> Callable[[Iterator[tuple[pd.Series, ...]]], Iterator[pd.Series]]:
    def score_batches(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        purge_zipimport_cache()
        for series in batches:  # Spark passes a single argument without a tuple
            given = series if isinstance(series, tuple) else (series,)
            if len(given) != len(names):
                raise DataError(
                    explain(
                        "The function isn't given the model's feature columns.",
                        expected=f"{len(names)} arguments: {', '.join(names)}",
                        received=f"{len(given)}",
                        fix=f"Call it with ({', '.join(names)}).",
                    )
                )
            if not len(given[0]):
                yield pd.Series([], dtype=float)
                continue
            found = {name: _without_decimals(column) for name, column in zip(names, given, strict=True)}
            if model.nulls != "error" and any(not len(_present(column)) for column in found.values()):
                yield pd.Series([None] * len(given[0]), dtype=object)  # also for "drop": a function drops no rows
                continue
            firsts = {name: _first(name, column, options.null_policy) for name, column in found.items()}
            schema = T.StructType([T.StructField(name, _type(name, first)) for name, first in firsts.items()])
            # Spark passes integer columns with nulls as floats.
            found = {
                name: column.fillna(firsts[name]).astype("int64")
                if _whole(name, column, options.null_policy)
                else column
                for name, column in found.items()
            }
            typed = replace(model, features=feature_specs(schema, options, inputs))
            scored = typed.score_pandas([_flat(found[column.name], column) for column in typed.columns])
            values = model.head.fields()[output].nested(scored.columns[output])
            yield output_series(values, scored.unscorable)

    return score_batches


def _present(column: Any) -> Any:
    """Return the values of a column without nulls; a struct as it is, which `_type` refuses."""
    return column.dropna() if isinstance(column, pd.Series) else column


def _without_decimals(column: Any) -> Any:
    """Convert a column of decimals, or (nested) arrays of decimals: SQL literals such as 0.5 are decimals.

    Returns:
        The column, as int64 if all numbers are whole, so that those that a float would round are found, else float64.
    """
    values: Any = column.dropna() if isinstance(column, pd.Series) else pd.Series()
    if not len(values) or not any(isinstance(one, Decimal) for one in _innermost(values.iloc[0])):
        return column
    decimals = pa.array(column, from_pandas=True)
    for number in (pa.int64(), pa.float64()):
        with contextlib.suppress(pa.ArrowInvalid):
            return decimals.cast(_of_elements(decimals.type, number)).to_pandas().set_axis(column.index)
    return column


def _innermost(value: Any) -> Iterator[Any]:
    """Yield the elements of nested arrays; a value that is no array itself."""
    if isinstance(value, (list, np.ndarray)):
        for part in value:
            yield from _innermost(part)
    else:
        yield value


def _of_elements(kind: pa.DataType, element: pa.DataType) -> pa.DataType:
    """Return an Arrow type with other elements in its lists."""
    return pa.list_(_of_elements(kind.value_type, element)) if pa.types.is_list(kind) else element


def _flat(values: Any, column: Column) -> Any:
    """Return a column of nested arrays as flat ones, as Spark selects it for `transform`; others unchanged."""
    if not column.nested:
        return values
    rows = pa.array(values, from_pandas=True)
    return kind_of(column).from_parquet(rows, column).to_pandas().set_axis(values.index)


def _type(name: str, first: Any) -> T.DataType:
    """Return the Spark type of a value of a column."""
    if isinstance(first, (bytes, bytearray)):
        return T.BinaryType()
    if isinstance(first, str):
        return T.StringType()
    if isinstance(first, (list, np.ndarray)) and any(isinstance(part, (list, np.ndarray)) for part in first):
        inner = [part for part in first if isinstance(part, (list, np.ndarray))]
        return T.ArrayType(_type(name, next((part for part in inner if len(part)), inner[0])))
    array = np.asarray(first)
    if array.ndim == 1 and array.size and all(isinstance(text, str) for text in array):
        return T.ArrayType(T.StringType())
    if array.ndim == 1 and array.dtype == object:
        array = array.astype(np.float64)  # a null becomes NaN, which scoring reports
    if array.ndim > 1 or array.dtype.kind not in "biuf":
        raise DataError(
            explain(
                f"The function can't be given the column {name!r}.",
                expected="a number, an array of numbers or of such arrays, a string or binary",
                received="a struct" if isinstance(first, pd.DataFrame) else type(first).__name__,
                fix="Give a Vector as vector_to_array(column); for images use transform.",
            )
        )
    kind = spark_type(array.dtype.name)
    return T.ArrayType(kind) if array.ndim else kind


def _whole(name: str, column: pd.Series, policy: Any) -> bool:
    """Return whether a float column holds integers and nulls, with an integer as the fill value."""
    given = policy.get(name) if isinstance(policy, dict) else None
    if not isinstance(given, dict) or not isinstance(given["fill"], int) or column.dtype.kind != "f":
        return False
    values = column.dropna()
    return bool(column.isna().any() and (values == values.round()).all())


def _first(name: str, series: pd.Series, policy: Any) -> Any:
    """Return the first value of a column, or its fill value if it has nulls."""
    values = _present(series)
    given = policy.get(name) if isinstance(policy, dict) else None
    if isinstance(given, dict) and len(values) < len(series):
        return given["fill"]
    if isinstance(series, pd.DataFrame):
        return series  # a struct, which `_type` refuses
    if len(values):
        # An empty array has no type of its own.
        return next((value for value in values if not isinstance(value, np.ndarray) or len(value)), values.iloc[0])
    raise DataError(
        explain(
            f"The column {name!r} can't be scored.",
            expected="no nulls",
            received=f"{len(series)} null or NaN in a batch of {len(series)} rows",
            fix="Clean the column, for example with coalesce.",
        )
    )
