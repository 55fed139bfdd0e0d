"""`transform`: a pandas UDF over the feature columns alone, and the columns made of its result.

The other columns never leave the JVM. The model is loaded once in each Python worker.
"""

from __future__ import annotations

import functools
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import cloudpickle
import numpy as np
import pandas as pd
from pyspark import TaskContext
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl.data.schema import Column, FeatureSpec, quoted
from spark_dl.errors import DataError, explain
from spark_dl.score.heads import Head

__all__ = ["ScoringModel", "score"]


@dataclass(frozen=True)
class ScoringModel:
    """What a Python worker needs to score; equal where the model's bytes are equal.

    Attributes:
        content: `.keras` bytes.
        custom_objects: cloudpickled dict of registered Keras objects.
        features: how the columns become the input.
        head: what the output means.
        batch_size: rows scored at once.
    """

    content: bytes = field(repr=False, compare=False)
    custom_objects: bytes = field(repr=False, compare=False)
    features: FeatureSpec
    head: Head
    batch_size: int
    digest: str

    @staticmethod
    def of(content: bytes, custom_objects: bytes, features: FeatureSpec, head: Head, batch_size: int) -> ScoringModel:
        """The record, with the digest of the bytes."""
        digest = hashlib.sha256(content + custom_objects).hexdigest()
        return ScoringModel(content, custom_objects, features, head, batch_size, digest)


def score(frame: DataFrame, model: ScoringModel, outputs: Mapping[str, str]) -> DataFrame:
    """The DataFrame with the model's output columns added.

    Args:
        frame: has the feature columns.
        model: what to score with.
        outputs: field of the head -> name of the new column; fields that aren't named are not computed.

    Raises:
        DataError: an output column is there already.
    """
    exact = (frame.sparkSession.conf.get("spark.sql.caseSensitive", "false") or "").lower() == "true"
    present = set(frame.columns) if exact else {name.lower() for name in frame.columns}
    taken = [name for name in outputs.values() if (name if exact else name.lower()) in present]
    if taken:
        raise DataError(
            explain(
                f"The DataFrame has a column {taken[0]!r} already.",
                expected="new names for the output columns",
                received=f"columns {', '.join(frame.columns)}",
                fix="Drop the column, or set another name, for example with setPredictionCol.",
            )
        )
    kinds = {name: kind for name, kind in model.head.fields().items() if name in outputs}
    types = ", ".join(f"{name} {'array<double>' if kind == 'vector' else kind}" for name, kind in kinds.items())
    udf = F.pandas_udf(_scorer(model, list(kinds)), types)  # type: ignore[call-overload]
    scored = f"spark_dl_{uuid.uuid4().hex[:8]}"
    result = frame.withColumn(scored, udf(*[_input(column) for column in model.features.columns]))
    added = {}
    for name, kind in kinds.items():
        value = F.col(f"{scored}.{name}")
        added[outputs[name]] = array_to_vector(value) if kind == "vector" else value
    return result.withColumns(added).drop(scored)


def _input(column: Column) -> SparkColumn:
    value = F.col(quoted(column.name))
    return vector_to_array(value, "float32") if column.kind == "vector" else value


def _scorer(
    model: ScoringModel, wanted: list[str]
) -> Callable[[Iterator[tuple[pd.Series, ...]]], Iterator[pd.DataFrame]]:
    def score_batches(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        predict = _loaded(model)
        for series in batches:  # a lone column comes without the tuple
            inputs = _tensor(series if isinstance(series, tuple) else (series,), model.features)
            parts = [predict(inputs[i : i + model.batch_size]) for i in range(0, len(inputs), model.batch_size)]
            columns = model.head.columns(np.concatenate(parts)) if parts else {name: np.empty(0) for name in wanted}
            yield pd.DataFrame({n: columns[n] if columns[n].ndim == 1 else list(columns[n]) for n in wanted})

    return score_batches


# The worker's process outlives the task; this is the one state that a module keeps, and it is only a cache.
@functools.lru_cache(maxsize=2)
def _loaded(model: ScoringModel) -> Callable[[np.ndarray], np.ndarray]:
    """The model's prediction function, kept in this Python worker for the next task."""
    context = TaskContext.get()
    # As many threads as the task has cores: its neighbours compute, too.
    threads = str(context.cpus() if context else 1)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", threads)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from spark_dl.train.model_bytes import from_bytes

    keras_model = from_bytes(model.content, cloudpickle.loads(model.custom_objects), compiled=False)
    signature = [tf.TensorSpec((None, *model.features.shape), model.features.dtype)]
    call = tf.function(lambda inputs: keras_model(inputs, training=False), input_signature=signature)
    return lambda inputs: call(tf.constant(inputs)).numpy()


def _tensor(series: tuple[pd.Series, ...], spec: FeatureSpec) -> np.ndarray:
    """The model's input from the columns of one batch: shape (rows, *spec.shape)."""
    parts = [_matrix(values, column) for values, column in zip(series, spec.columns, strict=True)]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    wanted = np.dtype(spec.dtype)
    if wanted.kind in "iu" and not np.can_cast(joined.dtype, wanted):
        limits = np.iinfo(wanted)
        if len(joined) and (joined.min() < limits.min or joined.max() > limits.max):
            names = ", ".join(column.name for column in spec.columns)
            raise DataError(
                explain(
                    f"Numbers of {names} are beyond what the model's input can hold.",
                    expected=f"{limits.min} to {limits.max} ({wanted})",
                    received=f"{joined.min()} to {joined.max()} in a batch of {len(joined)} rows",
                )
            )
    return joined.astype(wanted, copy=False).reshape(-1, *spec.shape)


def _matrix(values: pd.Series, column: Column) -> np.ndarray:
    if values.isna().any():
        raise _unfit(column, "no nulls", f"{int(values.isna().sum())} null or NaN in a batch of {len(values)} rows")
    if column.kind == "scalar":
        return np.asarray(values).reshape(-1, 1)
    rows = values.to_numpy()
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    if (lengths != column.width).any():
        raise _unfit(column, f"{column.width} numbers a row", f"a row of {lengths[lengths != column.width][0]}")
    matrix = np.concatenate(rows).reshape(-1, column.width) if len(rows) else np.empty((0, column.width))
    if matrix.dtype == object or (matrix.dtype.kind == "f" and np.isnan(matrix.min(initial=0))):
        raise _unfit(column, "no nulls and no NaN in the arrays", "some")
    return matrix


def _unfit(column: Column, expected: str, received: str) -> DataError:
    return DataError(
        explain(
            f"The column {column.name!r} can't be scored.",
            expected=expected,
            received=received,
            fix="Clean the column before transform, for example with dropna or fillna.",
        )
    )
