"""Labels and weights with a number for each position: their shape follows the loss, and what doesn't fit is refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from pyspark.sql.types import ArrayType, FloatType, IntegerType, StructField, StructType
from rows import sent

from spark_dl import KerasClassifier, KerasEstimator, KerasTagger
from spark_dl.data.batches import keras_batch
from spark_dl.data.convert import convert_batches
from spark_dl.data.row_errors import RowErrors
from spark_dl.data.specs import LabelSpec
from spark_dl.data.targets import label_rows, weight_rows
from spark_dl.errors import DataError, ModelError, OptionError
from spark_dl.fit.columns import OutputFacts, label_specs
from spark_dl.fit.row_columns import weight_and_shape
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.layers import CRF, CRFLoss
from spark_dl.score.heads import Tagging
from spark_dl.train.model.losses import loss_facts
from spark_dl.train.model.shape import ModelOutput

TAGS = StructType(
    [
        StructField("tags", ArrayType(IntegerType())),
        StructField("one", IntegerType()),
        StructField("numbers", ArrayType(FloatType())),
    ]
)


def labels_of(output: OutputFacts, label: str, **options: Any) -> LabelSpec:
    """The label of an output of a KerasEstimator."""
    (spec,) = label_specs(TAGS, KerasEstimator(labelCol=label, **options)._options(), [output])
    return spec


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", keras.losses.CategoricalGeneralizedCrossEntropy()])
def test_a_sparse_loss_takes_a_class_for_each_position(loss: object) -> None:
    facts = loss_facts(loss)
    assert KerasEstimator()._classes(ModelOutput("o", (4, 7), ""), facts) == 7
    spec = labels_of(OutputFacts("o", (4, 7), 7, facts.name, ignored=-1), "tags")
    assert (spec.shape, spec.dtype, spec.classes, spec.ignored, spec.column.width) == ((4,), "int32", 7, -1, 4)
    assert labels_of(OutputFacts("o", (1, 7), 7, facts.name), "one").shape == (1,)


@pytest.mark.parametrize(
    ("output", "label", "options", "told"),
    [
        ((4, 7), "one", {}, "label column 'one' doesn't fit the model's output.*an array of 4 class indices"),
        ((4, 7), "tags", {"labelShapes": {"tags": [3]}}, r"label column 'tags'.*\(batch, 3\)"),
        ((7,), "tags", {}, "label column 'tags' can't hold class indices"),
    ],
)
def test_labels_without_a_class_for_each_position_are_refused(
    output: tuple[int, ...], label: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError, match=told) as raised:
        labels_of(OutputFacts("o", output, 7, "sparse_categorical_crossentropy"), label, **options)
    assert "input" not in str(raised.value)


def test_label_shapes_say_what_a_custom_loss_takes() -> None:
    shapes = {"labelShapes": {"tags": [4]}}
    spec = labels_of(OutputFacts("o", (4, 7), None), "tags", **shapes)
    assert (spec.shape, spec.dtype, spec.column.width) == ((4,), "int32", 4)
    assert labels_of(OutputFacts("o", (4, 7), None), "numbers").shape == (4, 7)
    with pytest.raises(OptionError, match="labelShapes names 'tags', which is no label"):
        labels_of(OutputFacts("o", (4, 7), None), "numbers", **shapes)
    with pytest.raises(DataError, match=r"label column 'tags' doesn't fit the model's output.*28 numbers"):
        labels_of(OutputFacts("o", (4, 7), None, "mean_squared_error"), "tags", **shapes)


def test_wrong_classes_are_counted_by_rows() -> None:
    spec = labels_of(OutputFacts("o", (3, 2), 2, "sparse_categorical_crossentropy", ignored=-1), "tags")
    errors, keep = RowErrors(), np.array([True, True, True, False])
    values = np.array([[0.0, 1, -1], [2, 5, 0], [0.5, 0, 0], [9, 9, 9]])
    label_rows(values, spec, errors, keep)
    assert errors.counts == {("class", "tags", "2"): 1, ("fraction", "tags", "0.5"): 1}
    good = RowErrors()
    assert label_rows(values[:1], spec, good, keep[:1]).tolist() == [[0, 1, -1]]
    assert not good.counts


def test_weights_have_a_number_for_each_position() -> None:
    options = KerasEstimator(weightCol="numbers")._options()
    column, shape = weight_and_shape(TAGS, options, [OutputFacts("o", (4, 7), 7)])
    assert (column.width, shape) == (4, (4,))
    with pytest.raises(DataError, match=r"'numbers', which weightCol names.*a number in each row"):
        weight_and_shape(TAGS, options, [OutputFacts("o", (7,), 7)])
    with pytest.raises(OptionError, match="can't weigh outputs with different positions"):
        weight_and_shape(TAGS, options, [OutputFacts("o", (7,), 7), OutputFacts("p", (4, 7), 7)])
    errors = RowErrors()
    rows = weight_rows(np.array([[1.0, -1, 0, 0], [0, 0, 0, 1]]), column, shape, errors, np.ones(2, bool))
    assert errors.counts == {("negative", "numbers", ""): 1}
    assert rows.shape == (2, 4)


def squared(y_true: Any, y_pred: Any) -> Any:
    """A loss of the user's that compares as NumPy does."""
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


