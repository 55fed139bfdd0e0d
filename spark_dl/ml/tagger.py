"""The tagger: estimator and fitted model with a class for each position, such as the words of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl.data.column import quoted
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.fit.class_weights import check_class_weights, class_weights
from spark_dl.fit.columns import input_columns
from spark_dl.fit.heads import check_for_each_class, check_positions, tag_head
from spark_dl.fit.spec import FitSpec
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.ml.params import FittedTaggerParams, TaggerParams, with_options
from spark_dl.ml.typed_fit import TypedFit
from spark_dl.options import FittedTaggerOptions, TaggerOptions
from spark_dl.score.heads import Head, Tagging
from spark_dl.score.predict import check_new

if TYPE_CHECKING:
    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelOutput, ModelShape

__all__ = ["KerasTagger", "KerasTaggerModel"]

_LOSS = "sparse_categorical_crossentropy"


@with_options(FittedTaggerOptions)
class KerasTaggerModel(FittedTaggerParams, KerasModel):
    """Trained tagger, a Transformer that adds prediction and probability, both with a value for each position.

    `prediction` is an array of class indices, and `probability` an array of arrays with a probability for each class.
    With `tagLabels`, `transform` also adds `tagsCol`: the names of the predicted classes, without those of padding
    where featuresCol or inputCols are padded.

    Attributes:
        summary: The training summary.
    """

    _fit_options = TaggerOptions

    @classmethod
    def _made_head(cls, shape: ModelShape, loss: LossFacts | None, model: Any, options: Any) -> Head:
        check_positions(shape)
        return tag_head(shape, loss, model, options.tag_labels)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        options, head = self._options(), self._fitted_head()
        labels = options.tag_labels
        if not labels or options.output_layer:
            return super()._transform(dataset)
        if isinstance(head, Tagging):
            check_for_each_class("tagLabels", labels, head.classes)
        if not options.prediction_col:
            raise OptionError(
                explain(
                    "The names of tags follow from the prediction, which isn't written.",
                    expected="a name for predictionCol",
                    received="predictionCol=''",
                    fix="Set predictionCol, or leave tagLabels out.",
                )
            )
        written = [name for name in options.columns_by_output.values() if name]
        check_new(dataset.sparkSession, dataset.columns, [options.tags_col, *written])
        names = F.array(*map(F.lit, labels))
        scored = super()._transform(dataset)
        # NaN outputs have no tag.
        tags = F.transform(
            F.col(quoted(options.prediction_col)),
            lambda index: F.when(~F.isnan(index), F.element_at(names, index.cast("int") + 1)),
        )
        if sizes := [F.size(F.col(quoted(name))) for name in self._padded_columns(head)]:
            tags = F.slice(tags, 1, F.greatest(*sizes) if len(sizes) > 1 else sizes[0])
        return scored.withColumn(options.tags_col, tags)

    def _padded_columns(self, head: Head) -> list[str]:
        """Return the feature columns whose rows are padded to the number of positions."""
        if not isinstance(head, Tagging):
            return []
        options, inputs = self._options(), self._inputs
        columns, _ = input_columns(options, [one.name for one in inputs])
        alone = {one.name: columns[one.name][0] for one in inputs if len(columns[one.name]) == 1}
        padded = [one for one in inputs if alone.get(one.name) in (options.padding or {})]
        return [alone[one.name] for one in padded if one.shape[:1] == (head.positions,)]


@with_options(TaggerOptions)
class KerasTagger(TaggerParams, TypedFit[KerasTaggerModel], KerasEstimator):
    """Estimator that trains a Keras model with a class for each position on Horovod ranks in Spark's executors.

    The model's output has shape (batch, positions, classes), of logits or probabilities. Labels are arrays of class
    indices, one for each position. If neither the model nor `loss` sets a loss, it is
    sparse_categorical_crossentropy, with from_logits as the output requires. Masks of the model's output, `weightCol`
    (an array) and the loss's `ignore_class` leave positions out.

    Example:

        >>> import keras
        >>> from pyspark.sql import SparkSession
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> train = spark.range(60).selectExpr("array(id % 3, id % 2) AS words", "array(id % 3, id % 2) AS tags")
        >>> words = keras.Input((2,), dtype="int32")
        >>> outputs = keras.layers.Dense(3, "softmax")(keras.layers.Embedding(3, 4)(words))
        >>> tagger = KerasTagger(
        ...     model=keras.Model(words, outputs), optimizer=keras.optimizers.Adam(0.1), featuresCol="words",
        ...     labelCol="tags", tagLabels=["O", "B", "I"], tagsCol="names", epochs=20, tracking=None, verbose=0,
        ... )
        >>> tagger.fit(train).transform(train).select("prediction", "names").first()
        Row(prediction=[0.0, 0.0], names=['O', 'O'])
        >>> spark.stop()
    """

    model_class: ClassVar[type[KerasModel]] = KerasTaggerModel

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        if model.compiled and getattr(model, "loss", None) is not None:
            return None
        import keras

        head = tag_head(shape, None, model if model.built else None, None)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=head.from_logits)

    def _check_outputs(self, shape: ModelShape) -> None:
        check_positions(shape)

    def _head(self, shape: ModelShape, losses: Sequence[LossFacts], model: Any = None) -> Head:
        (loss,) = losses
        if loss.known and loss.name != _LOSS:
            raise ModelError(
                explain(
                    f"The loss {loss.name} doesn't take class indices.",
                    expected=_LOSS,
                    received=loss.name,
                    fix=f"Set loss={_LOSS!r}, or use KerasEstimator.",
                )
            )
        return tag_head(shape, loss, model, self._options().tag_labels)

    def _classes(self, output: ModelOutput, loss: LossFacts) -> int | None:
        classes: int = output.shape[-1]
        check_class_weights(self._options().class_weights, classes)
        return classes

    def _class_weights(self, spec: FitSpec, converted: ConvertedDataset) -> tuple[float, ...]:
        given = self._options().class_weights
        if not given:
            return ()
        (label,) = spec.conversion.labels
        return class_weights(given, label.classes or 0, converted.class_rows(validation=False))
