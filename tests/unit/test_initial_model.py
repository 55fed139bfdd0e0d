"""Models that modelFn builds for the columns of a DataFrame."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql.types import ArrayType, DoubleType, FloatType, StructField, StructType

from spark_dl import KerasRegressor
from spark_dl.errors import ModelError
from spark_dl.fit.initial_model import initial_model
from spark_dl.fit.spec import FitSpec, build_fit_spec

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