def of_class(y_true: Any, y_pred: Any) -> Any:
    """A loss of the user's that takes class indices."""
    chosen = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), 3)
    return -keras.ops.sum(chosen * y_pred, axis=-1)


def check(loss: Any, label: str, units: int = 3, **options: Any) -> FitSpec:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
    model.compile("sgd", loss)
    estimator = KerasEstimator(model=model, featuresCol="numbers", labelCol=label, **options)
    return build_fit_spec(estimator, TAGS, estimator._options())


def test_a_label_of_one_number_is_never_broadcast_over_several_units() -> None:
    with pytest.raises(DataError, match=r"label column 'one' doesn't fit the model's output 'dense.*\(batch, 3\)"):
        check(squared, "one")
    with pytest.raises(DataError, match=r"label column 'one' doesn't fit the model's output.*3 numbers in each row"):
        check("mse", "one")
    assert check(of_class, "one").conversion.labels[0].shape == ()
    assert check(squared, "numbers").conversion.labels[0].shape == (3,)
    assert check(squared, "one", units=1).conversion.labels[0].shape == ()


class Encodes(keras.layers.Layer):
    """Adds the model's only loss."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def unlabelled(*layers: keras.layers.Layer, loss: Any = None) -> FitSpec:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), *layers])
    model.compile("sgd", loss)
    estimator = KerasEstimator(model=model, featuresCol="numbers", labelCol=None, numWorkers=2)
    return build_fit_spec(estimator, TAGS, estimator._options())


def test_a_model_that_adds_its_loss_takes_no_labels() -> None:
    spec = unlabelled(Encodes())
    assert spec.conversion.labels == ()
    assert [tensor.role for tensor in spec.conversion.tensors] == ["features"]
    assert spec.notes == ()
    for layers, loss in (((), None), ((Encodes(),), "mse")):
        with pytest.raises(ModelError, match="no loss that works without labels"):
            unlabelled(*layers, loss=loss)
    for cls, options, told in (
        (KerasClassifier, {}, "a classifier needs one"),
        (KerasEstimator, {"weightCol": "one"}, "weightCol needs one"),
    ):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax"), Encodes()])
        estimator = cls(model=model, featuresCol="numbers", labelCol=None, loss=None, **options)
        with pytest.raises(OptionError, match=told):
            build_fit_spec(estimator, TAGS, estimator._options())
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Encodes()])
    model.compile("sgd", metrics=["mse"])
    estimator = KerasEstimator(model=model, featuresCol="numbers", labelCol=None)
    with pytest.raises(ModelError, match=r"the model's metrics need one(.|\n)*mse"):
        build_fit_spec(estimator, TAGS, estimator._options())
    tagger = KerasTagger(model=model, featuresCol="numbers", labelCol=None)
    with pytest.raises((OptionError, ModelError), match=r"a tagger needs one|isn't one of a tagger"):
        build_fit_spec(tagger, TAGS, tagger._options())


def test_an_own_train_step_gets_the_features_alone() -> None:
    class Generator(keras.Model):
        """Takes x and no labels, as a GAN does."""

        def train_step(self, data: Any) -> dict[str, Any]:
            if isinstance(data, tuple):  # the step fails on the synthetic rows, which the notes would say
                raise TypeError("x alone was expected")
            with tf.GradientTape() as tape:
                loss = keras.ops.mean(keras.ops.square(self(data, training=True) - data))
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"loss": loss}

    inputs = keras.Input((4,))
    model = Generator(inputs, keras.layers.Dense(4)(inputs))
    model.compile("sgd")
    estimator = KerasEstimator(model=model, featuresCol="numbers", labelCol=None, numWorkers=2)
    spec = build_fit_spec(estimator, TAGS, estimator._options())
    assert spec.notes == ()  # its gradients are means over rows
    (fed,) = [keras_batch(spec.conversion.tensors, [np.ones((2, 4), np.float32)])]
    assert fed.shape == (2, 4)


def test_a_tagger_needs_a_class_for_each_position() -> None:
    def spec(*layers: keras.layers.Layer, **options: Any) -> FitSpec:
        model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(9, 3), *layers])
        estimator = KerasTagger(model=model, featuresCol="tags", labelCol="tags", **options)
        return build_fit_spec(estimator, TAGS, estimator._options())

    made = spec(keras.layers.Dense(5, "softmax"))
    assert made.head == Tagging(4, 5, from_logits=False)
    assert made.conversion.labels[0].classes == 5
    assert made.conversion.labels[0].shape == (4,)
    assert spec(keras.layers.Dense(5)).head == Tagging(4, 5, from_logits=True)
    with pytest.raises(ModelError, match="isn't one of a tagger"):
        spec(keras.layers.Flatten(), keras.layers.Dense(5))
    with pytest.raises(ModelError, match="The loss mean_squared_error doesn't take class indices"):
        spec(keras.layers.Dense(5), loss="mse")
    with pytest.raises(OptionError, match="tagLabels isn't as long as there are classes"):
        spec(keras.layers.Dense(5), tagLabels=["a", "b"])


def crf(**options: Any) -> FitSpec:
    words = keras.Input((4,), dtype="int32")
    scores = keras.layers.Dense(3)(keras.layers.Embedding(9, 5, mask_zero=True)(words))
    model = keras.Model(words, CRF()(scores))
    model.compile("adam", CRFLoss())
    estimator = KerasTagger(model=model, featuresCol="tags", labelCol="tags", numWorkers=2, **options)
    return build_fit_spec(estimator, TAGS, estimator._options())


def test_a_tagger_with_a_crf_leaves_out_what_is_no_tag_and_weighs_rows() -> None:
    spec = crf()
    assert spec.notes == ()  # a mean over rows: with several workers that of the global batch
    (label,) = spec.conversion.labels
    assert (label.classes, label.ignored) == (3, -1)
    assert "tags" in str(spec.plan)
    assert crf(weightCol="one").conversion.weight_shape in ((), (1,))
    with pytest.raises(DataError, match=r"CRFLoss .* has no weights for positions"):
        crf(weightCol="numbers")


def test_labels_and_weights_of_positions_are_padded_and_cut_as_words_are() -> None:
    ids = keras.Input((3,), dtype="int32")
    model = keras.Model(ids, keras.layers.Dense(5)(keras.layers.Embedding(9, 3, mask_zero=True)(ids)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    columns = {"words": "tags", "tags": "tags2", "weights": "numbers"}
    schema = StructType([StructField(name, TAGS[kind.removesuffix("2")].dataType) for name, kind in columns.items()])
    tagger = KerasTagger(
        model=model,
        loss=loss,
        featuresCol="words",
        labelCol="tags",
        weightCol="weights",
        padding={"words": 0, "tags": -1, "weights": 0},
        truncate="end",
    )
    conversion = build_fit_spec(tagger, schema, tagger._options()).conversion
    content = {
        "words": pa.array([[1, 2], [3, 4, 5, 6]], pa.list_(pa.int32())),
        "tags": pa.array([[0, 4], [1, 2, 3, 0]], pa.list_(pa.int32())),
        "weights": pa.array([[1.0, 2], [1, 1, 1, 9]], pa.list_(pa.float32())),
    }
    errors, batches = convert_batches(conversion, [sent(pa.RecordBatch.from_pydict(content), conversion.columns)])
    (words, tags, weights), *more = [list(batch) for batch in batches]
    assert more == []
    assert not errors.counts
    assert words.tolist() == [[1, 2, 0], [3, 4, 5]]
    assert tags.tolist() == [[0, 4, -1], [1, 2, 3]]
    assert weights.tolist() == [[1, 2, 0], [1, 1, 1]]
    assert conversion.labels[0].column.pad == -1
    with pytest.raises(DataError, match="padding can't pad the column 'tags'"):
        build_fit_spec(tagger, schema, tagger.copy().setPadding({"tags": 0.5})._options())


@pytest.mark.parametrize(
    ("weights", "error", "told"),
    [({3: 2.0}, OptionError, "a class that the model doesn't have"), ({1: 2.0}, DataError, "no weights for positions")],
)
def test_class_weights_of_positions_that_cant_be_are_refused(weights: Any, error: Any, told: str) -> None:
    words = keras.Input((4,), dtype="int32")
    crf = keras.Model(words, CRF()(keras.layers.Dense(3)(keras.layers.Embedding(9, 4)(words))))
    columns = StructType(
        [StructField("features", ArrayType(IntegerType())), StructField("label", ArrayType(IntegerType()))]
    )
    estimator = KerasTagger(model=crf, optimizer="sgd", loss=CRFLoss(), classWeights=weights)
    with pytest.raises(error, match=told):
        build_fit_spec(estimator, columns, estimator._options())
