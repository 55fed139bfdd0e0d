"""Rows that are converted once, for several fits."""

from __future__ import annotations

import contextlib
import os
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from spark_dl.data.convert import ConversionSpec
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import DataError, StoreError, explain
from spark_dl.fit.input_plan import InputPlan
from spark_dl.io.store import Store

__all__ = ["ConvertedData", "comparable", "convert"]


@dataclass
class ConvertedData:
    """A DataFrame's rows as an estimator's fits read them, in its cacheDir until `close`, or the end of a `with`.

    Where neither comes, they are removed with the last reference to this object, or as the process ends.

    Attributes:
        rows: for training.
        validationRows: for validation.
        bytes: of the packed rows.
        schema: of the DataFrame.
        plan: which column became what; `print` shows it.
        files: of what the DataFrame was made; empty where Spark can't tell.
    """

    rows: int
    validationRows: int
    bytes: int
    schema: StructType
    plan: InputPlan
    files: tuple[str, ...]
    spark: SparkSession = field(repr=False)
    _dataset: ConvertedDataset = field(repr=False)
    _conversion: ConversionSpec = field(repr=False)
    _owned: contextlib.ExitStack = field(repr=False)
    _remove: weakref.finalize[[int, contextlib.ExitStack], ConvertedData] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A generator's `close` isn't called by those who leave a loop over it, and a notebook's cell has no `with`.
        self._remove = weakref.finalize(self, _close_in_process, os.getpid(), self._owned)

    @staticmethod
    def of(
        frame: DataFrame,
        dataset: ConvertedDataset,
        conversion: ConversionSpec,
        plan: InputPlan,
        owned: contextlib.ExitStack,
    ) -> ConvertedData:
        """The handle.

        Args:
            frame: what was converted.
            dataset: what came of it.
            conversion: how.
            plan: the same as a table.
            owned: what is closed with the handle.
        """
        with owned:  # until the handle owns it
            return ConvertedData(
                rows=dataset.rows(validation=False),
                validationRows=dataset.rows(validation=True),
                bytes=dataset.bytes,
                schema=frame.schema,
                plan=plan,
                files=tuple(frame.inputFiles()),
                spark=frame.sparkSession,
                _dataset=dataset,
                _conversion=comparable(conversion),
                _owned=owned.pop_all(),
            )

    def dataset_for(self, conversion: ConversionSpec) -> ConvertedDataset:
        """The rows, for a fit that packs them like this.

        Raises:
            StoreError: they have been removed.
            DataError: they were packed in another way.
        """
        if not self._remove.alive:
            raise StoreError(
                explain("The converted rows have been removed.", fix="Fit before close(), or convert anew.")
            )
        wanted, held = comparable(conversion), self._conversion
        if len(wanted.labels) == len(held.labels):  # labels that fit one loss fit another that takes any
            pairs = zip(held.labels, wanted.labels, strict=True)
            held = replace(held, labels=tuple(replace(own, loss=one.loss and own.loss) for own, one in pairs))
        other = [name for name, value in vars(wanted).items() if value != getattr(held, name)]
        if other:
            raise DataError(
                explain(
                    "The rows were converted in another way than this fit needs them.",
                    expected=f"the same {', '.join(other)}: {[getattr(wanted, name) for name in other]}",
                    received=f"{[getattr(held, name) for name in other]}",
                    fix="Convert them anew, with this estimator.",
                )
            )
        # Its names of inputs and outputs may be other ones: a function that builds a model gives it new ones each time.
        keys = [tensor.key for tensor in conversion.tensors]
        tensors = tuple(replace(t, key=key) for t, key in zip(self._dataset.tensors, keys, strict=True))
        return replace(self._dataset, tensors=tensors)

    def close(self) -> None:
        """Remove the rows; no error where they are removed already."""
        self._remove()

    def __enter__(self) -> ConvertedData:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def convert(dataset: DataFrame, estimator: Any) -> ConvertedData:
    """Convert a DataFrame once, for several fits of an estimator: `estimator.fitOnDataset(converted, params)`.

    Example:

        >>> import keras
        >>> from pyspark.sql import SparkSession
        >>> from spark_dl import KerasRegressor
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> train = spark.range(100).selectExpr("id / 100 AS x", "id / 50 AS y")
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> regressor = KerasRegressor(model=model, inputCols=["x"], labelCol="y", tracking=None, verbose=0)
        >>> with convert(train, regressor) as converted:
        ...     models = [regressor.fitOnDataset(converted, {regressor.batchSize: size}) for size in (10, 50)]
        >>> converted.rows, len(models)
        (100, 2)
        >>> spark.stop()

    Args:
        dataset: the rows.
        estimator: tells the columns and the model that they feed.

    Raises:
        DataError: columns or rows that can't be fed.
    """
    converted: ConvertedData = estimator.convert(dataset)
    return converted


def _close_in_process(process: int, owned: contextlib.ExitStack) -> None:
    """Remove what this process owns: one that was forked from it ends without touching that."""
    if process == os.getpid():
        owned.close()


def comparable(conversion: ConversionSpec) -> ConversionSpec:
    """Without what doesn't change the rows: where they go, and the names of the model's inputs and outputs."""
    features = tuple(replace(spec, key="") for spec in conversion.features)
    labels = tuple(replace(spec, key="") for spec in conversion.labels)
    return replace(conversion, store=Store(""), features=features, labels=labels)
