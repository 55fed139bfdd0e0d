"""Scoring a Vector column: `python scripts/bench/score.py`.

600,000 rows of 64 floats on local[2], with a dense network 64-128-10. `transform` against Spark's own
`predict_batch_udf` with the same model, and against a UDF that computes nothing; with 30 further columns that pass
through, also against a `mapInArrow` that takes all columns to Python and back: every row is computed and none is
written (the "noop" sink). `scoreParquet`, from Parquet to Parquet, against `transform` and a write.
"""

import tempfile
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
from compare import HEAD, compare
from local import local_session
from pyspark.ml.functions import array_to_vector, predict_batch_udf, vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType

from spark_dl import KerasClassifier

ROWS, WIDTH, BATCH = 600_000, 64, 4096


def loaded(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """What a careful user would write by hand: a compiled call of the model."""
    import tensorflow as tf

    from spark_dl.train.model.serialization import from_bytes

    model = from_bytes(content, {}, compiled=False)
    call = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec((None, WIDTH), tf.float32)])
    return lambda inputs: call(tf.constant(inputs, tf.float32)).numpy()


def by_predict_batch_udf(frame: DataFrame, content: bytes) -> DataFrame:
    udf = predict_batch_udf(
        lambda: loaded(content),
        return_type=ArrayType(FloatType()),
        batch_size=BATCH,
        input_tensor_shapes=[[WIDTH]],
    )
    return frame.withColumn("probability", udf(vector_to_array("features", "float32")))


def by_map_in_arrow(frame: DataFrame, content: bytes) -> DataFrame:
    arrays = frame.withColumn("features", vector_to_array("features", "float32"))

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        predict = loaded(content)
        for batch in batches:
            column = batch.column(batch.schema.get_field_index("features"))
            found = predict(column.flatten().to_numpy().reshape(-1, WIDTH))
            offsets = pa.array(np.arange(0, found.size + 1, found.shape[1], np.int32))
            probability = pa.ListArray.from_arrays(offsets, pa.array(found.reshape(-1)))
            yield pa.RecordBatch.from_arrays([*batch.columns, probability], names=[*batch.schema.names, "probability"])

    fields = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in arrays.schema)
    return arrays.mapInArrow(score, f"{fields}, probability array<float>")


def by_nothing(frame: DataFrame) -> DataFrame:
    """The same columns in and out as ours has, without a model."""
    names = [f"p{i}" for i in range(10)]

    @F.pandas_udf(", ".join(f"{name} double" for name in ["prediction", *names]))
    def nothing(rows: pd.Series) -> pd.DataFrame:
        matrix = np.concatenate(rows.to_numpy()).reshape(-1, WIDTH).astype(float)
        return pd.DataFrame({"prediction": matrix[:, 0], **{name: matrix[:, i] for i, name in enumerate(names)}})

    sent = frame.withColumn("scored", nothing(vector_to_array("features", "float32")))
    probability = array_to_vector(F.array(*(F.col(f"scored.{name}") for name in names)))
    return sent.withColumns({"prediction": F.col("scored.prediction"), "probability": probability}).drop("scored")


def timed(frame: DataFrame) -> float:
    began = time.perf_counter()
    frame.write.format("noop").mode("overwrite").save()
    return ROWS / (time.perf_counter() - began)


spark = local_session()
spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
features = array_to_vector(F.array(*(F.rand(i).cast("float") for i in range(WIDTH)))).alias("features")
others = [
    F.rand(100 + i).alias(f"x{i}") if i % 2 else F.md5(F.col("id").cast("string")).alias(f"x{i}") for i in range(30)
]
narrow = spark.range(0, ROWS, 1, 4).select(features, (F.col("id") % 10).alias("label")).cache()
wide = spark.range(0, ROWS, 1, 4).select(features, *others).cache()
print(f"{narrow.count()} rows, {len(wide.columns)} columns in {wide.count()} rows")

network = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10, "softmax")])
fitted = KerasClassifier(model=network, batchSize=1024, tracking=None, verbose=0, scoreBatchSize=BATCH).fit(narrow)
content = fitted._fitted_content()
# The same work for all: probabilities alone.
fitted.setRawPredictionCol("")
print(HEAD)
compare(
    "transform, a Vector column",
    {
        "ours": lambda: timed(fitted.transform(narrow)),
        "predict_batch_udf": lambda: timed(by_predict_batch_udf(narrow, content)),
        "a UDF that computes nothing": lambda: timed(by_nothing(narrow)),
    },
)
compare(
    "transform, and 30 columns that pass through",
    {
        "ours": lambda: timed(fitted.transform(wide)),
        "a UDF that computes nothing": lambda: timed(by_nothing(wide)),
        "mapInArrow over all columns": lambda: timed(by_map_in_arrow(wide, content)),
    },
)
with tempfile.TemporaryDirectory() as made:
    narrow.write.parquet(f"{made}/in")

    def bulk() -> float:
        began = time.perf_counter()
        fitted.scoreParquet(f"{made}/in", f"{made}/ours", overwrite=True)
        return ROWS / (time.perf_counter() - began)

    def by_transform() -> float:
        began = time.perf_counter()
        fitted.transform(spark.read.parquet(f"{made}/in")).write.mode("overwrite").parquet(f"{made}/plain")
        return ROWS / (time.perf_counter() - began)

    compare("scoreParquet, a Vector column", {"ours": bulk, "transform and write": by_transform})
spark.stop()
