"""One clear error for each kind of bad input, before anything is written where that is possible."""

from __future__ import annotations

import importlib
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import mlflow
import models
import pytest
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import HorovodLauncher, KerasClassifier, KerasEstimator, KerasRegressor
from spark_dl.errors import (
    ClusterError,
    DataError,
    ModelError,
    OptionError,
    SparkDLError,
    StoreError,
    TrackingError,
)

QUIET = {"tracking": None, "verbose": 0}
Change = Callable[[DataFrame], DataFrame]


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


def where(condition: str, column: str, value: str) -> Change:
    """Another value in some rows of a column."""
    return lambda f: f.withColumn(column, F.expr(f"case when {condition} then {value} else {column} end"))


def same(frame: DataFrame) -> DataFrame:
    return frame


def hashing() -> keras.Model:
    """Made of a layer that XLA can't compile."""
    layers = [keras.layers.Hashing(8), keras.layers.Embedding(8, 2), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((4,), dtype="int32"), *layers, keras.layers.Dense(3, "softmax")])


def holding_a_lock() -> keras.callbacks.Callback:
    """Can't be pickled."""
    lock = threading.Lock()
    return keras.callbacks.LambdaCallback(on_train_end=lambda logs: lock.locked())


# what is wrong: (change of the DataFrame, other options, error, what the message must say)
BAD: dict[str, tuple[Change, dict[str, Any], type[SparkDLError], list[str]]] = {
    "a missing feature column": (same, {"featuresCol": "feature"}, DataError, ["'feature'", "Did you mean 'features'"]),
    "a missing label column": (same, {"labelCol": "lable"}, DataError, ["labelCol", "Did you mean 'label'"]),
    "a missing weight column": (same, {"weightCol": "wait"}, DataError, ["weightCol", "'wait'"]),
    "a type that can't be fed": (same, {"featuresCol": "note"}, DataError, ["'note'", "string"]),
    "a weight that is text": (same, {"weightCol": "note"}, DataError, ["weightCol", "string"]),
    "a validation column that isn't boolean": (same, {"validationCol": "id"}, DataError, ["validationCol", "bigint"]),
    "fractions for an input of whole numbers": (
        same,
        {"model": models.regressor(dtype="int32"), "cls": KerasRegressor},
        DataError,
        ["rows with numbers that aren't whole, for an input of int32", "StringIndexer"],
    ),
    "a weight of a class that isn't there": (same, {"classWeights": {3: 2.0}}, OptionError, ["0 to 2", "class 3"]),
    "GPUs of a cluster that has none": (
        same,
        {"gpusPerWorker": 1},
        ClusterError,
        ["no GPUs that Spark knows of", "spark.executor.resource.gpu.amount=not set", "discovery"],
    ),
    "cores of its own in local mode": (same, {"cpusPerWorker": 2}, ClusterError, ["local mode", "spark.task.cpus"]),
    "nulls in features": (
        where("id < 3", "features", "null"),
        {},
        DataError,
        ["'features': 3 rows with a null", "drop"],
    ),
    "nulls in an array": (
        where("id < 2", "features", "array(1f, null, 1f, 1f)"),
        {},
        DataError,
        ["'features': 2 rows with a null"],
    ),
    "NaN in features": (
        where("id < 4", "f1", "float('nan')"),
        {"inputCols": ["f0", "f1", "f2", "f3"]},
        DataError,
        ["'f1': 4 rows with NaN"],
    ),
    "nulls in the label": (where("id = 5", "label", "null"), {}, DataError, ["'label': 1 row with a null"]),
    "NaN in the weight": (
        where("id = 5", "weight", "double('nan')"),
        {"weightCol": "weight"},
        DataError,
        ["'weight': 1 row with NaN"],
    ),
    "an infinite feature and label": (
        lambda f: f.withColumn("label", F.expr("if(id < 2, double('inf'), double(label))")).withColumn(
            "features", F.expr("if(id > 57, array(1f, 1f, 1f, float('-inf')), features)")
        ),
        {"model": models.regressor(), "cls": KerasRegressor},
        DataError,
        ["'features': 2 rows with an infinite number", "'label': 2 rows with an infinite number", "nullPolicy"],
    ),
    "a weight beyond float32": (
        where("id = 5", "weight", "1e39d"),
        {"weightCol": "weight"},
        DataError,
        ["'weight': 1 row with values beyond float32"],
    ),
    "ids that float32 rounds": (
        lambda f: f.withColumn("id", F.col("id") + 16777200),
        {"inputCols": ["f0", "f1", "f2", "id"]},
        DataError,
        ["'id': 22 rows", "float32 can't hold exactly", "greatest 16777259", "integer input"],
    ),
    "labels of -1 and 1 for binary_crossentropy": (
        lambda f: f.withColumn("label", F.expr("if(id < 50, -1, 1)")),
        {"model": models.regressor(), "loss": "binary_crossentropy", "cls": KerasEstimator},
        DataError,
        ["'label': 50 rows", "binary_crossentropy", "-1 in 50"],
    ),
    "one label for three units": (
        same,
        {"loss": "mse", "cls": KerasEstimator},
        DataError,
        ["'label' doesn't fit", "(batch, 3)", "one number per row"],
    ),
    "two columns of one name": (
        lambda f: f.select("features", "label", F.col("id").alias("Label")),
        {},
        DataError,
        ["2 columns 'label', which labelCol names", "toDF"],
    ),
    "a callback that can't be pickled": (
        same,
        {"callbacks": [keras.callbacks.TerminateOnNaN(), holding_a_lock()]},
        OptionError,
        ["callbacks[1] (LambdaCallback).on_train_end", "variable 'lock'"],
    ),
    "a negative weight": (
        where("id = 5", "weight", "-1"),
        {"weightCol": "weight"},
        DataError,
        ["'weight': 1 row below 0"],
    ),
    "arrays of unequal length": (
        where("id < 7", "features", "array(1f, 2f)"),
        {},
        DataError,
        ["7 rows of length 2", "the model's input has 4"],
    ),
    "labels outside the classes": (
        where("id < 2", "label", "9"),
        {},
        DataError,
        ["2 rows outside", "3 classes", "such as 9"],
    ),
    "negative labels": (where("id < 2", "label", "-1"), {}, DataError, ["2 rows outside", "such as -1"]),
    "labels that aren't whole": (where("id < 2", "label", "0.5"), {}, DataError, ["2 rows", "not whole", "0.5"]),
    "an empty DataFrame": (lambda f: f.where("false"), {}, DataError, ["no rows", "0 rows"]),
    "no row left after dropping": (
        where("true", "label", "null"),
        {"nullPolicy": "drop"},
        DataError,
        ["0 rows after rows with nulls were dropped"],
    ),
    "fewer rows than workers": (lambda f: f.limit(1), {"numWorkers": 2}, DataError, ["numWorkers=2", "1 training"]),
    "no row for validation": (lambda f: f.limit(3), {"validationFraction": 0.0001}, DataError, ["validation"]),
    "two ways to choose validation rows": (
        same,
        {"validationFraction": 0.1, "validationCol": "held"},
        OptionError,
        ["exclude"],
    ),
    "scalars of another number than the input": (
        same,
        {"inputCols": ["f0", "f1", "f2"]},
        DataError,
        ["4 numbers", "(batch, 4)", "3 numbers", "f0, f1, f2"],
    ),
    "an assembled vector of another width": (
        lambda f: VectorAssembler(inputCols=["f0", "f1"], outputCol="v").transform(f),
        {"featuresCol": "v"},
        DataError,
        ["4 numbers", "2 numbers"],
    ),
    "no model": (same, {"model": None}, ModelError, ["model"]),
    "a model that isn't one": (same, {"model": "resnet"}, ModelError, ["'resnet'"]),
    "an unbuilt model": (
        same,
        {"model": keras.Sequential([keras.layers.Dense(3)])},
        ModelError,
        ["isn't built", "keras.Input"],
    ),
    "an uncompiled model without a loss": (same, {"cls": KerasEstimator}, ModelError, ["has no loss", "loss"]),
    "a layer that XLA can't compile": (
        same,
        {"model": hashing(), "jitCompile": True},
        ModelError,
        ["Hashing", "jitCompile"],
    ),
    "an unknown loss": (same, {"loss": "sparse_crossentropy"}, ModelError, ["sparse_crossentropy"]),
    "a loss for other labels": (
        same,
        {"loss": "poisson"},
        ModelError,
        ["sparse_categorical_crossentropy"],
    ),
    "a regressor of three units": (same, {"cls": KerasRegressor}, ModelError, ["(batch, 1)", "(batch, 3)"]),
    "a loss that isn't a mean over rows": (
        same,
        {"numWorkers": 2, "loss": keras.losses.SparseCategoricalCrossentropy(reduction="sum")},
        ModelError,
        ["reduction 'sum'", "numWorkers=2"],
    ),
    "checkpoints while gradients are accumulated": (
        same,
        {"gradientAccumulation": 4, "checkpointSteps": 6},
        OptionError,
        ["multiple of gradientAccumulation=4", "checkpointSteps=6"],
    ),
    "a profile that nobody takes": (same, {"profile": True}, OptionError, ["MLflow", "tracking=None"]),
    "a rate scaled for a batch that stays": (
        same,
        {"learningRateScaling": "sqrt", "globalBatchSize": 16},
        OptionError,
        ["learningRateScaling='sqrt'", "globalBatchSize=16"],
    ),
    "a schedule that is to be warmed up": (
        same,
        {"warmupEpochs": 1, "optimizer": keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10))},
        OptionError,
        ["schedule", "SGD with CosineDecay"],
    ),
    "a callback that is a class": (
        same,
        {"callbacks": [keras.callbacks.TerminateOnNaN]},
        OptionError,
        ["instances of keras.callbacks.Callback", "TerminateOnNaN"],
    ),
    "a callback that restores one rank only": (
        same,
        {"callbacks": [keras.callbacks.BackupAndRestore("backup")]},
        OptionError,
        ["BackupAndRestore", "checkpointDir"],
    ),
    "more workers than slots": (same, {"numWorkers": 3}, ClusterError, ["numWorkers=3", "2 slots", "local[2]"]),
    "an unknown tracker": (same, {"tracking": "mlfow"}, OptionError, ["'mlfow'", "'mlflow'"]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str, data: DataFrame, tmp_path: Path) -> None:
    change, options, kind, texts = BAD[what]
    options = {"model": models.classifier(), "cacheDir": str(tmp_path), **QUIET, **options}
    estimator = options.pop("cls", KerasClassifier)(**options)
    with pytest.raises(kind) as raised:
        estimator.fit(change(data))
    for text in texts:
        assert text in str(raised.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("option", ["cacheDir", "checkpointDir"])
def test_a_directory_that_cant_be_written(option: str, data: DataFrame, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    estimator = KerasClassifier(model=models.classifier(), **{option: str(tmp_path / "file" / "below")}, **QUIET)
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / "file" / "below"))):
        estimator.fit(data)


