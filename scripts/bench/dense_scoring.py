"""Rows of 64 floats, a dense network 64-128-10 and other ways to score by it, for the benches of `transform`.

Python workers import this module: `local_session` puts its directory on their path.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import psutil
import pyarrow as pa
from pyspark.ml.functions import predict_batch_udf, vector_to_array
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType

__all__ = [
    "BATCH",
    "WIDTH",
    "by_map_in_arrow",
    "by_predict_batch_udf",
    "cpu_seconds",
    "dense_network",
    "feature_array",
    "log_mlflow_udf",
    "passing_columns",
    "run_without_writing",
]

WIDTH, BATCH = 64, 4096


def dense_network() -> keras.Model:
    """Make the network, compiled for class indices."""
    layers = [keras.layers.Dense(128, "relu"), keras.layers.Dense(10, "softmax")]
    network = keras.Sequential([keras.Input((WIDTH,)), *layers])
    network.compile(loss="sparse_categorical_crossentropy")
    return network


def feature_array() -> Column:
    """Return the random features of a row, as array<float>."""
    return F.array(*(F.rand(seed).cast("float") for seed in range(WIDTH)))


def passing_columns() -> list[Column]:
    """Return 30 columns that scoring doesn't read, for a DataFrame with the column `id`."""
    text = F.md5(F.col("id").cast("string"))
    return [(F.rand(100 + i) if i % 2 else text).alias(f"x{i}") for i in range(30)]


def run_without_writing(frame: DataFrame) -> None:
    """Compute every row and column, and write none (the "noop" sink)."""
    frame.write.format("noop").mode("overwrite").save()


def cpu_seconds() -> float:
    """Return the processor time so far of this process and of those below it: the JVM and its Python workers."""
    used: float = sum(psutil.Process().cpu_times()[:2])
    for process in psutil.Process().children(recursive=True):
        used += sum(process.cpu_times()[:4])
    return used


def by_predict_batch_udf(frame: DataFrame, content: bytes) -> DataFrame:
    """Score the Vector column `features` with Spark's own UDF for models."""
    kind, shapes = ArrayType(FloatType()), [[WIDTH]]
    udf = predict_batch_udf(
        lambda: _compiled_call(content), return_type=kind, batch_size=BATCH, input_tensor_shapes=shapes
    )
    return frame.withColumn("probability", udf(vector_to_array("features", "float32")))


def by_map_in_arrow(frame: DataFrame, content: bytes) -> DataFrame:
    """Score the Vector column `features` with a function that takes all columns to Python and back."""
    arrays = frame.withColumn("features", vector_to_array("features", "float32"))

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        predict = _compiled_call(content)
        for batch in batches:
            column = batch.column(batch.schema.get_field_index("features"))
            found = predict(column.flatten().to_numpy().reshape(-1, WIDTH))
            offsets = pa.array(np.arange(0, found.size + 1, found.shape[1], np.int32))
            probability = pa.ListArray.from_arrays(offsets, pa.array(found.reshape(-1)))
            yield pa.RecordBatch.from_arrays([*batch.columns, probability], names=[*batch.schema.names, "probability"])

    fields = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in arrays.schema)
    return arrays.mapInArrow(score, f"{fields}, probability array<float>")


def log_mlflow_udf(spark: SparkSession, model: keras.Model, directory: str) -> Callable[[str], Column]:
    """Log the model with its signature to a store in the directory, and return MLflow's UDF over it."""
    import mlflow
    from mlflow.models import infer_signature

    mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("scoring", f"file://{directory}/artifacts"))
    example = np.zeros((1, WIDTH), np.float32)
    with mlflow.start_run():
        signature = infer_signature(example, model.predict(example, verbose=0))
        logged = mlflow.keras.log_model(model, name="model", signature=signature)
    return mlflow.pyfunc.spark_udf(spark, logged.model_uri, result_type="array<float>", env_manager="local")


def _compiled_call(content: bytes) -> Callable[[Any], np.ndarray]:
    """Load the model as a careful user would write it by hand: a compiled call."""
    import tensorflow as tf

    from spark_dl.train.model.serialization import from_bytes

    model = from_bytes(content, {}, compiled=False)
    call = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec((None, WIDTH), tf.float32)])
    return lambda inputs: call(tf.constant(inputs, tf.float32)).numpy()
