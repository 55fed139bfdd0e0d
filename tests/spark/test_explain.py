"""Attributions of rows and importances of columns, over Spark tasks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.feature import SQLTransformer
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier, KerasModel, KerasRegressor
from spark_dl.errors import DataError, OptionError
from spark_dl.explain import IntegratedGradients, PermutationImportance

QUIET: dict[str, Any] = {"tracking": None, "verbose": 0}


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    """The label depends on `size` much, on `weight` little, and on `noise` not at all."""
    random = np.random.default_rng(1)
    rows = [tuple(map(float, row)) for row in random.normal(size=(600, 3))]
    frame = spark.createDataFrame(
        [(*row, 3 * row[0] + row[1]) for row in rows], "size double, weight double, noise double, label double"
    )
    return frame.cache()


@pytest.fixture(scope="module")
def regression(data: DataFrame) -> KerasModel:
    """A linear model with known weights: a fit at rate 0 keeps them."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.layers[-1].set_weights([np.array([[3.0], [1.0], [0.0]]), np.zeros(1)])
    options: dict[str, Any] = {"inputCols": ["size", "weight", "noise"], "metrics": ["mae", "r2_score"], **QUIET}
    return KerasRegressor(model=model, loss="mse", optimizer=keras.optimizers.SGD(0.0), **options).fit(data)


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_linear_models_attributions_are_exact_for_any_number_of_tasks(
    regression: KerasModel, data: DataFrame, partitions: int
) -> None:
    explained = IntegratedGradients(regression, baseline=0.5, steps=3).transform(data.limit(50).repartition(partitions))
    assert dict(explained.dtypes)["attributions"] == "array<float>"
    for row in explained.collect():
        expected = [3 * (row.size - 0.5), row.weight - 0.5, 0]
        np.testing.assert_allclose(row.attributions, expected, 1e-4, 1e-5)


def test_a_classifiers_prediction_is_explained_in_a_pipeline(spark: SparkSession) -> None:
    random = np.random.default_rng(2)
    rows = [(Vectors.dense(x), float(x[0] > 0)) for x in random.normal(size=(80, 3))]
    frame = spark.createDataFrame(rows, ["features", "label"])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2, "softmax")])
    fitted = KerasClassifier(model=model, optimizer="adam", epochs=2, **QUIET).fit(frame)
    explained = PipelineModel([fitted, IntegratedGradients(fitted)]).transform(frame).collect()
    start = fitted.keras()(np.zeros((1, 3), "float32")).numpy()[0]
    for row in explained:
        unit = int(row.prediction)
        assert sum(row.attributions) == pytest.approx(row.probability[unit] - start[unit], rel=0.01, abs=1e-4)


def test_each_input_has_its_column(spark: SparkSession) -> None:
    frame = spark.range(40).selectExpr("array(id / 40, id / 10) measured", "int(id % 4) kind", "double(id % 4) label")
    measured, kind = keras.Input((2,), name="measured"), keras.Input((1,), dtype="int32", name="kind")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(4, 3)(kind))
    model = keras.Model([measured, kind], keras.layers.Dense(1)(keras.layers.Concatenate()([measured, embedded])))
    fitted = KerasRegressor(model=model, loss="mse", optimizer="sgd", inputCols=["measured", "kind"], **QUIET).fit(
        frame
    )
    rows = IntegratedGradients(fitted, outputCol="why").transform(frame).orderBy("kind").collect()
    assert [len(row.why_measured) for row in rows] == [2] * 40
    assert {row.why_kind for row in rows[:10]} == {0.0}
    assert all(row.why_kind for row in rows[10:])


