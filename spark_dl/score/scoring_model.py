"""Scoring of rows in NumPy or pandas, independent of Spark, with the model loaded once per process."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa

from spark_dl.data.arrow import Extracted
from spark_dl.data.coding import decode
from spark_dl.data.column import Column, FeatureSpec
from spark_dl.data.image_files import prepare_images
from spark_dl.data.limits import check_numbers
from spark_dl.data.sparse import extract_sparse
from spark_dl.errors import DataError, explain
from spark_dl.gc_pause import gc_paused
from spark_dl.io.payload import Payload
from spark_dl.score.heads import Head

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["ScoringModel", "checked", "loaded", "prepare_worker", "rows_at_once"]

# The maximum size in bytes of images and sparse rows that are decoded at once, as float32.
_DECODED_BYTES = 64 << 20
# The fields of a Spark ML Vector's struct.
_FIELD_TYPES = {
    "type": pa.int8(),
    "size": pa.int32(),
    "indices": pa.list_(pa.int32()),
    "values": pa.list_(pa.float64()),
}


@dataclass(frozen=True)
class ScoringModel:
    """Model and specifications that a Python worker needs to score; comparison uses a digest of the model's bytes.

    Attributes:
        content: The `.keras` file as bytes.
        custom_objects: The cloudpickled dict of Keras custom objects by name.
        features: The specification of each model input.
        head: The head, which converts outputs to columns.
        batch_size: The maximum number of rows in a batch.
        digest: The SHA-256 of `content` and `custom_objects`, in hex.
    """

    content: Payload = field(repr=False, compare=False)
    custom_objects: bytes = field(repr=False, compare=False)
    features: tuple[FeatureSpec, ...]
    head: Head
    batch_size: int
    digest: str

    @property
    def columns(self) -> list[Column]:
        """Feature columns of all inputs, without duplicates."""
        return list(dict.fromkeys(column for spec in self.features for column in spec.columns))

    @property
    def step(self) -> int:
        """Number of rows in a batch."""
        return rows_at_once(self.features, self.batch_size)

    def inputs(self, values: Mapping[Column, np.ndarray]) -> list[np.ndarray]:
        """Build the model's inputs from the columns' values.

        Args:
            values: The values by column, of shape (rows, width), or (rows,) for bytes.

        Raises:
            DataError: Rows can't be scored.
        """
        return [_joined([values[column] for column in spec.columns], spec) for spec in self.features]

    def score_pandas(self, columns: Sequence[pd.Series]) -> dict[str, np.ndarray]:
        """Score rows in pandas and return the values of the head's fields.

        Args:
            columns: A Series for each of `self.columns`; a sparse Vector may be a DataFrame of its struct fields.

        Raises:
            DataError: Rows can't be scored.
        """
        return self.outputs(
            self.inputs({column: _matrix(one, column) for column, one in zip(self.columns, columns, strict=True)})
        )

    def outputs(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the values of the head's fields from the model's inputs, in batches.

        Raises:
            DataError: The model fails on some rows.
        """
        predict, step = loaded(self), self.step
        parts: list[list[np.ndarray]] = []
        for start in range(0, max(1, len(inputs[0])), step):
            given = [one[start : start + step] for one in inputs]
            try:
                parts.append(predict(*given))
            except Exception as error:
                raise self._failed(predict, given, start, len(inputs[0]), error) from error
        return self.head.columns([np.concatenate(same) for same in zip(*parts, strict=True)])

    def _failed(
        self,
        predict: Callable[..., list[np.ndarray]],
        inputs: Sequence[np.ndarray],
        start: int,
        batch: int,
        error: Exception,
    ) -> DataError:
        """Build the error for a batch on which the model fails, with the first row on which it also fails alone."""
        names = ", ".join(repr(column.name) for column in self.columns)
        reason = str(error).strip().split("\n")[0][:300]
        for row in range(len(inputs[0])):
            try:
                predict(*(one[row : row + 1] for one in inputs))
            except Exception as alone:
                reason = f"{type(alone).__name__}: {str(alone).strip()}"[:600]
                return DataError(
                    explain(
                        f"The model can't compute a row of {names}.",
                        expected="values that the model takes",
                        received=f"row {start + row} of a batch of {batch} rows; {reason}",
                        fix="Look at that row's values: an image that is damaged, an index beyond an embedding.",
                    )
                )
        return DataError(
            explain(
                f"The model can't compute rows of {names} together.",
                expected=f"a model that takes {len(inputs[0])} rows at once",
                received=f"{type(error).__name__}: {reason}",
                fix="Set scoreBatchSize lower.",
            )
        )

    def ship(self, spark: SparkSession) -> ScoringModel:
        """Return a copy whose content can be sent to the session's tasks inside a function."""
        return replace(self, content=self.content.ship(spark))

    @staticmethod
    def of(
        content: bytes, custom_objects: bytes, features: Sequence[FeatureSpec], head: Head, batch_size: int
    ) -> ScoringModel:
        """Create a scoring model, with the digest of its bytes.

        Args:
            content: The `.keras` file as bytes.
            custom_objects: The cloudpickled dict of Keras custom objects by name.
            features: The specification of each model input.
            head: The head, which converts outputs to columns.
            batch_size: The maximum number of rows in a batch.
        """
        digest = hashlib.sha256(content + custom_objects).hexdigest()
        return ScoringModel(Payload(content), custom_objects, tuple(features), head, batch_size, digest)


