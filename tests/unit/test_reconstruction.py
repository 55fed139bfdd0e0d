"""Models that reconstruct their input: labels that are the features, and the error of each row."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    FloatType,
    IntegerType,
    StringType,
    StructField,
    StructType,
)

from spark_dl import KerasEstimator, KerasModel
from spark_dl.data.batches import keras_batch
from spark_dl.errors import DataError, OptionError
from spark_dl.fit.reconstruction import features_and_labels
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.score.serving import Served
from spark_dl.train.model.reconstruction import with_error
from spark_dl.train.model.serialization import from_bytes, to_bytes

KINDS = {"a": FloatType(), "b": FloatType(), "n": IntegerType(), "photo": BinaryType(), "text": StringType()}
ROWS = StructType(
    [StructField(name, kind) for name, kind in KINDS.items()] + [StructField("v", ArrayType(FloatType()))]
)


def dense(width: int, loss: Any = "mse") -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(width, name="out")])
    model.compile("sgd", loss)
    return model


def mean_output(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(y_pred)


def picture(activation: str | None = None, channels: int = 3) -> keras.Model:
    given = keras.Input((4, 4, 3))
    model = keras.Model(given, keras.layers.Conv2D(channels, 1, activation=activation, name="out")(given))
    model.compile("sgd", "mse")
    return model


def specified(model: keras.Model, **options: Any) -> FitSpec:
    estimator = KerasEstimator(model=model, labelCol="features", tracking=None, **options)
    return build_fit_spec(estimator, ROWS, estimator._options())


def test_the_label_is_the_joined_columns_whatever_their_names() -> None:
    spec = specified(dense(3), inputCols=["a", "b", "n"])
    (label,) = spec.conversion.labels
    assert (label.name, label.shape, label.dtype, label.loss) == ("a, b, n", (3,), "float32", "")
    assert spec.conversion.columns == list(spec.conversion.features[0].columns)
    assert "label of output out (3,)" in str(spec.plan)
    (alone,) = specified(dense(3), featuresCol="v").conversion.labels
    assert (alone.name, alone.shape) == ("v", (3,))
    rated = specified(dense(2, "binary_crossentropy"), inputCols=["a", "b"]).conversion.labels
    assert rated[0].loss == "binary_crossentropy"


@pytest.mark.parametrize("binary", ["image", "raw"])
def test_images_and_bytes_are_stored_once_and_are_also_the_label(binary: str) -> None:
    spec = specified(picture(), featuresCol="photo", binaryFormat=binary)
    (features,), labels, (tensor,) = spec.conversion.features, spec.conversion.labels, spec.conversion.tensors
    assert (features.target, labels, tensor.target) == ("", (), "")
    assert "label of output out" in str(spec.plan)
    stored = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    if binary == "raw":
        given, label = keras_batch([tensor], [stored])
        np.testing.assert_array_equal(given, label)
        np.testing.assert_array_equal(given, stored)


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (picture("sigmoid"), {"loss": "binary_crossentropy", "featuresCol": "photo"}, "numbers from 0 to 255"),
        (picture(channels=1), {"featuresCol": "photo"}, r"output of shape \(batch, 4, 4, 1\)"),
        (dense(3), {"inputCols": ["a", "b"]}, "width"),
    ],
)
def test_what_a_loss_or_an_output_cant_reconstruct_is_refused(model: Any, options: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        specified(model, **options)


def test_texts_are_no_labels() -> None:
    given = keras.Input((1,), dtype="string")
    ids = keras.layers.TextVectorization(vocabulary=["x"], output_sequence_length=2)(given)
    model = keras.Model(given, keras.layers.Dense(2)(keras.layers.Rescaling(1.0)(ids)))
    with pytest.raises(DataError, match="feeds an input of strings"):
        specified(model, featuresCol="text", loss="mse")


def test_several_inputs_name_their_labels() -> None:
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    both = keras.Model([a, b], keras.layers.Concatenate()([a, b]))
    with pytest.raises(OptionError, match="one input and one output"):
        specified(both, inputCols=["a", "b"], loss="mse")


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", lambda x, y: ((x - y) ** 2).mean(axis=1)),
        ("mae", lambda x, y: np.abs(x - y).mean(axis=1)),
        (keras.losses.Huber(delta=0.1), lambda x, y: keras.losses.huber(x, y, delta=0.1).numpy()),
        (mean_output, lambda x, y: ((x - y) ** 2).mean(axis=1)),
        (None, lambda x, y: ((x - y) ** 2).mean(axis=1)),
    ],
)
def test_the_error_is_the_models_loss_of_each_row_or_the_mean_squared_one(loss: Any, expected: Any) -> None:
    model = dense(3, loss)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with keras.saving.custom_object_scope({"mean_output": mean_output}):
        content = with_error(to_bytes(model), (3,))
    y, errors = from_bytes(content).predict(x, verbose=0)
    np.testing.assert_array_equal(y, model.predict(x, verbose=0))
    np.testing.assert_allclose(errors, expected(x, y), rtol=1e-5)


def test_the_error_of_class_indices_is_the_mean_over_positions() -> None:
    given = keras.Input((4,), dtype="int32")
    model = keras.Model(given, keras.layers.Dense(6, "softmax")(keras.layers.Embedding(6, 3)(given)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    ids = np.random.default_rng(1).integers(0, 6, (3, 4))
    y, errors = from_bytes(with_error(to_bytes(model), (4,))).predict(ids, verbose=0)
    expected = -np.log(np.take_along_axis(y, ids[..., None], axis=-1))[..., 0].mean(axis=1)
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


def test_a_served_model_has_the_error_as_well() -> None:
    model = dense(2)
    fitted = KerasModel.fromKeras(model, inputCols=["a", "b"], labelCol="features", errorCol="off")
    serving, content = fitted._serving()
    x = np.array([[0.0, 1.0], [2.0, -1.0]], np.float32)
    found = Served(type(serving).of_json(serving.to_json()), content).predict({"a": x[:, 0], "b": x[:, 1]})
    assert list(found.columns) == ["prediction", "off"]
    np.testing.assert_allclose(found["off"], ((model.predict(x, verbose=0) - x) ** 2).mean(axis=1), rtol=1e-6)
    features, (label,) = features_and_labels(ROWS, fitted._options(), fitted._inputs, fitted._outputs)
    assert label.columns == features[0].columns
    assert isinstance(fitted._scoring(ROWS), ScoringModel)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), {"inputCols": ["a", "b", "n"]}),
        (picture(), {"featuresCol": "photo", "errorCol": "prediction"}),
    ],
)
def test_an_error_without_a_reconstruction_is_refused(model: keras.Model, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"errorCol is for models|The output column 'prediction' is taken"):
        KerasModel.fromKeras(model, **{"errorCol": "error", **options})
