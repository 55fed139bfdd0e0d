"""Rows that are converted once and read by several fits."""

from __future__ import annotations

import contextlib
import os
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.specs import ConversionSpec
from spark_dl.errors import DataError, StoreError, explain
from spark_dl.fit.input_plan import InputPlan
from spark_dl.io.store import Store
from spark_dl.spark.row_source import RowSource

__all__ = ["ConvertedData", "comparable", "convert"]


@dataclass
class ConvertedData:
    """A DataFrame's converted rows, stored in cacheDir until `close()` or the end of a `with`.

    Without either, they are removed with the last reference to this object, or when the process ends.

    Attributes:
        rows: The number of training rows.
        validationRows: The number of validation rows.
        bytes: The size of the converted rows, in bytes.
        schema: The schema of the DataFrame.
        plan: The mapping of columns to the model's inputs and outputs; `print` shows a table.
        source: The files and tables that the DataFrame was read from.
        spark: The Spark session.
    """

    rows: int
    validationRows: int
    bytes: int
    schema: StructType
    plan: InputPlan
    source: RowSource
    spark: SparkSession = field(repr=False)
    _dataset: ConvertedDataset = field(repr=False)
    _conversion: ConversionSpec = field(repr=False)
    _owned: contextlib.ExitStack = field(repr=False)
    _remove: weakref.finalize[[int, contextlib.ExitStack], ConvertedData] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Callers may forget close(): in a notebook, a `with` can't span cells.
        self._remove = weakref.finalize(self, _close_in_process, os.getpid(), self._owned)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the DataFrame was read from; empty if Spark doesn't know them."""
        return self.source.files

    @staticmethod
    def of(
        frame: DataFrame,
        dataset: ConvertedDataset,
        conversion: ConversionSpec,
        plan: InputPlan,
        owned: contextlib.ExitStack,
    ) -> ConvertedData:
        """Make the handle of a converted DataFrame.

        Args:
            frame: The DataFrame.
            dataset: The converted dataset.
            conversion: How its rows were converted.
            plan: The mapping of columns to the model's inputs and outputs.
            owned: The resources that are closed with the handle.
        """
        with owned:  # closes them if the handle can't be made
            return ConvertedData(
                rows=dataset.rows(validation=False),
                validationRows=dataset.rows(validation=True),
                bytes=dataset.bytes,
                schema=frame.schema,
                plan=plan,
                source=RowSource.of(frame),
                spark=frame.sparkSession,
                _dataset=dataset,
                _conversion=comparable(conversion),
                _owned=owned.pop_all(),
            )

    def dataset_for(self, conversion: ConversionSpec) -> ConvertedDataset:
        """Return the converted dataset for a fit that needs this conversion.

        Args:
            conversion: The conversion that the fit needs.

        Raises:
            StoreError: The rows have been removed.
            DataError: The rows were converted with other columns or options.
        """
        if not self._remove.alive:
            raise StoreError(
                explain(
                    "The converted rows have been removed.",
                    expected="rows that are still there",
                    received="close() was called, or their directory is gone",
                    fix="Fit before close(), or convert again.",
                )
            )
        wanted, held = comparable(conversion), self._conversion
        if len(wanted.labels) == len(held.labels):  # a fit whose loss takes any labels can read these
            pairs = zip(held.labels, wanted.labels, strict=True)
            held = replace(held, labels=tuple(replace(own, loss=one.loss and own.loss) for own, one in pairs))
        other = [name for name, value in vars(wanted).items() if value != getattr(held, name)]
        if other:
            raise DataError(
                explain(
                    "The rows were converted in another way than this fit needs them.",
                    expected=f"the same {', '.join(other)}: {[getattr(wanted, name) for name in other]}",
                    received=f"{[getattr(held, name) for name in other]}",
                    fix="Convert them again, with this estimator.",
                )
            )
        # Names of inputs and outputs may differ: modelFn generates new ones at each call.
        pairs_of = zip(self._dataset.tensors, conversion.tensors, strict=True)
        tensors = tuple(replace(one, key=now.key, target=now.target) for one, now in pairs_of)
        return replace(self._dataset, tensors=tensors)

    def close(self) -> None:
        """Remove the converted rows. Further calls do nothing."""
        self._remove()

    def __enter__(self) -> ConvertedData:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def convert(dataset: DataFrame, estimator: Any) -> ConvertedData:
    """Convert a DataFrame once for several fits of an estimator: `estimator.fitOnDataset(converted, params)`.

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
        dataset: The DataFrame.
        estimator: The estimator, with its columns and its model.

    Returns:
        The converted rows, to be closed after the last fit.

    Raises:
        DataError: A column or a value can't be converted for the model.
    """
    converted: ConvertedData = estimator.convert(dataset)
    return converted


def _close_in_process(process: int, owned: contextlib.ExitStack) -> None:
    """Remove the rows if this process owns them: a forked child must not."""
    if process == os.getpid():
        owned.close()


def comparable(conversion: ConversionSpec) -> ConversionSpec:
    """Remove from a conversion what doesn't affect the rows: the store, and the names of inputs and outputs."""
    features = tuple(replace(spec, key="") for spec in conversion.features)
    labels = tuple(replace(spec, key="") for spec in conversion.labels)
    features = tuple(spec if spec.target is None else replace(spec, target="") for spec in features)
    return replace(conversion, store=Store(""), features=features, labels=labels)
