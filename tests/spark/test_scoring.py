"""What a fitted model can give: top classes, thresholds, embeddings, a function of SQL, a streaming query."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.ml import PipelineModel
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import SQLTransformer
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.ml.tuning import CrossValidatorModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DoubleType

from spark_dl import KerasClassifier, KerasClassifierModel, KerasEstimator, evaluate
from spark_dl.errors import ModelError, OptionError

QUIET = {"tracking": None, "verbose": 0}
NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


@pytest.fixture(scope="module")
def fitted(data: DataFrame) -> KerasClassifierModel:
    return KerasClassifier(model=models.classifier(), epochs=2, **QUIET).fit(data)


def features(rows: list[Any]) -> np.ndarray:
    return np.array([row.features for row in rows], np.float32)


# --- evaluation of Pipelines ---------------------------------------------------------------------------------------


def test_a_pipeline_is_evaluated_with_the_stages_before_the_model(
    fitted: KerasClassifierModel, data: DataFrame
) -> None:
    renamed = data.withColumnRenamed("features", "measured")
    stage = SQLTransformer(statement="SELECT *, measured AS features FROM __THIS__")
    pipeline = PipelineModel([PipelineModel([stage]), fitted, SQLTransformer(statement="SELECT nothing FROM __THIS__")])
    expected = fitted.evaluate(data)
    assert expected["accuracy"] > 0
    assert evaluate(pipeline, renamed) == pytest.approx(expected)
    assert evaluate(CrossValidatorModel(pipeline), renamed) == pytest.approx(expected)
    assert evaluate(fitted, data) == pytest.approx(expected)
    with pytest.raises(ModelError, match=r"no Keras model.*SQLTransformer"):
        evaluate(PipelineModel([stage]), renamed)


# --- classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [None, NAMES])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("probability", ["probability", ""])
def test_the_most_probable_classes_are_told_with_their_labels(
    fitted: KerasClassifierModel, data: DataFrame, labels: Any, count: int, probability: str
) -> None:
    options = {fitted.topK: count, fitted.probabilityCol: probability, fitted.classLabels: labels}
    scored = fitted.copy(options).transform(data)
    label = "string" if labels else "int"
    assert dict(scored.dtypes)["topK"] == f"array<struct<label:{label},probability:double>>"
    assert ("probability" in scored.columns) is bool(probability)
    assert not [name for name in scored.columns if name.startswith("spark_dl")]
    for row in scored.collect():
        expected = fitted.keras()(features([row])).numpy()[0]
        order = np.argsort(-expected)[:count]
        assert [item.label for item in row.topK] == [labels[i] if labels else i for i in order]
        np.testing.assert_allclose([item.probability for item in row.topK], expected[order], atol=1e-6)


def test_equally_probable_classes_come_in_their_order(data: DataFrame) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax", kernel_initializer="zeros")])
    fitted = KerasClassifier(model=model, optimizer=keras.optimizers.SGD(0.0), topK=3, **QUIET).fit(data)
    row = fitted.transform(data).first()
    assert [item.label for item in row.topK] == [0, 1, 2]


def test_thresholds_are_spark_mls(fitted: KerasClassifierModel, data: DataFrame) -> None:
    thresholds = [0.1, 0.5, 3.0]
    rows = fitted.copy({fitted.thresholds: thresholds}).transform(data).collect()
    plain = {row.id: row for row in fitted.transform(data).collect()}
    changed = 0
    for row in rows:
        assert row.probability == plain[row.id].probability
        assert row.prediction == np.argmax(row.probability.toArray() / thresholds)
        changed += row.prediction != plain[row.id].prediction
    assert changed
    never = fitted.copy({fitted.thresholds: [1.0, 1.0, 0.0]}).transform(data).select("prediction").distinct().collect()
    assert [row.prediction for row in never] == [2.0]


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("thresholds", [0.5, 0.5], "thresholds isn't as long as there are classes.*3 values"),
        ("classLabels", ["a"], "classLabels isn't as long as there are classes.*3 values"),
    ],
)
def test_lists_that_are_not_of_all_classes_are_refused(data: DataFrame, option: str, value: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        KerasClassifier(model=models.classifier(), **{option: value}, **QUIET).fit(data)


@pytest.mark.parametrize("value", [[0.0, 0.0, 1.0], [-1.0, 1, 1], "half"])
def test_thresholds_that_mean_nothing_are_refused(value: Any) -> None:
    with pytest.raises((OptionError, TypeError), match="thresholds"):
        KerasClassifier(thresholds=value)


# --- layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequential", [True, False])
def test_a_layers_output_is_an_embedding(data: DataFrame, sequential: bool) -> None:
    inputs = keras.Input((4,))
    layers = [keras.layers.Dense(5, "tanh", name="embedding"), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([inputs, *layers]) if sequential else keras.Model(inputs, layers[1](layers[0](inputs)))
    fitted = KerasClassifier(model=model, **QUIET).fit(data)
    scored = fitted.copy({fitted.outputLayer: "embedding", fitted.predictionCol: "vector"}).transform(data)
    assert set(scored.columns) - set(data.columns) == {"vector"}
    rows = scored.collect()
    trained = fitted.keras()
    expected = keras.Model(trained.inputs, trained.get_layer("embedding").output)(features(rows)).numpy()
    np.testing.assert_allclose([row.vector for row in rows], expected, atol=1e-6)
    assert "probability" in fitted.transform(data).columns
    with pytest.raises(ModelError, match=r"no layer 'embeding', which outputLayer names.*Did you mean 'embedding'"):
        fitted.copy({fitted.outputLayer: "embeding"}).transform(data)


@pytest.mark.stack
def test_vectors_are_what_other_stages_take(data: DataFrame, fitted: KerasClassifierModel, tmp_path: Path) -> None:
    spark = data.sparkSession
    layer = fitted.keras().layers[0].name
    arrays = fitted.copy({fitted.outputLayer: layer, fitted.predictionCol: "told"})
    vectors = arrays.copy({arrays.outputFormat: "vector"})
    scored = vectors.transform(data)
    assert isinstance(scored.schema["told"].dataType, VectorUDT)
    expected = {row.id: row.told for row in arrays.transform(data).collect()}
    for row in scored.collect():
        np.testing.assert_allclose(row.told.toArray(), expected[row.id], atol=1e-6)
    clusters = KMeans(k=2, seed=1, featuresCol="told", predictionCol="cluster").fit(scored).transform(scored)
    assert {row.cluster for row in clusters.collect()} == {0, 1}
    data.write.parquet(str(tmp_path / "in"))
    vectors.scoreParquet(str(tmp_path / "in"), str(tmp_path / "out"))
    assert {row.id: row.told for row in spark.read.parquet(str(tmp_path / "out")).collect()} == {
        row.id: row.told for row in scored.collect()
    }


def test_of_several_outputs_those_of_several_numbers_become_vectors(data: DataFrame) -> None:
    inputs = keras.Input((4,))
    outputs = {"one": keras.layers.Dense(1)(inputs), "three": keras.layers.Dense(3)(inputs)}
    fitted = KerasEstimator(
        model=keras.Model(inputs, outputs),
        loss={"one": "mse", "three": "sparse_categorical_crossentropy"},
        labelCols={"one": "f0", "three": "label"},
        outputFormat="vector",
        **QUIET,
    ).fit(data)
    kinds = [fitted.transform(data).schema[f"prediction_{name}"].dataType for name in outputs]
    assert kinds == [DoubleType(), VectorUDT()]


# --- SQL ---------------------------------------------------------------------------------------------------------


@pytest.mark.stack
def test_a_function_of_sql_gives_transforms_predictions(fitted: KerasClassifierModel, data: DataFrame) -> None:
    spark = data.sparkSession
    fitted.registerUdf(spark, "told")
    fitted.registerUdf(spark, "chances", "probability")
    frame = fitted.transform(data).withColumn("probability", vector_to_array("probability"))
    frame.createOrReplaceTempView("scored")
    rows = spark.sql("SELECT *, told(features) AS t, chances(features) AS c FROM scored").collect()
    assert len(rows) == 60
    for row in rows:
        assert row.t == row.prediction
        np.testing.assert_allclose(row.c, row.probability, atol=1e-6)


def test_a_function_of_several_columns_fills_them_as_transform_does(data: DataFrame) -> None:
    spark = data.sparkSession
    columns = ["f0", "f1", "f2", "f3"]
    hole = "case id % 4 when 0 then null when 1 then float('inf') when 2 then float('nan') else f1 end AS hole"
    holed = data.selectExpr("*", hole).drop("f1").withColumnRenamed("hole", "f1")
    fitted = KerasEstimator(
        model=models.regressor(), loss="mse", inputCols=columns, nullPolicy={"f1": {"fill": 0.5}}, **QUIET
    ).fit(holed)
    fitted.registerUdf(spark, "price")
    fitted.transform(holed).createOrReplaceTempView("scored")
    for row in spark.sql("SELECT *, price(f0, f1, f2, f3) AS p FROM scored").collect():
        assert row.p == pytest.approx(row.prediction, abs=1e-6)
        missing = [row[name] is None or not np.isfinite(row[name]) for name in columns]
        assert missing == [False, row.id % 4 < 3, False, False]
        filled = np.array([[0.5 if gap else row[name] for name, gap in zip(columns, missing, strict=True)]], np.float32)
        assert row.p == pytest.approx(float(fitted.keras()(filled)[0, 0]), abs=1e-5)


def test_a_function_tells_what_it_can_not_score(fitted: KerasClassifierModel, data: DataFrame) -> None:
    spark = data.sparkSession
    fitted.registerUdf(spark, "told")
    for call, told in (
        ("told(features, f0)", "expected: 1 arguments: features.*received: 2"),
        ("told(f0)", "width isn't the width of the model's input"),
        ("told(cast(null as array<float>))", "column 'features' can't be scored.*no nulls.*null or NaN in a batch"),
        ("told(v)", "can't be given the column 'features'.*a struct.*vector_to_array"),
        ("told(note)", "'features', which featuresCol names, can't be fed.*string"),
    ):
        with pytest.raises(PythonException, match=f"(?is){told}"):
            data.withColumn("v", array_to_vector("features")).selectExpr(call).collect()
    with pytest.raises(OptionError, match=r"doesn't give 'probabilty'.*Did you mean 'probability'"):
        fitted.registerUdf(spark, "told", "probabilty")


# --- streaming ---------------------------------------------------------------------------------------------------


@pytest.mark.stack
def test_a_streaming_query_gives_what_a_batch_gives_and_goes_on_after_a_restart(
    fitted: KerasClassifierModel, data: DataFrame, tmp_path: Path
) -> None:
    spark = data.sparkSession
    first, second = data.where("id < 40"), data.where("id >= 40")
    first.write.parquet(f"{tmp_path}/in")

    def run() -> None:
        stream = spark.readStream.schema(data.schema).parquet(f"{tmp_path}/in")
        query = (
            fitted.transform(stream)
            .writeStream.trigger(availableNow=True)
            .option("checkpointLocation", f"{tmp_path}/checkpoint")
            .start(f"{tmp_path}/out")
        )
        assert query.awaitTermination(120)
        assert query.exception() is None

    run()
    assert spark.read.parquet(f"{tmp_path}/out").count() == 40
    second.write.mode("append").parquet(f"{tmp_path}/in")
    run()
    streamed = spark.read.parquet(f"{tmp_path}/out").orderBy("id").collect()
    expected = fitted.transform(data).orderBy("id").collect()
    assert [row.id for row in streamed] == list(range(60))
    for one, other in zip(streamed, expected, strict=True):
        assert one.prediction == other.prediction
        np.testing.assert_allclose(one.probability.toArray(), other.probability.toArray(), atol=1e-6)


# --- all of them -------------------------------------------------------------------------------------------------


def test_all_ways_give_the_same_predictions_with_one_thread_and_with_two(
    fitted: KerasClassifierModel, data: DataFrame, tmp_path: Path
) -> None:
    fitted.save(f"{tmp_path}/model")
    data.write.parquet(f"{tmp_path}/rows")
    runs = {}
    for cpus in ("1", "2"):  # both at once, as most of each is the start of a session
        command = [sys.executable, str(Path(__file__).parent / "all_ways.py"), f"{tmp_path}/model", f"{tmp_path}/rows"]
        threads = {"TF_NUM_INTRAOP_THREADS": cpus, "TF_NUM_INTEROP_THREADS": cpus}
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **threads}
        runs[cpus] = subprocess.Popen(
            [*command, f"{tmp_path}/{cpus}", cpus],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
    found: dict[str, list[list[float]]] = {}
    for cpus, run in runs.items():
        output, error = run.communicate()
        assert run.returncode == 0, error[-3000:]
        (line,) = (line for line in output.splitlines() if line.startswith("RESULT"))
        found |= {f"{way}, {cpus} threads": rows for way, rows in json.loads(line.removeprefix("RESULT")).items()}
    assert len(found) == 10
    expected = np.array(found.pop("keras, 1 threads"))
    assert expected.shape == (60, 3)
    for way, rows in found.items():
        np.testing.assert_allclose(rows, expected, atol=1e-6, err_msg=way)


def test_the_history_is_plotted_and_a_model_without_one_says_so(fitted: KerasClassifierModel) -> None:
    plots = fitted.plotHistory().axes
    history = fitted.summary.history
    assert [line.get_ydata().tolist() for plot in plots for line in plot.lines] == [
        history["loss"],
        history["accuracy"],
    ]
    with pytest.raises(ModelError, match="no history to plot"):
        KerasClassifierModel().plotHistory()


WITHOUT_TRACKING = """
import sys
import models
from sessions import session
from spark_dl import KerasRegressor
with session("local[1]") as spark:
    data = models.frame(spark, rows=20)
    fitted = KerasRegressor(model=models.regressor(), loss="mse", tracking=None, verbose=0).fit(data)
    print("LOADED", sorted({"mlflow", "petastorm", "horovod"} & set(sys.modules)))
    fitted.transform(data).count()
    fitted.transform(data).collect()
    fitted.evaluate(data)
"""


def test_without_tracking_mlflow_is_not_imported_and_scoring_leaves_no_files_behind(tmp_path: Path) -> None:
    """TensorFlow writes files as it traces, and Spark's workers are killed at their end."""
    variables = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WITHOUT_TRACKING]
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "LOADED []" in ran.stdout
    assert [path.name for path in tmp_path.iterdir() if "hsperf" not in path.name] == []