def rows_at_once(features: Sequence[FeatureSpec], batch_size: int) -> int:
    """Return the number of rows in a batch: `batch_size`, or fewer for inputs that are decoded and become large."""
    decoded = 4 * sum(math.prod(spec.shape) for spec in features if spec.coding)
    return min(batch_size, max(1, _DECODED_BYTES // decoded)) if decoded else batch_size


def prepare_worker() -> None:
    """Configure TensorFlow for a Spark task before its import; outside a task this does nothing.

    TensorFlow gets as many threads as the task has cores, as other tasks compute on the same host. Temporary files go
    into a directory that Spark removes: Spark kills Python workers, which can't remove the files that TensorFlow writes
    when it traces a graph.
    """
    pyspark = sys.modules.get("pyspark")  # already imported in a task
    context = pyspark.TaskContext.get() if pyspark else None
    if context is None:  # not a Spark task
        return
    threads = str(context.cpus())
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", threads)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    directory = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    if os.path.isdir(directory):
        tempfile.tempdir = directory


# The only module-level state, and only a cache: Spark reuses Python workers, so that later tasks find the model loaded.
@functools.lru_cache(maxsize=2)
def loaded(model: ScoringModel) -> Callable[..., list[np.ndarray]]:
    """Load a model, cached in the process, as a function from its inputs to its outputs, both in the model's order."""
    prepare_worker()
    with gc_paused():
        import keras
        import tensorflow as tf

        from spark_dl.train.model.keras_settings import apply_settings
        from spark_dl.train.model.serialization import from_bytes, settings_of

    content = model.content.load()
    settings = settings_of(content)
    keras_model = from_bytes(content, cloudpickle.loads(model.custom_objects), compiled=False)
    specs = model.features
    signature = [
        tf.TensorSpec((None,), "string") if spec.coding else tf.TensorSpec((None, *spec.shape), spec.dtype)
        for spec in specs
    ]

    @functools.partial(tf.function, input_signature=signature, autograph=False)
    def call(*inputs: Any) -> list[Any]:
        tensors = [
            decode(given, spec.coding, spec.shape, spec.dtype) if spec.coding else given
            for given, spec in zip(inputs, specs, strict=True)
        ]
        named = {spec.key: tensor for spec, tensor in zip(specs, tensors, strict=True)}
        result = keras_model(named if len(specs) > 1 else tensors[0], training=False)
        return list(keras.tree.flatten(result))

    def predict(*inputs: np.ndarray) -> list[np.ndarray]:
        given = (tf.constant(part, spec.dtype) for part, spec in zip(inputs, signature, strict=True))
        with apply_settings(settings):  # the first call traces the graph
            # TensorFlow would warn of too many traces when several models are called, one after the other.
            graph = call.get_concrete_function()
        return [output.numpy() for output in graph(*given)]

    return predict


def _joined(parts: Sequence[np.ndarray], spec: FeatureSpec) -> np.ndarray:
    """Build one model input from its columns' values.

    Args:
        parts: The values of each column, of shape (rows, width), or (rows,) for bytes.
        spec: The input's specification.

    Returns:
        An array of shape (rows, *spec.shape); for bytes, still encoded objects of shape (rows,).

    Raises:
        DataError: Numbers are infinite or the input's dtype can't represent them, or bytes aren't a supported image.
    """
    if spec.coding:
        if spec.coding != "image":
            return parts[0]
        images, found = prepare_images(parts[0], spec.shape[-1])
        for reason, count in found.items():
            alone = (prepare_images(parts[0][row : row + 1], spec.shape[-1])[1] for row in range(len(images)))
            wrong = np.array([reason in reasons for reasons in alone])
            received = f"{count} rows that are none, {_rows(wrong)}"
            raise _unfit(spec.columns[0], f"images that can be decoded ({reason})", received)
        return images
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    wanted = np.dtype(spec.dtype)
    if wanted.kind in "iu" and not np.can_cast(whole.dtype, wanted):
        limits = np.iinfo(wanted)
        if len(whole) and (whole.min() < limits.min or whole.max() > limits.max):
            names = ", ".join(column.name for column in spec.columns)
            raise DataError(
                explain(
                    f"Numbers of {names} are beyond what the model's input can hold.",
                    expected=f"{limits.min} to {limits.max} ({wanted})",
                    received=f"{whole.min()} to {whole.max()} in a batch of {len(whole)} rows",
                )
            )
    with np.errstate(over="ignore"):
        fed_numbers = whole.astype(wanted, copy=False)
    if wanted.kind not in "biu" and not np.isfinite(fed_numbers).all():
        raise _infinite(parts, spec)
    for part, column in zip(parts, spec.columns, strict=True):
        if part.dtype.kind in "iu":
            check_numbers(part, column.name, spec.dtype)
    return fed_numbers.reshape(-1, *spec.shape)


def _infinite(parts: Sequence[np.ndarray], spec: FeatureSpec) -> DataError:
    """Build the error for the first column with an infinite number or a number outside the input dtype's range."""
    with np.errstate(over="ignore"):
        wrong = [~np.isfinite(part.astype(spec.dtype)).all(axis=1) for part in parts]
    index = next(index for index, rows in enumerate(wrong) if rows.any())
    row = int(np.argmax(wrong[index]))
    with np.errstate(over="ignore"):
        number = parts[index][row][~np.isfinite(parts[index][row].astype(spec.dtype))][0]
    expected = f"finite numbers that the model's input can hold ({spec.dtype})"
    what = "beyond it" if np.isfinite(number) else "with an infinite number"
    received = f"{number}; {int(wrong[index].sum())} rows {what} in a batch of {len(wrong[index])}"
    return _unfit(spec.columns[index], expected, f"{received}, the first is row {row}")


def _rows(wrong: np.ndarray) -> str:
    """Describe the marked rows of a batch."""
    count = int(wrong.sum())
    return f"in {count} row{'s' * (count != 1)} of a batch of {len(wrong)}, the first is row {int(np.argmax(wrong))}"


def checked(extracted: Extracted, column: Column) -> np.ndarray:
    """Return a column's values after checking that all are usable: shape (rows, width), or (rows,) for bytes.

    Raises:
        DataError: A value is missing, infinite or outside the input dtype's range, or a row has a wrong length.
    """
    if extracted.lengths:
        raise _of_length(column, next(iter(extracted.lengths)), extracted.missing)
    if extracted.missing.any():
        raise _missing(column, "no nulls and no NaN", extracted.missing)
    if not extracted.usable.all():
        wrong = ~extracted.usable
        raise _unfit(column, "finite numbers", f"{int(wrong.sum())} infinite, {_rows(wrong)}")
    if extracted.beyond is not None and extracted.beyond.any():
        expected = f"numbers that the model's input can hold ({column.sparse})"
        raise _unfit(column, expected, f"{int(extracted.beyond.sum())} beyond it, {_rows(extracted.beyond)}")
    return extracted.values


def _matrix(values: Any, column: Column) -> np.ndarray:
    if column.sparse:
        return checked(extract_sparse(_fields(values), column.width, column.sparse), column)
    if column.fill is not None:
        infinite = column.kind == "scalar" and np.dtype(column.dtype).kind == "f"
        values = (values.replace([np.inf, -np.inf], np.nan) if infinite else values).fillna(column.fill)
    if values.isna().any():
        raise _missing(column, "no nulls", values.isna().to_numpy())
    if column.kind == "scalar":
        # pandas converts integers with nulls to floats.
        return np.asarray(values, None if column.fill is None else column.dtype).reshape(-1, 1)
    rows = values.to_numpy()
    if column.kind == "bytes":
        return np.asarray(rows)
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    if (lengths != column.width).any():
        raise _of_length(column, lengths[lengths != column.width][0], lengths != column.width)
    if column.kind == "binary":
        return np.frombuffer(b"".join(rows), column.dtype).reshape(-1, column.width)
    matrix = np.concatenate(rows).reshape(-1, column.width) if len(rows) else np.empty((0, column.width))
    if matrix.dtype == object or (matrix.dtype.kind == "f" and np.isnan(matrix.min(initial=0))):
        wrong = np.array([pd.isna(np.asarray(row, object)).any() for row in rows])
        if not wrong.any():  # arrays within arrays
            raise _unfit(column, "an array of numbers in each row", f"such as {rows[0]!r}"[:200])
        raise _missing(column, "no nulls and no NaN in the arrays", wrong)
    return matrix


def _fields(values: Any) -> dict[str, pa.Array]:
    """Build Vector fields as Arrow arrays, from a DataFrame of struct fields or a Series of dense rows."""
    if not isinstance(values, pd.DataFrame):
        rows = pa.array(values.astype(object), pa.list_(pa.float64()), from_pandas=True)
        kinds = pa.array(np.ones(len(rows), np.int8), mask=np.asarray(values.isna()))
        empty = pa.array([[]] * len(rows), pa.list_(pa.int32()))
        return {"type": kinds, "size": pa.nulls(len(rows), pa.int32()), "indices": empty, "values": rows}
    return {name: pa.array(values[name], kind, from_pandas=True) for name, kind in _FIELD_TYPES.items()}


def _missing(column: Column, expected: str, wrong: np.ndarray) -> DataError:
    received = f"{int(wrong.sum())} null or NaN in a batch of {len(wrong)} rows, the first in row {np.argmax(wrong)}"
    return _unfit(column, expected, received)


def _of_length(column: Column, length: int, wrong: np.ndarray) -> DataError:
    """Build the error for rows of a wrong length; length 0 also stands for inner arrays of wrong lengths."""
    expected, received = f"{column.width} numbers a row", f"a row of {length}"
    if column.inner:
        expected += f", in arrays of {' x '.join(map(str, column.inner))}"
        received = "arrays of another length" if length == 0 else received
    return _unfit(column, expected, f"{received} {_rows(wrong)}")


def _unfit(column: Column, expected: str, received: str) -> DataError:
    """Build the error for a column that can't be scored."""
    return DataError(
        explain(
            f"The column {column.name!r} can't be scored.",
            expected=expected,
            received=received,
            fix="Clean the column before transform, for example with dropna or fillna.",
        )
    )
