"""`transform` by Spark's Arrow UDFs against its pandas UDFs: `python scripts/bench/score_arrow.py [ROWS]`.

On a stack with Spark 4.1 or later (`SPARK_DL_STACK=newest . scripts/env.sh`): a Vector column, an array column, and a
Vector with 30 columns that pass through, each of 64 floats, scored by a dense network 64-128-10 on local[2]. Prints
rows for a second of the processor time of the driver, the JVM and the Python workers, which a busy machine changes less
than the time on the clock.
"""

import sys
from unittest import mock

import keras
import psutil
from compare import HEAD, compare
from local import local_session
from pyspark.ml.functions import array_to_vector, predict_batch_udf, vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType

from spark_dl import KerasClassifierModel
from spark_dl.score import predict

ROWS, WIDTH, BATCH = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, 64, 4096


def by_pandas(frame: DataFrame) -> DataFrame:
    """`transform` as on Spark 4.0."""
    with mock.patch.object(predict, "arrow_udf", return_value=None):
        return fitted.transform(frame)


def by_predict_batch_udf(frame: DataFrame) -> DataFrame:
    def loaded():
        import tensorflow as tf

        from spark_dl.train.model.serialization import from_bytes

        model, kind = from_bytes(content, {}, compiled=False), tf.TensorSpec((None, WIDTH), tf.float32)
        call = tf.function(lambda x: model(x, training=False), input_signature=[kind])
        return lambda inputs: call(tf.constant(inputs, tf.float32)).numpy()

    udf = predict_batch_udf(loaded, return_type=ArrayType(FloatType()), batch_size=BATCH, input_tensor_shapes=[[WIDTH]])
    return frame.withColumn("probability", udf(vector_to_array("features", "float32")))


def cpu_seconds() -> float:
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        used += times.user + times.system + times.children_user + times.children_system
    return used + sum(psutil.Process().cpu_times()[:2])


def measured(frame: DataFrame) -> float:
    before = cpu_seconds()
    frame.write.format("noop").mode("overwrite").save()
    return ROWS / (cpu_seconds() - before)


if predict.arrow_udf() is None:
    sys.exit("score_arrow.py: Spark 4.1 or later is needed: SPARK_DL_STACK=newest . scripts/env.sh")
spark = local_session()
spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
numbers = F.array(*(F.rand(i).cast("float") for i in range(WIDTH)))
others = [
    F.rand(100 + i).alias(f"x{i}") if i % 2 else F.md5(F.col("id").cast("string")).alias(f"x{i}") for i in range(30)
]
rows = spark.range(0, ROWS, 1, 4)
vectors = rows.select(array_to_vector(numbers).alias("features")).cache()
arrays = rows.select(numbers.alias("features")).cache()
wide = rows.select(array_to_vector(numbers).alias("features"), *others).cache()
print(f"{vectors.count():,} rows, {arrays.count():,}, {wide.count():,}; Spark {spark.version}")

network = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10, "softmax")])
network.compile(loss="sparse_categorical_crossentropy")
fitted = KerasClassifierModel.fromKeras(network)
fitted.setParams(scoreBatchSize=BATCH, rawPredictionCol="")
content = fitted._fitted_content()
print(HEAD.replace("rows/s", "rows / CPU s"))
for name, frame in {
    "a Vector column": vectors,
    "an array column": arrays,
    "and 30 columns that pass through": wide,
}.items():
    ways = {
        "Arrow UDF": lambda frame=frame: measured(fitted.transform(frame)),
        "pandas UDF": lambda frame=frame: measured(by_pandas(frame)),
    }
    if frame is vectors:
        ways["predict_batch_udf"] = lambda: measured(by_predict_batch_udf(vectors))
    compare(f"transform, {name}", ways)
spark.stop()
