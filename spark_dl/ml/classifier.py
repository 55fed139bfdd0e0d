"""The classifier: estimator and fitted model with Spark ML's prediction, probability and rawPrediction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl.data.column import quoted
from spark_dl.data.columns import kind_of
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.label_rules import OF_CLASS_INDICES, OF_ONE_HOT_ROWS
from spark_dl.data.specs import ConversionSpec
from spark_dl.errors import ModelError, explain
from spark_dl.fit.class_weights import check_class_weights, class_weights
from spark_dl.fit.heads import check_classes, check_for_each_class, class_head
from spark_dl.fit.spec import FitSpec
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.ml.params import ClassifierParams, FittedClassifierParams, with_options
from spark_dl.ml.typed_fit import TypedFit
from spark_dl.options import ClassifierOptions, EstimatorOptions, FittedClassifierOptions
from spark_dl.score.heads import Classification, Head
from spark_dl.score.predict import check_new
from spark_dl.score.top_classes import top_classes
from spark_dl.spark.job import SparkJob

if TYPE_CHECKING:
    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelOutput, ModelShape

__all__ = ["KerasClassifier", "KerasClassifierModel"]

_FOR_PROBABILITIES = (
    "For labels that are probabilities, such as a teacher's, train with KerasEstimator, and score with "
    "KerasClassifierModel.fromKeras(model.keras())."
)
# Keras losses that take class indices as labels, or one-hot rows of them, by the number of output units.
_SEVERAL_UNITS = (*OF_CLASS_INDICES, *OF_ONE_HOT_ROWS)
_ONE_UNIT = ("binary_crossentropy", "binary_focal_crossentropy", "mean_squared_error", "hinge", "squared_hinge")


@with_options(FittedClassifierOptions)
class KerasClassifierModel(FittedClassifierParams, KerasModel):
    """Trained classifier, a Transformer that adds prediction (double), probability and rawPrediction (Vectors).

    With `topK`, `transform` also adds `topKCol`: an array of the most probable classes with their probabilities.
    `scoreParquet` doesn't write it.

    Attributes:
        summary: The training summary.
    """

    _fit_options: ClassVar[type[EstimatorOptions]] = ClassifierOptions
    _only_fit: ClassVar[tuple[str, ...]] = (*KerasModel._only_fit, "outputKind")

    @property
    def numClasses(self) -> int:
        """The number of classes."""
        head = self._fitted_head()
        return head.classes if isinstance(head, Classification) else 0

    @classmethod
    def _made_head(cls, shape: ModelShape, loss: LossFacts | None, model: Any, options: Any) -> Head:
        check_classes(shape)
        return class_head(shape, loss, model, options)

    def _scored(self) -> tuple[bytes, Head]:
        content, head = super()._scored()
        thresholds = self._options().thresholds
        if thresholds and isinstance(head, Classification):
            check_for_each_class("thresholds", thresholds, head.classes)
            head = replace(head, thresholds=tuple(thresholds))
        return content, head

    def _transform(self, dataset: DataFrame) -> DataFrame:
        options = self._options()
        count, into, labels = options.top_k, options.top_k_col, options.class_labels
        if not count or options.output_layer:
            return super()._transform(dataset)
        if labels:
            check_for_each_class("classLabels", labels, self.numClasses)
        others = options.columns_by_output.values()
        check_new(dataset.sparkSession, dataset.columns, [into, *filter(None, others)])
        if options.probability_col:
            return top_classes(super()._transform(dataset), options.probability_col, into, count, labels)
        passing = f"spark_dl_{uuid.uuid4().hex[:8]}"
        scored = self.copy({self.getParam("probabilityCol"): passing, self.getParam("topK"): None})._transform(dataset)
        return top_classes(scored, passing, into, count, labels).drop(passing)


@with_options(ClassifierOptions)
class KerasClassifier(ClassifierParams, TypedFit[KerasClassifierModel], KerasEstimator):
    """Estimator that trains a Keras classifier on Horovod ranks in Spark's executors.

    Labels are class indices, integers from 0. The model has one output unit per class, or a single unit for two
    classes. If neither the model nor `loss` sets a loss, it is sparse_categorical_crossentropy, or binary_crossentropy
    for a single unit, with from_logits as the output requires. If neither sets metrics, the metric is accuracy.
    Losses that take one-hot labels (categorical_crossentropy, categorical_focal_crossentropy) receive the indices as
    one-hot rows.

    `outputKind` sets whether the output units are probabilities or logits. By default, it is derived from the last
    activation or the loss if these are Keras's own, else measured on synthetic rows before training: probabilities are
    within [0, 1] and sum to 1. `prediction` is the class of the greatest output in either case; for a single unit, it
    is 1 if the probability is above 0.5 or the logit above 0.

    Example:

        >>> import keras
        >>> from pyspark.ml import Pipeline
        >>> from pyspark.ml.feature import VectorAssembler
        >>> from pyspark.sql import SparkSession
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> train = spark.range(200).selectExpr("id % 2 AS x", "id % 3 AS y", "int(id % 2) AS label")
        >>> assembler = VectorAssembler(inputCols=["x", "y"], outputCol="features")
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
        >>> classifier = KerasClassifier(
        ...     model=model, optimizer=keras.optimizers.Adam(0.1), numWorkers=2, epochs=20, tracking=None, verbose=0
        ... )
        >>> fitted = Pipeline(stages=[assembler, classifier]).fit(train)
        >>> scored = fitted.transform(train)
        >>> scored.columns
        ['x', 'y', 'label', 'features', 'prediction', 'probability', 'rawPrediction']
        >>> scored.where("prediction = label").count()
        200
        >>> spark.stop()
    """

    model_class: ClassVar[type[KerasModel]] = KerasClassifierModel

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        if model.compiled and getattr(model, "loss", None) is not None:
            return None
        import keras

        from spark_dl.train.model.output_kind import LOGITS, output_kind, undecided

        kind = output_kind(model if model.built else None, shape, self._options().output_kind, None)
        if kind is None:
            raise undecided(model.name)
        several = shape.outputs[0].shape != (1,)
        loss = keras.losses.SparseCategoricalCrossentropy if several else keras.losses.BinaryCrossentropy
        return loss(from_logits=kind.kind == LOGITS)

    def _default_metrics(self, shape: ModelShape, loss: Any, model: Any) -> Any:
        import keras

        from spark_dl.train.model.losses import losses_of
        from spark_dl.train.model.output_kind import LOGITS, output_kind

        compiled = (model.get_compile_config() or {}) if model.compiled else {}
        own_step = (
            type(model).train_step is not keras.Model.train_step or type(model).compile is not keras.Model.compile
        )
        if own_step or compiled.get("metrics") or compiled.get("weighted_metrics"):
            return None
        ((units,),) = [output.shape for output in shape.outputs]
        (facts,) = losses_of(loss if loss is not None else model.loss, shape)
        if units > 1:
            kind = keras.metrics.CategoricalAccuracy if facts.one_hot else keras.metrics.SparseCategoricalAccuracy
            return [kind(name="accuracy")]
        kind = output_kind(model if model.built else None, shape, self._options().output_kind, facts)
        threshold = 0.0 if kind is not None and kind.kind == LOGITS else 0.5
        return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)]

    def _check_outputs(self, shape: ModelShape) -> None:
        check_classes(shape)

    def _head(self, shape: ModelShape, losses: Sequence[LossFacts], model: Any = None) -> Head:
        ((units,),), (loss,) = [output.shape for output in shape.outputs], losses
        if loss.known and loss.name not in (_ONE_UNIT if units == 1 else _SEVERAL_UNITS):
            expected = "binary_crossentropy" if units == 1 else "sparse_categorical_crossentropy"
            raise ModelError(
                explain(
                    f"The loss {loss.name} doesn't take class indices for {units} output unit{'s' * (units > 1)}.",
                    expected=expected,
                    received=loss.name,
                    fix=f"Set loss={expected!r}." if units == 1 else f"Set loss={expected!r}. {_FOR_PROBABILITIES}",
                )
            )
        return class_head(shape, loss, model, self._options())

    def _classes(self, output: ModelOutput, loss: LossFacts) -> int | None:
        classes: int = max(output.shape[0], 2)
        check_class_weights(self._options().class_weights, classes)
        return classes

    def _class_factors(self, frame: DataFrame, conversion: ConversionSpec) -> tuple[float, ...]:
        if conversion.balance == "none":
            return ()
        (label,) = conversion.labels
        held = conversion.validation_col
        training = frame.where(~F.col(quoted(held.name))) if held else frame
        for column in conversion.columns:
            training = training.where(kind_of(column).is_present(column)) if column.drop else training
        value = F.col(quoted(label.column.name))
        if label.column.fill is not None:
            missing = ~kind_of(label.column).is_present(label.column)
            value = F.when(missing, F.lit(label.column.fill)).otherwise(value)
        counted = training.groupBy(value.alias("label")).count()
        with SparkJob(counted) as spec:
            rows = {row["label"]: row["count"] for row in spec.rows()}
        counts = [rows.get(index, 0) for index in range(label.classes or 0)]
        present = [count for count in counts if count]
        if not present:
            return ()  # the conversion reports the missing rows
        wanted = max(present) if conversion.balance == "oversample" else min(present)
        return tuple(wanted / count if count else 1.0 for count in counts)

    def _class_weights(self, spec: FitSpec, converted: ConvertedDataset) -> tuple[float, ...]:
        given = self._options().class_weights
        if not given:
            return ()
        (label,) = spec.conversion.labels
        return class_weights(given, label.classes or 0, converted.class_rows(validation=False))
