"""Regression, as Spark ML speaks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from spark_dl.errors import ModelError, explain
from spark_dl.estimators.base import KerasEstimator
from spark_dl.estimators.model import KerasModel
from spark_dl.estimators.params import with_options
from spark_dl.score.heads import Head, Regression

if TYPE_CHECKING:
    from spark_dl.train.model_bytes import LossFacts, ModelShape

__all__ = ["KerasRegressor", "KerasRegressorModel"]


@with_options()
class KerasRegressorModel(KerasModel):
    """A trained regressor as a Transformer: prediction (double).

    Attributes:
        summary: how the training went.
    """


@with_options()
class KerasRegressor(KerasEstimator):
    """Trains a Keras model to tell a number, on Horovod ranks in Spark's executors.

    The model has one output unit. Where neither the model nor `loss` says so, the loss is mean_squared_error.

    Example:

        regressor = KerasRegressor(model=model, inputCols=["rooms", "age"], labelCol="price", numWorkers=2)
        scored = regressor.fit(train).transform(test)
    """

    model_class: ClassVar[type[KerasModel]] = KerasRegressorModel

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        return None if model.compiled and getattr(model, "loss", None) is not None else "mean_squared_error"

    def _head(self, shape: ModelShape, loss: LossFacts) -> Head:
        if shape.output_shape not in ((1,), ()):
            raise ModelError(
                explain(
                    "The model's output isn't one of a regressor.",
                    expected="an output of shape (batch, 1)",
                    received=f"(batch, {', '.join(map(str, shape.output_shape))})",
                    fix="End the model with Dense(1), or use KerasEstimator.",
                )
            )
        return Regression()

    def _classes(self, shape: ModelShape, loss: LossFacts) -> int | None:
        return None
