"""The regressor: estimator and fitted model with Spark ML's prediction column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from spark_dl.fit.heads import check_one_number
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.ml.params import with_options
from spark_dl.ml.typed_fit import TypedFit
from spark_dl.options import EstimatorOptions, FittedOptions
from spark_dl.score.heads import Head, Regression

if TYPE_CHECKING:
    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelOutput, ModelShape

__all__ = ["KerasRegressor", "KerasRegressorModel"]


@with_options(FittedOptions)
class KerasRegressorModel(KerasModel):
    """Trained regressor, a Transformer that adds prediction (double).

    Attributes:
        summary: The training summary.
    """

    @classmethod
    def _made_head(cls, shape: ModelShape, loss: LossFacts | None, model: Any, options: Any) -> Head:
        check_one_number(shape)
        return Regression()


@with_options(EstimatorOptions)
class KerasRegressor(TypedFit[KerasRegressorModel], KerasEstimator):
    """Estimator that trains a Keras regressor on Horovod ranks in Spark's executors.

    The model has one output unit. If neither the model nor `loss` sets a loss, it is mean_squared_error.

    Example:

        >>> import keras
        >>> from pyspark.sql import SparkSession
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> homes = spark.range(1, 101).selectExpr("id / 50 AS rooms", "id / 100 AS age", "id / 20 + 1 AS price")
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> regressor = KerasRegressor(
        ...     model=model, optimizer=keras.optimizers.Adam(0.1), inputCols=["rooms", "age"], labelCol="price",
        ...     epochs=60, tracking=None, verbose=0,
        ... )
        >>> fitted = regressor.fit(homes)
        >>> scored = fitted.transform(homes)
        >>> scored.selectExpr("round(avg(abs(prediction - price))) AS error").first()
        Row(error=0.0)
        >>> spark.stop()
    """

    model_class: ClassVar[type[KerasModel]] = KerasRegressorModel

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        return None if model.compiled and getattr(model, "loss", None) is not None else "mean_squared_error"

    def _check_outputs(self, shape: ModelShape) -> None:
        check_one_number(shape)

    def _head(self, shape: ModelShape, losses: Sequence[LossFacts], model: Any = None) -> Head:
        return Regression()

    def _classes(self, output: ModelOutput, loss: LossFacts) -> int | None:
        return None
