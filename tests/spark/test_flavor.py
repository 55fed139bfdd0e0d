"""The MLflow flavor: logged, registered, loaded as a stage, served without Spark and over HTTP; what is damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import mlflow
import models
import numpy as np
import pandas as pd
import pytest
from mlflow_stores import sqlite_store
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import spark_dl.mlflow
from spark_dl import KerasClassifier, KerasClassifierModel, KerasRegressor, KerasRegressorModel
from spark_dl.errors import ModelError, SavedModelError

QUIET: dict[str, Any] = {"tracking": None, "verbose": 0}


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sqlite_store(tmp_path_factory.mktemp("mlflow"), "flavor") as experiment:
        yield experiment


@pytest.fixture(scope="module")
def fitted(data: DataFrame, store: str) -> KerasClassifierModel:
    """Fitted with tracking."""
    return KerasClassifier(model=models.classifier(), verbose=0, predictionCol="kind").fit(data)


@pytest.fixture(scope="module")
def saved(fitted: KerasClassifierModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flavor") / "model"
    spark_dl.mlflow.save_model(fitted, str(path))
    return path


def expected(fitted: KerasClassifierModel, data: DataFrame) -> pd.DataFrame:
    scored = fitted.transform(data).withColumn("p", vector_to_array("probability")).orderBy("id")
    rows = scored.select("kind", "p", "features").collect()
    return pd.DataFrame(
        {"features": [row.features for row in rows], "kind": [row.kind for row in rows], "p": [row.p for row in rows]}
    )


@pytest.mark.stack
def test_a_fit_logs_the_flavor_and_each_library_loads_it_its_way(fitted: KerasClassifierModel, data: DataFrame) -> None:
    (logged,) = mlflow.search_logged_models(output_format="list")
    loaded = spark_dl.mlflow.load_model(logged.model_uri)
    assert type(loaded) is KerasClassifierModel
    assert loaded.getPredictionCol() == "kind"
    assert loaded.summary == fitted.summary
    assert loaded.uid == fitted.uid
    assert loaded.transform(data).collect() == fitted.transform(data).collect()
    features = models.blobs(60)[0]
    plain = mlflow.keras.load_model(logged.model_uri)
    np.testing.assert_array_equal(plain.predict(features, verbose=0), fitted.keras().predict(features, verbose=0))
    rows = expected(fitted, data)
    found = mlflow.pyfunc.load_model(logged.model_uri).predict(rows[["features"]])
    assert found["kind"].tolist() == rows["kind"].tolist()
    np.testing.assert_allclose(np.stack(found["probability"]), np.stack(rows["p"]), atol=1e-6)


@pytest.mark.stack
def test_the_signature_is_that_of_the_columns(saved: Path) -> None:
    signature = mlflow.models.get_model_info(str(saved)).signature
    assert signature.inputs.to_dict() == [
        {"name": "features", "type": "array", "items": {"type": "double"}, "required": True}
    ]
    assert [(one["name"], one["type"]) for one in signature.outputs.to_dict()] == [
        ("kind", "double"),
        ("probability", "array"),
        ("rawPrediction", "array"),
    ]


def test_an_example_is_made_up_that_can_be_scored(saved: Path) -> None:
    loaded = mlflow.pyfunc.load_model(str(saved))
    assert loaded.input_example.to_dict("records") == [{"features": [0.0] * 4}]
    assert len(loaded.predict(loaded.input_example)["probability"][0]) == 3


@pytest.mark.stack
def test_a_registered_model_is_found_by_its_alias(fitted: KerasClassifierModel, data: DataFrame) -> None:
    with mlflow.start_run():
        info = spark_dl.mlflow.log_model(fitted, "mine", registered_model_name="blobs")
    mlflow.MlflowClient().set_registered_model_alias("blobs", "champion", info.registered_model_version)
    loaded = spark_dl.mlflow.load_model("models:/blobs@champion")
    assert loaded.transform(data).collect() == fitted.transform(data).collect()


def test_a_fit_may_register_its_model_for_load_by_alias(data: DataFrame, store: str) -> None:
    for seed in (1, 2):
        options: dict[str, Any] = {"loss": "mse", "verbose": 0, "registeredModelName": "prices"}
        fitted = KerasRegressor(model=models.regressor(seed=seed), **options).fit(data)
        mlflow.MlflowClient().set_registered_model_alias("prices", "champion", str(seed))
        loaded = KerasRegressorModel.load("models:/prices@champion")
        assert loaded.transform(data).collect() == fitted.transform(data).collect()
    with pytest.raises(SavedModelError, match=r"Expected: KerasClassifierModel.*Received: a KerasRegressorModel"):
        KerasClassifierModel.load("models:/prices/1")


@pytest.mark.stack
def test_spark_udf_scores_the_same(
    spark: SparkSession, fitted: KerasClassifierModel, data: DataFrame, saved: Path
) -> None:
    udf = mlflow.pyfunc.spark_udf(
        spark, str(saved), result_type="struct<kind double, probability array<double>>", env_manager="local"
    )
    rows = data.withColumn("found", udf(F.struct("features"))).orderBy("id").select("found.*").collect()
    wanted = expected(fitted, data)
    assert [row.kind for row in rows] == wanted["kind"].tolist()
    np.testing.assert_allclose([row.probability for row in rows], np.stack(wanted["p"]), atol=1e-6)


WITHOUT_SPARK = """
import json, sys
for name in ("pyspark", "horovod", "petastorm"):
    sys.modules[name] = None  # an import fails
