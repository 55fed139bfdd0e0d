"""The methods of an estimator that return a fitted model, or several."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from pyspark.ml.param import Param
from pyspark.sql import DataFrame

from spark_dl.fit.converted import ConvertedData
from spark_dl.ml.fit_many import FitMany

__all__ = ["TypedFit"]

M = TypeVar("M")

class TypedFit(Generic[M]):
    @overload
    def fit(self, dataset: DataFrame, params: dict[Param[Any], Any] | None = ...) -> M: ...
    # A list of the narrower class isn't one of the base's.
    @overload
    def fit(
        self, dataset: DataFrame, params: list[dict[Param[Any], Any]] | tuple[dict[Param[Any], Any]]
    ) -> list[Any]: ...
    def fitMultiple(self, dataset: DataFrame, paramMaps: Sequence[Mapping[Param[Any], Any]]) -> FitMany[M]: ...
    def fitOnDataset(self, converted: ConvertedData, params: Mapping[Param[Any], Any] | None = None) -> M: ...