@pytest.mark.parametrize("option", ["cacheDir", "checkpointDir"])
def test_a_directory_that_the_executors_dont_share(option: str, data: DataFrame) -> None:
    # Each process has an in-memory file system of its own.
    estimator = KerasClassifier(model=models.classifier(), **{option: "memory://somewhere"}, **QUIET)
    with pytest.raises(StoreError, match=r"doesn't share a directory with the driver.*memory://somewhere"):
        estimator.fit(data)


def test_a_tracking_server_that_doesnt_answer(data: DataFrame) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        with pytest.raises(TrackingError, match=re.escape(uri)):
            KerasClassifier(model=models.classifier(), verbose=0).fit(data)
    finally:
        mlflow.set_tracking_uri(before)


def test_a_function_and_arguments_that_cant_be_pickled(data: DataFrame) -> None:
    lock = threading.Lock()
    with pytest.raises(
        OptionError, match=r"The function can't be sent to the ranks.*its variable 'lock', of type lock"
    ):
        HorovodLauncher(1).run(lambda: lock)
    with pytest.raises(
        OptionError, match=r"The arguments can't be sent to the ranks.*The arguments\[1\] \(DataFrame\)"
    ):
        HorovodLauncher(1).run(print, 1, data)


def test_a_module_that_only_the_driver_has(data: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import keras\n\nclass Mine(keras.callbacks.Callback):\n    pass\n\ndef mine(y, p):\n    return (y - p) ** 2\n"
    )
    (tmp_path / "only_on_the_driver.py").write_text(source)
    (tmp_path / "cache").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("only_on_the_driver")
    for options in ({"callbacks": [module.Mine()]}, {"loss": module.mine}):
        estimator = KerasRegressor(model=models.regressor(), cacheDir=str(tmp_path / "cache"), **options, **QUIET)
        with pytest.raises(ClusterError, match=r"executor .* can't import.*no module 'only_on_the_driver'.*--py-files"):
            estimator.fit(data)
        assert os.listdir(tmp_path / "cache") == []


