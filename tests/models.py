"""Small Keras models and DataFrames that the tests share."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

ROWS = 200


# A value that isn't the default, for each kind of default.
_OTHER: dict[type, Any] = {int: 7, float: 0.25, str: "other", type(None): "other"}
_OTHERS: dict[str, Any] = {
    "modelFn": dict,
    "modelParams": {"width": 2},
    "warmStart": "a fitted model",
    "optimizer": "sgd",
    "loss": "mse",
    "lossWeights": [0.5, 2.0],
    "metrics": ["mae"],
    "callbacks": [keras.callbacks.TerminateOnNaN()],
    "onEpoch": bool,
    "transformFn": keras.layers.Rescaling(0.5),
    "augment": keras.layers.Rescaling(2.0),
    "inputCols": ["a", "b"],
    "columnShapes": {"a": [2, 3]},
    "padding": {"a": 0},
    "truncate": "end",
    "scoreNullPolicy": "null",
    "scoreEngine": "onnx",
    "labelShapes": {"y": [3]},
    "tagLabels": ["a", "b"],
    "labelCols": {"price": "y"},
    "outputCols": ["p", "q"],
    "validationData": "rows",
    "nullPolicy": {"a": "drop", "b": {"fill": 0.5}},
    "balance": "oversample",
    "monitorMode": "max",
    "learningRate": 0.25,
    "learningRateScaling": "linear",
    "compression": "fp16",
    "cacheData": "disk",
    "binaryFormat": "raw",
    "reader": "arrow",
    "sparseVectors": "always",
    "outputFormat": "vector",
    "outputKind": "logits",
    "dtypePolicy": "mixed_bfloat16",
    "thresholds": [0.5, 0.2],
    "topK": 2,
    "classLabels": ["a", "b"],
    "slotTimeout": 5.0,
    "startTimeout": 5.0,
    "stallTimeout": 5.0,
    "verbose": 2,
    "globalBatchSize": 64,
    "checkpointSteps": 3,
    "minWorkers": 1,
    "cpusPerWorker": 2,
    "gpusPerWorker": 1,
    "classWeights": {0: 2.0, 2: 0.5},
    "storageOptions": {"region": "eu-west-1", "request_timeout": 5},
}


def another(option: Any) -> Any:
    """A good value of an option that isn't its default."""
    if isinstance(option.default, bool):
        return not option.default
    return _OTHERS.get(option.name, _OTHER[type(option.default)])


def classifier(classes: int = 3, width: int = 4, seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((width,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(classes, "softmax")]
    )


def tagger(classes: int = 3, width: int = 4, seed: int = 1) -> keras.Model:
    """A tagger of one position, whose label may be a number."""
    keras.utils.set_random_seed(seed)
    scores = [keras.layers.Dense(classes), keras.layers.Reshape((1, classes)), keras.layers.Softmax()]
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(8, activation="relu"), *scores])


def regressor(width: int = 4, seed: int = 1, dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((width,), dtype=dtype), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])


def blobs(rows: int = ROWS, classes: int = 3, width: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around one centre for each class: features (rows, width) float32, labels (rows,)."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = random.normal(scale=3, size=(classes, width))
    return (centres[labels] + random.normal(size=(rows, width))).astype(np.float32), labels


def frame(spark: SparkSession, rows: int = ROWS, partitions: int = 3, **options: Any) -> DataFrame:
    """Columns: id, features (array<float>), f0.. (float), label (double), weight, held (boolean), note."""
    features, labels = blobs(rows, **options)
    data = [
        (i, [float(v) for v in x], *(float(v) for v in x), float(y), 1.0 + i % 3, i % 5 == 0, f"note {i}")
        for i, (x, y) in enumerate(zip(features, labels, strict=True))
    ]
    scalars = ", ".join(f"f{i} float" for i in range(features.shape[1]))
    schema = f"id long, features array<float>, {scalars}, label double, weight double, held boolean, note string"
    return spark.createDataFrame(data, schema).repartitionByRange(partitions, F.col("id")).sortWithinPartitions("id")
