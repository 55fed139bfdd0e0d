"""Scoring of rows in NumPy or pandas, independent of Spark, with the model loaded once per process."""

from __future__ import annotations

import functools
import hashlib
import importlib
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

from spark_dl.data.column import Column
from spark_dl.data.columns import OPEN, decode, decode_tensor, kind_of
from spark_dl.data.ragged import as_array
from spark_dl.data.specs import FeatureSpec
from spark_dl.data.tensors import feature_rows
from spark_dl.errors import DataError, explain
from spark_dl.gc_pause import gc_paused
from spark_dl.io.payload import Payload
from spark_dl.quiet import quiet_imports
from spark_dl.score.engines import KERAS, check_columns, opened
from spark_dl.score.heads import Head
from spark_dl.score.row_errors import ScoringRowErrors, UnscorableRows
from spark_dl.score.unscorable import Scored, known_rows
from spark_dl.spark.python_worker import settle_imports

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["ScoringModel", "import_keras", "loaded", "prepare_worker", "rows_at_once"]

# The maximum size in bytes of images and sparse rows that are decoded at once, as float32.
_DECODED_BYTES = 64 << 20
# The length at which rows of open length are counted then.
_LONG = 1024


@dataclass(frozen=True)
class ScoringModel:
    """Model and specifications that a Python worker needs to score; comparison uses a digest of the model's bytes.

    Attributes:
        content: The `.keras` file as bytes, or the file of another engine.
        custom_objects: The cloudpickled dict of Keras custom objects by name.
        features: The specification of each model input.
        head: The head, which converts outputs to columns.
        batch_size: The maximum number of rows in a batch.
        digest: The SHA-256 of `content` and `custom_objects`, in hex.
        nulls: What becomes of rows with missing values or undecodable bytes, as in the option scoreNullPolicy: "error",
            "null" or "drop".
        engine: The engine that reads `content`, as in the option scoreEngine.
    """

    content: Payload = field(repr=False, compare=False)
    custom_objects: bytes = field(repr=False, compare=False)
    features: tuple[FeatureSpec, ...]
    head: Head
    batch_size: int
    digest: str
    nulls: str = "error"
    engine: str = KERAS

    @property
    def columns(self) -> list[Column]:
        """Feature columns of all inputs, without duplicates."""
        return list(dict.fromkeys(column for spec in self.features for column in spec.columns))

    @property
    def step(self) -> int:
        """Number of rows in a batch."""
        return rows_at_once(self.features, self.batch_size)

    def inputs(self, arrays: Mapping[Column, pa.Array]) -> list[np.ndarray]:
        """Build the model's inputs from one Arrow batch.

        Args:
            arrays: The projected columns of the batch.

        Returns:
            An array of shape (rows, *shape) for each input; for bytes, still encoded objects of shape (rows,).

        Raises:
            DataError: Rows can't be scored.
        """
        return self._inputs(arrays, ScoringRowErrors(self.features))

    def _inputs(self, arrays: Mapping[Column, pa.Array], errors: ScoringRowErrors) -> list[np.ndarray]:
        extracted = {column: decode(array, column) for column, array in arrays.items()}
        keep = np.ones(len(next(iter(arrays.values()))), bool)
        for column, found in extracted.items():
            errors.add_extracted(column, found)
            np.logical_and(keep, found.usable, out=keep)
        inputs = []
        for spec in sorted(self.features, key=lambda spec: not spec.coding):  # undecodable rows aren't looked at again
            rows = as_array(feature_rows(spec, extracted, spec.dtype, keep, errors))
            inputs.append((spec, rows if spec.coding else rows.reshape(-1, *spec.shape)))
        return [dict(inputs)[spec] for spec in self.features]

    def score(self, arrays: Mapping[Column, pa.Array]) -> Scored:
        """Score one Arrow batch.

        Args:
            arrays: The projected columns of the batch.

        Raises:
            DataError: Rows can't be scored, other than those for which `nulls` has another rule.
        """
        if self.nulls == "error":
            return Scored(self.outputs(self.inputs(arrays)))
        errors = UnscorableRows(self.features, len(next(iter(arrays.values()))))
        inputs = self._inputs(arrays, errors)
        return Scored(self.outputs(inputs, errors.marked), errors.marked)

    def score_pandas(self, columns: Sequence[pd.Series]) -> Scored:
        """Score rows in pandas.

        Args:
            columns: A Series for each of `self.columns`; a sparse Vector may be a DataFrame of its struct fields.

        Raises:
            DataError: Rows can't be scored.
        """
        pairs = zip(self.columns, columns, strict=True)
        arrays = {column: kind_of(column).from_pandas(series, column) for column, series in pairs}
        return self.score(arrays)

    def outputs(self, inputs: Sequence[np.ndarray], unscorable: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Compute the values of the head's fields from the model's inputs, in batches.

        Args:
            inputs: An array for each input.
            unscorable: Boolean, shape (rows,): rows to leave out, whose values mean nothing; rows with images that fail
                to be decoded are marked. None to compute all rows.

        Raises:
            DataError: The model fails on some rows.
        """
        predict, step = loaded(self), self.step
        parts: list[list[np.ndarray]] = []
        for start in range(0, max(1, len(inputs[0])), step):
            given = [one[start : start + step] for one in inputs]
            try:
                if unscorable is None:
                    parts.append(predict(*given))
                else:
                    parts.append(known_rows(predict, self.features, given, unscorable[start : start + step]))
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
        content: bytes,
        custom_objects: bytes,
        features: Sequence[FeatureSpec],
        head: Head,
        batch_size: int,
        nulls: str = "error",
        engine: str = KERAS,
    ) -> ScoringModel:
        """Create a scoring model, with the digest of its bytes.

        Args:
            content: The `.keras` file as bytes, or the file of another engine.
            custom_objects: The cloudpickled dict of Keras custom objects by name.
            features: The specification of each model input.
            head: The head, which converts outputs to columns.
            batch_size: The maximum number of rows in a batch.
            nulls: The value of scoreNullPolicy.
            engine: The value of scoreEngine.

        Raises:
            OptionError: The engine can't read a feature column.
        """
        check_columns(engine, features)
        digest = hashlib.sha256(content)
        digest.update(custom_objects)
        return ScoringModel(
            *(Payload(content), custom_objects, tuple(features), head, batch_size, digest.hexdigest(), nulls, engine)
        )


def rows_at_once(features: Sequence[FeatureSpec], batch_size: int) -> int:
    """Return the number of rows in a batch: `batch_size`, or fewer for inputs that are decoded and become large."""
    decoded = 4 * sum(
        math.prod(_LONG if size == OPEN else size for size in spec.shape) for spec in features if spec.coding
    )
    return min(batch_size, max(1, _DECODED_BYTES // decoded)) if decoded else batch_size


def prepare_worker() -> None:
    """Configure TensorFlow for a Spark task before its import; outside a task this does nothing.

    TensorFlow gets as many threads as the task has cores, as other tasks compute on the same host. Temporary files go
    into a directory that Spark removes: Spark kills Python workers, which can't remove the files that TensorFlow writes
    when it traces a graph.
    """
    context = _task()
    if context is None:
        return
    threads = str(context.cpus())
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", threads)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    directory = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    if os.path.isdir(directory):
        tempfile.tempdir = directory


def import_keras() -> None:
    """Import TensorFlow, Keras and what loads models. In a Spark task, later tasks of the worker gain by it."""
    in_task = _task() is not None  # else other threads may write to the standard error
    with quiet_imports() if in_task else gc_paused():
        importlib.import_module("spark_dl.train.model.serialization")
    if in_task:
        settle_imports()


def _task() -> Any:
    """Return the context of the Spark task that this process runs; None for none."""
    pyspark = sys.modules.get("pyspark")  # already imported in a task
    return pyspark.TaskContext.get() if pyspark else None


# The only module-level state, and only a cache: Spark reuses Python workers, so that later tasks find the model loaded.
@functools.lru_cache(maxsize=2)
def loaded(model: ScoringModel) -> Callable[..., list[np.ndarray]]:
    """Load a model, cached in the process, as a function from its inputs to its outputs, both in the model's order."""
    prepare_worker()
    if model.engine != KERAS:
        check_columns(model.engine, model.features)  # an SQL function knows its arguments only here
        context = _task()
        threads = context.cpus() if context else 0
        return opened(model.engine, model.content.load(), [spec.dtype for spec in model.features], threads)
    import_keras()
    import keras
    import tensorflow as tf

    from spark_dl.train.model.keras_settings import apply_settings
    from spark_dl.train.model.serialization import from_file, settings_of

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        model.content.write(path)
        settings = settings_of(path)
        keras_model = from_file(path, cloudpickle.loads(model.custom_objects), compiled=False)
    specs = model.features
    signature = [
        tf.TensorSpec((None,), "string") if spec.coding else tf.TensorSpec((None, *spec.shape), spec.dtype)
        for spec in specs
    ]

    @functools.partial(tf.function, input_signature=signature, autograph=False)
    def call(*inputs: Any) -> list[Any]:
        tensors = [
            decode_tensor(given, spec.coding, spec.shape, spec.dtype) for given, spec in zip(inputs, specs, strict=True)
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