@pytest.mark.parametrize("metric", ["loss", "r2_score"])
def test_what_the_label_depends_on_is_important(regression: KerasModel, data: DataFrame, metric: str) -> None:
    found = PermutationImportance(regression, metric=metric, repeats=3).compute(data)
    assert [one.column for one in found.columns] == ["size", "weight", "noise"]
    assert found.baseline == pytest.approx(1.0 if metric == "r2_score" else 0.0, abs=1e-5)
    size, weight, noise = found.columns
    assert size.importance > weight.importance + 3 * size.standardError > noise.importance
    assert noise.importance == pytest.approx(0, abs=1e-5)
    assert all(len(one.values) == 3 and len(set(one.values)) == 3 for one in (size, weight))
    if metric == "loss":  # of independent values x and y, (wx - wy)^2 is 2 w^2 var(x) on average
        assert size.importance == pytest.approx(18, rel=0.3)
        assert weight.importance == pytest.approx(2, rel=0.3)
    assert found.figure().axes[0].get_xlabel().startswith(f"how much worse {metric}")


def test_columns_of_any_type_are_shuffled_with_their_nulls_in_a_pipeline(spark: SparkSession) -> None:
    rows = [(Vectors.dense([float(i)]), None if i % 3 else "b", float(i % 3 > 0)) for i in range(210)]
    frame = spark.createDataFrame(rows, ["measured", "a.word", "label"])
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.layers[-1].set_weights([np.ones((1, 1)), np.zeros(1)])
    stage = SQLTransformer(statement="SELECT *, array(if(`a.word` IS NULL, 1D, 0D)) features FROM __THIS__")
    fit = KerasRegressor(model=model, loss="mse", optimizer=keras.optimizers.SGD(0.0), **QUIET)
    pipeline = PipelineModel([stage, fit.fit(stage.transform(frame))])
    found = PermutationImportance(pipeline, columns=["measured", "a.word"], repeats=2, seed=4).compute(frame)
    assert [one.column for one in found.columns] == ["a.word", "measured"]
    assert found.baseline == pytest.approx(0, abs=1e-6)
    # Of two thirds and a third, so many rows get the other value.
    assert found.columns[0].importance == pytest.approx(4 / 9, rel=0.2)
    assert found.columns[1].importance == pytest.approx(0, abs=1e-6)


def test_rows_that_are_dropped_are_dropped_from_each_shuffle(regression: KerasModel, data: DataFrame) -> None:
    """With their nulls elsewhere they would come back, and the column would seem important."""
    odd = data.selectExpr("size", "weight", "if(size > 1, null, noise) noise", "if(size > 1, 100, label) label")
    dropping = regression.copy({regression.getParam("nullPolicy"): "drop"})
    found = PermutationImportance(dropping, columns=["noise"], repeats=1).compute(odd)
    assert (found.baseline, found.columns[0].importance) == pytest.approx((0, 0), abs=1e-6)


def test_bad_input_is_named(regression: KerasModel, data: DataFrame) -> None:
    with pytest.raises(OptionError, match=r"no metric 'mea'.*mae"):
        PermutationImportance(regression, metric="mea").compute(data)
    with pytest.raises(DataError, match="no column 'siz'"):
        PermutationImportance(regression, columns=["siz"]).compute(data)
    with pytest.raises(OptionError, match="'size' can't be shuffled: the metric reads it as a label"):
        PermutationImportance(regression.copy({regression.labelCol: "size"})).compute(data)
    with pytest.raises(OptionError, match="which columns of a Pipeline"):
        PermutationImportance(PipelineModel([regression]))
    for columns in ("size", []):
        with pytest.raises(OptionError, match="columns can't be used"):
            PermutationImportance(regression, columns=columns)
    for repeats in (0, 1.5, True):
        with pytest.raises(OptionError, match="repeats can't be used"):
            PermutationImportance(regression, repeats=repeats)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no output 'two'"):
        IntegratedGradients(regression, output="two")
    unusable: dict[str, tuple[Any, ...]] = {
        "steps": (0, 1.5, None),
        "batchSize": ("8",),
        "target": ("a", 0.0, True),
        "baseline": ("a", None, float("nan"), [1.0], {"input": "a"}),
    }
    for name, values in unusable.items():
        for value in values:
            with pytest.raises(OptionError, match=f"{name} can't be used"):
                IntegratedGradients(regression, **{name: value})
    with pytest.raises(OptionError, match=r"can't be explained.*PipelineModel"):
        IntegratedGradients(PipelineModel([regression]))  # type: ignore[arg-type]
