"""Converted rows that several fits of one DataFrame share."""

from __future__ import annotations

import threading
from typing import Protocol, TypeVar

from pyspark.sql import DataFrame

from spark_dl.data.specs import ConversionSpec
from spark_dl.fit.converted import ConvertedData, comparable
from spark_dl.fit.spec import FitSpec

__all__ = ["SharedRows", "StepwiseEstimator"]

M_co = TypeVar("M_co", covariant=True)


class StepwiseEstimator(Protocol[M_co]):
    """Estimator whose fits have the steps check, convert and train, which are called one by one."""

    def _checked(self, dataset: DataFrame) -> tuple[FitSpec, DataFrame]:
        """Build the specification of a fit; return it with the rows to convert."""

    def _converted(self, spec: FitSpec, rows: DataFrame) -> ConvertedData:
        """Convert the rows."""

    def _fit_converted(self, spec: FitSpec, converted: ConvertedData, parent: str = "") -> M_co:
        """Train on converted rows, with a parent record at the tracker."""


class SharedRows:
    """Rows of one DataFrame, converted once for each conversion that fits need. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._converted: dict[tuple[ConversionSpec, int], ConvertedData] = {}

    def of(self, estimator: StepwiseEstimator[object], spec: FitSpec, rows: DataFrame) -> ConvertedData:
        """Return the converted rows for a fit; convert them if no fit before it has needed them.

        Args:
            estimator: The estimator of the fit.
            spec: The specification of the fit.
            rows: The rows to convert.
        """
        # The id of a DataFrame is unique, as the estimators keep their DataFrames alive.
        key = (comparable(spec.conversion), id(spec.options.validation_data))
        with self._lock:
            if key not in self._converted:
                self._converted[key] = estimator._converted(spec, rows)
            return self._converted[key]

    def close(self) -> None:
        """Remove the converted rows."""
        for converted in list(self._converted.values()):
            converted.close()

    def __enter__(self) -> SharedRows:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