def test_a_rank_that_raises(data: DataFrame) -> None:
    class Boom(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            raise ZeroDivisionError("the user's own")

    with pytest.raises(SparkDLError, match=r"Rank 0 on host .* raised ZeroDivisionError: the user's own") as raised:
        KerasClassifier(model=models.classifier(), callbacks=[Boom()], **QUIET).fit(data)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


BAD_ROWS = {
    "a null": ("cast(null as array<float>)", "1 null"),
    "another length": ("array(1f)", "a row of 1"),
    "a NaN": ("array(1f, 2f, 3f, float('nan'))", "NaN"),
    "an infinite number": ("array(1f, 2f, 3f, float('inf'))", "infinite number"),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_rows_that_cant_be_scored_name_their_column(what: str, fitted: Any, data: DataFrame) -> None:
    value, text = BAD_ROWS[what]
    bad = where("id = 5", "features", value)(data)
    with pytest.raises(Exception, match=rf"column 'features' can't be scored(.|\n)*{text}"):
        fitted.transform(bad).collect()


def test_an_output_column_that_is_there_already(fitted: Any, data: DataFrame) -> None:
    with pytest.raises(DataError, match="already has a column 'prediction'"):
        fitted.transform(data.withColumn("prediction", F.lit(1)))


def test_an_output_column_that_differs_in_case_only(fitted: Any, data: DataFrame) -> None:
    with pytest.raises(DataError, match="already has a column 'prediction'"):
        fitted.transform(data.withColumn("Prediction", F.lit(1)))


def test_scoring_without_the_feature_column(fitted: Any, data: DataFrame) -> None:
    with pytest.raises(DataError, match="no column 'features'"):
        fitted.transform(data.drop("features"))


@pytest.fixture(scope="module")
def fitted(data: DataFrame) -> Any:
    return KerasClassifier(model=models.classifier(), **QUIET).fit(data)
