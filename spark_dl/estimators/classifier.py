"""Classification, as Spark ML speaks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from spark_dl import options
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.estimators.base import KerasEstimator
from spark_dl.estimators.model import KerasModel
from spark_dl.estimators.params import with_options
from spark_dl.score.heads import Classification, Head

if TYPE_CHECKING:
    from spark_dl.train.model_bytes import LossFacts, ModelShape

__all__ = ["KerasClassifier", "KerasClassifierModel"]

# What Keras's own losses take: class indices for several units, 0 and 1 for one unit.
_SEVERAL_UNITS = ("sparse_categorical_crossentropy",)
_ONE_UNIT_MARGINS = ("hinge", "squared_hinge")
_ONE_UNIT = ("binary_crossentropy", "binary_focal_crossentropy", "mean_squared_error", *_ONE_UNIT_MARGINS)


@with_options(options.PROBABILITY_COL, options.RAW_PREDICTION_COL)
class KerasClassifierModel(KerasModel):
    """A trained classifier as a Transformer: prediction (double), probability and rawPrediction (Vectors).

    Attributes:
        summary: how the training went.
    """

    output_options: dict[str, str] = {
        "prediction": "predictionCol",
        "probability": "probabilityCol",
        "rawPrediction": "rawPredictionCol",
    }

    @property
    def numClasses(self) -> int:
        """The number of classes."""
        head = self._fitted_head()
        return head.classes if isinstance(head, Classification) else 0


@with_options(options.PROBABILITY_COL, options.RAW_PREDICTION_COL, options.CLASS_WEIGHTS)
class KerasClassifier(KerasEstimator):
    """Trains a Keras model to tell classes apart, on Horovod ranks in Spark's executors.

    Labels are class indices, whole numbers from 0. The model has an output unit for each class, or one unit for
    two classes. Where neither the model nor `loss` says so, the loss is sparse_categorical_crossentropy, or
    binary_crossentropy for one unit.

    Example:

        classifier = KerasClassifier(model=model, labelCol="digit", numWorkers=2, epochs=10)
        fitted = Pipeline(stages=[assembler, classifier]).fit(train)
        scored = fitted.transform(test)   # prediction, probability, rawPrediction
    """

    model_class: ClassVar[type[KerasModel]] = KerasClassifierModel

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        if model.compiled and getattr(model, "loss", None) is not None:
            return None
        import keras

        if not shape.activation:
            raise ModelError(
                explain(
                    f"It can't be told whether the model {model.name!r} gives probabilities or logits.",
                    expected="a loss, or a last layer with an activation",
                    received="neither",
                    fix="Set loss, for example keras.losses.SparseCategoricalCrossentropy(from_logits=True).",
                )
            )
        logits = shape.activation not in ("softmax", "sigmoid")
        if shape.output_shape[-1:] == (1,):
            return keras.losses.BinaryCrossentropy(from_logits=logits)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)

    def _head(self, shape: ModelShape, loss: LossFacts) -> Head:
        if len(shape.output_shape) != 1:
            raise ModelError(
                explain(
                    "The model's output isn't one of a classifier.",
                    expected="an output of shape (batch, classes), or (batch, 1) for two classes",
                    received=f"(batch, {', '.join(map(str, shape.output_shape))})",
                    fix="End the model with Dense(classes, activation='softmax').",
                )
            )
        units = shape.output_shape[0]
        if loss.known and loss.name not in (_ONE_UNIT if units == 1 else _SEVERAL_UNITS):
            expected = "binary_crossentropy" if units == 1 else "sparse_categorical_crossentropy"
            raise ModelError(
                explain(
                    f"The loss {loss.name} doesn't take class indices for {units} output unit{'s' * (units > 1)}.",
                    expected=expected,
                    received=loss.name,
                    fix=f"Set loss={expected!r}.",
                )
            )
        logits = loss.from_logits or loss.name in _ONE_UNIT_MARGINS
        return Classification(classes=max(units, 2), units=units, from_logits=logits)

    def _classes(self, shape: ModelShape, loss: LossFacts) -> int | None:
        classes, weights = max(shape.output_shape[0], 2), self.getOrDefault("classWeights")
        if isinstance(weights, dict) and max(weights) >= classes:
            raise OptionError(
                explain(
                    "classWeights names a class that the model doesn't have.",
                    expected=f"class indices from 0 to {classes - 1}",
                    received=f"class {max(weights)}",
                )
            )
        return classes

    def _class_weights(self, converted: ConvertedDataset, values: Mapping[str, Any]) -> tuple[float, ...]:
        weights, rows = values["classWeights"], converted.class_rows(validation=False)
        if weights == "balanced":
            present = sum(count > 0 for count in rows)
            return tuple(sum(rows) / (present * count) if count else 1.0 for count in rows)
        return tuple(weights.get(index, 1.0) for index in range(len(rows))) if weights else ()