import mlflow
found = mlflow.pyfunc.load_model(sys.argv[1]).predict([{"features": row} for row in json.loads(sys.argv[2])])
import spark_dl
print("RESULT", json.dumps([found["kind"].tolist(), found["probability"].tolist(), spark_dl.__file__]))
"""


def test_it_is_served_without_spark_by_the_code_that_it_brings_along(
    fitted: KerasClassifierModel, data: DataFrame, saved: Path, tmp_path: Path
) -> None:
    rows = expected(fitted, data).head(5)
    command = [sys.executable, "-P", "-c", WITHOUT_SPARK, str(saved), json.dumps(rows["features"].tolist())]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    kinds, chances, code = json.loads(ran.stdout.partition("RESULT ")[2])
    assert kinds == rows["kind"].tolist()
    np.testing.assert_allclose(chances, np.stack(rows["p"]), atol=1e-6)
    assert Path(code).is_relative_to(saved)


@pytest.fixture(scope="module")
def server(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve`, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        str(saved),
        "-p",
        str(port),
        "--env-manager",
        "local",
    ]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(server: str, payload: Any) -> Any:
    request = urllib.request.Request(
        f"{server}/invocations", json.dumps(payload).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_a_server_answers_as_transform_does(server: str, fitted: KerasClassifierModel, data: DataFrame) -> None:
    rows = expected(fitted, data).head(7)
    features = rows["features"].tolist()
    for payload in (
        {"dataframe_records": [{"features": row} for row in features]},
        {"dataframe_split": {"columns": ["features"], "data": [[row] for row in features]}},
        {"inputs": [{"features": row} for row in features]},
    ):
        found = ask(server, payload)["predictions"]
        assert [row["kind"] for row in found] == rows["kind"].tolist()
        np.testing.assert_allclose([row["probability"] for row in found], np.stack(rows["p"]), atol=1e-6)


@pytest.mark.parametrize(
    ("payload", "expected_words"),
    [
        ({"dataframe_records": [{"feature": [1, 2, 3, 4]}]}, "features"),
        ({"dataframe_records": [{"features": [1.5, 2.5, 3.5]}]}, "4 numbers per row"),
        ({"dataframe_records": [{"features": "text"}]}, "features"),
        ({"rows": []}, "dataframe_records"),
    ],
)
def test_a_server_refuses_what_can_not_be_scored_with_the_reason(
    server: str, payload: Any, expected_words: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, payload)
    assert refused.value.code == 400
    assert expected_words in refused.value.read().decode()


def test_an_embedding_is_served_where_the_model_gives_one(data: DataFrame, tmp_path: Path) -> None:
    fitted = KerasRegressor(model=models.regressor(), loss="mse", **QUIET).fit(data)
    layer = fitted.keras().layers[0].name
    fitted.setOutputLayer(layer)
    spark_dl.mlflow.save_model(fitted, f"{tmp_path}/model")
    rows = data.orderBy("id").limit(4)
    found = mlflow.pyfunc.load_model(f"{tmp_path}/model").predict(rows.select("features").toPandas())
    wanted = [row.prediction for row in fitted.transform(rows).orderBy("id").collect()]
    np.testing.assert_allclose(np.stack(found["prediction"]), wanted, atol=1e-6)
    assert len(mlflow.keras.load_model(f"{tmp_path}/model").layers) == 2


def test_what_can_not_be_loaded_is_one_clear_error(saved: Path, store: str, tmp_path: Path) -> None:
    with pytest.raises(SavedModelError, match=r"no model at 'models:/nobody@champion'"):
        spark_dl.mlflow.load_model("models:/nobody@champion")
    with pytest.raises(SavedModelError, match=r"already exists"):
        spark_dl.mlflow.save_model(spark_dl.mlflow.load_model(str(saved)), str(saved))
    mlflow.keras.save_model(models.regressor(), f"{tmp_path}/other")
    with pytest.raises(SavedModelError, match=r"isn't one of spark_dl.*keras"):
        spark_dl.mlflow.load_model(f"{tmp_path}/other")
    for name, change, expected_words in (
        ("data/model.keras", lambda content: content[:-1], "the model with the digest"),
        ("spark_dl/stage.json", lambda content: content.replace(b'"format": 2', b'"format": 99'), "format 99"),
        ("spark_dl/stage.json", lambda content: content.replace(b"KerasClassifierModel", b"Other"), "can't be loaded"),
        ("spark_dl/stage.json", lambda content: b"no JSON", "can't be loaded"),
    ):
        copy = tmp_path / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(saved, copy)
        (copy / name).write_bytes(change((copy / name).read_bytes()))
        with pytest.raises(SavedModelError, match=expected_words):
            spark_dl.mlflow.load_model(str(copy))


def test_an_unfitted_or_older_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ModelError, SavedModelError)):
        spark_dl.mlflow.save_model(KerasClassifierModel(), f"{tmp_path}/model")


def test_layers_of_ones_own_are_found_in_code_that_is_brought_along(data: DataFrame, tmp_path: Path) -> None:
    (tmp_path / "own_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('own')\n"
        "class Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2 * x\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import own_layers  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    cloudpickle.register_pickle_by_value(own_layers)
    model = keras.Sequential([keras.Input((4,)), own_layers.Twice(), keras.layers.Dense(1)])
    fitted = KerasRegressor(model=model, loss="mse", **QUIET).fit(data)
    spark_dl.mlflow.save_model(fitted, f"{tmp_path}/model", code_paths=[str(tmp_path / "own_layers.py")])
    program = (
        "import sys, mlflow\n"
        "import keras\n"
        "loaded = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "print('RESULT', loaded.predict([{'features': [1.0, 2.0, 3.0, 4.0]}])['prediction'][0])\n"
    )
    command = [sys.executable, "-P", "-c", program, f"{tmp_path}/model"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    wanted = fitted.keras().predict(np.array([[1.0, 2, 3, 4]], np.float32), verbose=0)[0, 0]
    assert float(ran.stdout.split("RESULT ")[1]) == pytest.approx(float(wanted), rel=1e-5)
    # And as a Transformer, in a session whose workers don't have the module.
    program = (
        "import sys, spark_dl.mlflow\n"
        "from sessions import session\n"
        "with session('local[1]') as spark:\n"
        "    rows = spark.createDataFrame([([1.0, 2.0, 3.0, 4.0],)], 'features array<float>')\n"
        "    print('RESULT', spark_dl.mlflow.load_model(sys.argv[1]).transform(rows).first().prediction)\n"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path != str(tmp_path))}
    command = [sys.executable, "-c", program, f"{tmp_path}/model"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd="/", env=variables, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert float(ran.stdout.split("RESULT ")[1]) == pytest.approx(float(wanted), rel=1e-5)
    # Another module of the same name isn't taken for it.
    (tmp_path / "model/code/own_layers.py").write_text("import keras\n")
    with pytest.raises(SavedModelError, match="another module 'own_layers'"):
        spark_dl.mlflow.load_model(f"{tmp_path}/model")


# --- Pipelines, and models that change while a job runs --------------------------------------------------------------


def test_a_pipeline_with_other_stages_is_logged_and_loaded(data: DataFrame, store: str, tmp_path: Path) -> None:
    stages = [
        VectorAssembler(inputCols=["f0", "f1", "f2", "f3"], outputCol="assembled"),
        StandardScaler(inputCol="assembled", outputCol="scaled"),
        KerasClassifier(model=models.classifier(), featuresCol="scaled", **QUIET),
    ]
    fitted = Pipeline(stages=stages).fit(data)
    with mlflow.start_run():
        info = spark_dl.mlflow.log_model(fitted, "whole", registered_model_name="whole")
    loaded = spark_dl.mlflow.load_model(f"models:/whole/{info.registered_model_version}")
    assert type(loaded) is PipelineModel
    assert loaded.transform(data).collect() == fitted.transform(data).collect()
    spark_dl.mlflow.save_model(fitted, f"{tmp_path}/whole", cache_dir=str(tmp_path))
    assert len(spark_dl.mlflow.load_model(f"{tmp_path}/whole", cache_dir=str(tmp_path)).stages) == 3


def test_a_validated_model_is_logged_and_loaded(data: DataFrame, tmp_path: Path) -> None:
    estimator = KerasClassifier(model=models.classifier(), **QUIET)
    evaluator = MulticlassClassificationEvaluator()
    fitted = CrossValidator(estimator=estimator, estimatorParamMaps=[{}], evaluator=evaluator, numFolds=2).fit(data)
    spark_dl.mlflow.save_model(fitted, f"{tmp_path}/model")
    loaded = spark_dl.mlflow.load_model(f"{tmp_path}/model")
    assert loaded.avgMetrics == fitted.avgMetrics
    assert loaded.transform(data).collect() == fitted.transform(data).collect()


def test_what_is_no_model_of_ours_is_refused(data: DataFrame, tmp_path: Path) -> None:
    scaler = StandardScaler(inputCol="v", outputCol="s")
    vectors = data.sparkSession.createDataFrame([(Vectors.dense([1.0]),)], ["v"])
    with pytest.raises(ModelError, match=r"Expected: a KerasModel, PipelineModel.*StandardScalerModel"):
        spark_dl.mlflow.save_model(scaler.fit(vectors), f"{tmp_path}/model")
    assert not (tmp_path / "model").exists()
    damaged = tmp_path / "damaged"
    fitted = Pipeline(stages=[KerasClassifier(model=models.classifier(), **QUIET)]).fit(data)
    spark_dl.mlflow.save_model(fitted, str(damaged))
    conf = (damaged / "MLmodel").read_text()
    (damaged / "MLmodel").write_text(conf.replace("pyspark.ml.pipeline.PipelineModel", "subprocess.Popen"))
    with pytest.raises(SavedModelError, match=r"Received: subprocess\.Popen"):
        spark_dl.mlflow.load_model(str(damaged))
    (damaged / "MLmodel").write_text(conf)
    (part,) = damaged.glob("spark_dl/stage/stages/0_*/metadata/part-*")
    whole = part.read_text()
    part.write_text(whole.replace("spark_dl.KerasClassifierModel", "subprocess.Popen"))
    with pytest.raises(SavedModelError, match=r"Received: one of subprocess\.Popen"):
        spark_dl.mlflow.load_model(str(damaged))
    part.write_text(whole)
    shutil.rmtree(damaged / "spark_dl/stage/metadata")
    with pytest.raises(SavedModelError, match="Expected: a saved PipelineModel"):
        spark_dl.mlflow.load_model(str(damaged))


def test_a_stream_takes_up_a_new_champion_with_its_next_batch(
    spark: SparkSession, data: DataFrame, store: str, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    expected_rows = {}
    for version in ("1", "2"):
        model = models.regressor(seed=int(version) + 5)
        options: dict[str, Any] = {"loss": "mse", "verbose": 0, "registeredModelName": "streamed"}
        fitted = KerasRegressor(model=model, **options).fit(data)
        expected_rows[version] = {row.id: row.prediction for row in fitted.transform(data).collect()}
    client.set_registered_model_alias("streamed", "champion", "1")
    champion = spark_dl.mlflow.follow("models:/streamed@champion")
    first = champion()
    assert champion() is first  # the same version isn't loaded again
    found: list[dict[int, float]] = []

    def score(rows: DataFrame, batch: int) -> None:
        found.append({row.id: row.prediction for row in champion().transform(rows).collect()})

    source = tmp_path / "source"
    data.where("id < 30").write.parquet(str(source))
    query = spark.readStream.schema(data.schema).parquet(str(source)).writeStream.foreachBatch(score)
    running = query.option("checkpointLocation", f"{tmp_path}/checkpoint").start()
    try:
        running.processAllAvailable()
        client.set_registered_model_alias("streamed", "champion", "2")
        data.where("id >= 30").write.mode("append").parquet(str(source))
        running.processAllAvailable()
    finally:
        running.stop()
    # The stream may see the files of one write in several batches.
    by_version = {"1": found[0], "2": {key: value for rows in found[1:] for key, value in rows.items()}}
    assert by_version["1"].keys() == set(range(30))
    assert by_version["2"].keys() == expected_rows["2"].keys() - set(range(30))
    # Sums in batches of other sizes may differ in their last bits.
    for version, rows in by_version.items():
        assert rows == pytest.approx({key: expected_rows[version][key] for key in rows}, rel=1e-5)


def test_a_registry_that_is_away_leaves_the_model_that_is_there(
    data: DataFrame, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SavedModelError, match="unknown which version"):
        spark_dl.mlflow.follow("models:/nobody@champion")
    with mlflow.start_run():
        fitted = KerasRegressor(model=models.regressor(), loss="mse", verbose=0, registeredModelName="kept").fit(data)
    current = spark_dl.mlflow.follow("models:/kept/latest")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.warns(RuntimeWarning, match="Continuing with models:/kept/1"):
            model = current()
    finally:
        mlflow.set_tracking_uri(before)
    assert model.transform(data).collect() == fitted.transform(data).collect()
