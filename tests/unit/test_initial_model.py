"""Models that modelFn builds for the columns of a DataFrame."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql.types import ArrayType, DoubleType, FloatType, StructField, StructType

from spark_dl import KerasClassifier, KerasClassifierModel, KerasRegressor, KerasTaggerModel
from spark_dl.errors import ModelError
from spark_dl.fit.initial_model import initial_model
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.layers import CRF, CRFLoss

# As VectorAssembler and OneHotEncoder describe their output.
ENCODED = StructField("encoded", VectorUDT(), metadata={"ml_attr": {"num_attrs": 7}})
AGE, LIST = StructField("age", DoubleType()), StructField("list", ArrayType(FloatType()))
SCHEMA = StructType([ENCODED, AGE, LIST, StructField("y", FloatType())])


def spec(function: Any, **options: Any) -> FitSpec:
    estimator = KerasRegressor(modelFn=function, labelCol="y", optimizer="sgd", **options)
    return build_fit_spec(estimator, SCHEMA, estimator._options())


def unbuilt(units: int = 4) -> keras.Model:
    return keras.Sequential([keras.layers.Dense(units, "relu"), keras.layers.Dense(1)])


def test_a_model_function_gets_the_shapes_of_the_columns() -> None:
    seen: list[Any] = []

    def network(column_shapes: dict[str, Any], units: int) -> keras.Model:
        seen.append(column_shapes)
        inputs = {name: keras.Input(column_shapes[name], name=name) for name in ("encoded", "age")}
        inputs["list"] = keras.Input((5,), name="list")
        joined = keras.layers.Concatenate()(list(inputs.values()))
        return keras.Model(list(inputs.values()), keras.layers.Dense(1)(keras.layers.Dense(units)(joined)))

    columns = {"encoded": "encoded", "age": "age", "list": "list"}
    found = spec(network, inputCols=columns, modelParams={"units": 3})
    assert seen == [{"encoded": (7,), "age": (1,), "list": None}]
    assert [(one.name, one.shape) for one in found.inputs] == [("encoded", (7,)), ("age", (1,)), ("list", (5,))]


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"featuresCol": "encoded"}, 7),
        ({"inputCols": ["age", "encoded"]}, 8),
        ({"featuresCol": "list", "columnShapes": {"list": [5]}}, 5),
    ],
    ids=["a Vector", "several columns", "columnShapes"],
)
def test_a_sequential_without_an_input_is_built_for_its_columns(options: dict[str, Any], width: int) -> None:
    found = spec(unbuilt, **options)
    assert [one.shape for one in found.inputs] == [(width,)]
    assert found.given.built


def test_what_cannot_be_built_is_refused_and_the_users_model_stays_as_it_is() -> None:
    with pytest.raises(ModelError, match=r"isn't built.*modelFn"):
        spec(unbuilt, featuresCol="list")
    model = unbuilt()
    estimator = KerasRegressor(model=model, labelCol="y", featuresCol="encoded", optimizer="sgd")
    with pytest.raises(ModelError, match=r"isn't built.*modelFn"):
        build_fit_spec(estimator, SCHEMA, estimator._options())
    assert not model.built


def test_shapes_are_not_known_without_a_dataframe() -> None:
    estimator = KerasRegressor(modelFn=lambda column_shapes: unbuilt())
    with pytest.raises(ModelError, match="only a fit knows"):
        initial_model(estimator._options())
    set_by_hand = KerasRegressor(modelFn=lambda column_shapes: column_shapes, modelParams={"column_shapes": 3})
    assert initial_model(set_by_hand._options()) == 3


def network(classes: int, width: int = 3) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(width), keras.layers.Dense(classes, "softmax")])
    model.compile(keras.optimizers.SGD(0.3), "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("way", ["model", "modelFn"])
def test_a_class_that_is_new_gets_units_beside_those_of_the_old_ones(way: str) -> None:
    fitted = network(3)
    warm = KerasClassifierModel.fromKeras(fitted)
    wider = network(5)
    given = wider.get_weights()
    options = {"model": wider} if way == "model" else {"modelFn": lambda: wider}
    found = initial_model(KerasClassifier(warmStart=warm, **options)._options())
    first, bias, kernel, units = found.get_weights()
    old = fitted.get_weights()
    np.testing.assert_array_equal(first, old[0])
    np.testing.assert_array_equal(bias, old[1])
    np.testing.assert_array_equal(kernel, np.concatenate([old[2], given[2][:, 3:]], axis=1))
    np.testing.assert_array_equal(units, np.concatenate([old[3], given[3][3:]]))
    if way == "model":  # which is never changed
        assert all(map(np.array_equal, wider.get_weights(), given))
    x = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    logits = np.log(found.predict(x, verbose=0)[:, :3]) - np.log(fitted.predict(x, verbose=0))
    np.testing.assert_allclose(logits - logits[:, :1], 0, atol=1e-5)


def test_an_uncompiled_model_is_compiled_as_the_fitted_one_and_tags_grow_in_a_crf() -> None:
    def tagger(tags: int) -> keras.Model:
        words = keras.Input((4,), dtype="int32")
        return keras.Model(words, CRF()(keras.layers.Dense(tags)(keras.layers.Embedding(5, 3)(words))))

    fitted = tagger(3)
    fitted.compile(keras.optimizers.Adam(0.02), CRFLoss())
    found = initial_model(KerasClassifier(model=tagger(4), warmStart=KerasTaggerModel.fromKeras(fitted))._options())
    assert isinstance(found.loss, CRFLoss)
    assert float(found.optimizer.learning_rate) == pytest.approx(0.02)
    for old, new in zip(fitted.get_weights(), found.get_weights(), strict=True):
        np.testing.assert_array_equal(new[tuple(map(slice, old.shape))], old)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network(2), r"\(3, 2\) for .*\(3, 3\)"),
        (network(4, width=4), r"\(4, 4\) for .*\(3, 3\)"),
        (keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, "softmax")]), "2 weights for 4|for "),
    ],
    ids=["fewer classes", "another width", "fewer layers"],
)
def test_a_model_of_other_layers_than_the_fitted_one_is_refused(model: keras.Model, message: str) -> None:
    warm = KerasClassifierModel.fromKeras(network(3))
    with pytest.raises(ModelError, match=f"can't start from the weights of warmStart.*{message}"):
        initial_model(KerasClassifier(model=model, warmStart=warm)._options())
