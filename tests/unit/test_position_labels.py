"""Labels and weights with a number for each position: their shape follows the loss, and what doesn't fit is refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pyspark.sql.types import ArrayType, FloatType, IntegerType, StructField, StructType

from spark_dl import KerasEstimator
from spark_dl.data.row_errors import RowErrors
from spark_dl.data.specs import LabelSpec
from spark_dl.data.targets import label_rows, weight_rows
from spark_dl.errors import DataError, OptionError
from spark_dl.fit.columns import OutputFacts, label_specs
from spark_dl.fit.row_columns import weight_and_shape
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
