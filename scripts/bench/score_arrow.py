"""`transform` by Spark's Arrow UDFs against its pandas UDFs: `python scripts/bench/score_arrow.py [ROWS]`.

On a stack with Spark 4.1 or later (`SPARK_DL_STACK=newest . scripts/env.sh`): a Vector column, an array column, and a
Vector with 30 columns that pass through, each of 64 floats, scored by a dense network 64-128-10 on local[2]. Prints
rows for a second of the processor time of the driver, the JVM and the Python workers, which a busy machine changes less
than the time on the clock.
"""

import sys
from collections.abc import Callable
from functools import partial
from unittest import mock

from compare import HEAD, compare
from dense_scoring import (
    BATCH,
    by_predict_batch_udf,
    cpu_seconds,
    dense_network,
    feature_array,
    passing_columns,
    run_without_writing,
)
from local import local_session
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame

from spark_dl import KerasClassifierModel
from spark_dl._compat.spark import arrow_udf
from spark_dl.score import predict

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000


def by_arrow(frame: DataFrame) -> DataFrame:
    return fitted.transform(frame)


def by_pandas(frame: DataFrame) -> DataFrame:
    """`transform` as on Spark 4.0."""
    with mock.patch.object(predict, "arrow_udf", return_value=None):
        return fitted.transform(frame)


def measured(scored: Callable[[DataFrame], DataFrame], frame: DataFrame) -> float:
    before = cpu_seconds()
    run_without_writing(scored(frame))
    return ROWS / (cpu_seconds() - before)


if arrow_udf() is None:
    sys.exit("score_arrow.py: Spark 4.1 or later is needed: SPARK_DL_STACK=newest . scripts/env.sh")
spark = local_session()
spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
rows = spark.range(0, ROWS, 1, 4)
vectors = rows.select(array_to_vector(feature_array()).alias("features")).cache()
arrays = rows.select(feature_array().alias("features")).cache()
wide = rows.select(array_to_vector(feature_array()).alias("features"), *passing_columns()).cache()
print(f"{vectors.count():,} rows, {arrays.count():,}, {wide.count():,}; Spark {spark.version}")

fitted = KerasClassifierModel.fromKeras(dense_network())
fitted.setParams(scoreBatchSize=BATCH, rawPredictionCol="")
content = fitted._fitted_content()
print(HEAD.replace("rows/s", "rows / CPU s"))
for name, frame in {
    "a Vector column": vectors,
    "an array column": arrays,
    "and 30 columns that pass through": wide,
}.items():
    ways = {
        "Arrow UDF": partial(measured, by_arrow, frame),
        "pandas UDF": partial(measured, by_pandas, frame),
    }
    if frame is vectors:
        ways["predict_batch_udf"] = partial(measured, partial(by_predict_batch_udf, content=content), vectors)
    compare(f"transform, {name}", ways)
spark.stop()
