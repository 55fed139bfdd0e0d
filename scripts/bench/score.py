"""Scoring a Vector column: `python scripts/bench/score.py [ROWS]`.

600,000 rows of 64 floats on local[2], with a dense network 64-128-10. `transform` against Spark's own
`predict_batch_udf` with the same model, and against a UDF that computes nothing; with 30 further columns that pass
through, also against a `mapInArrow` that takes all columns to Python and back: every row is computed and none is
written (the "noop" sink). `scoreParquet`, from Parquet to Parquet, against `transform` and a write.
"""

import sys
import tempfile
import time

import numpy as np
import pandas as pd
from compare import HEAD, compare
from dense_scoring import (
    BATCH,
    WIDTH,
    by_map_in_arrow,
    by_predict_batch_udf,
    dense_network,
    feature_array,
    passing_columns,
    run_without_writing,
)
from local import local_session
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl import KerasClassifier

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 600_000


def by_nothing(frame: DataFrame) -> DataFrame:
    """The same columns in and out as ours has, without a model."""
    names = [f"p{i}" for i in range(10)]

    @F.pandas_udf(", ".join(f"{name} double" for name in ["prediction", *names]))  # type: ignore[call-overload]
    def nothing(rows: pd.Series) -> pd.DataFrame:
        matrix = np.concatenate(rows.to_numpy()).reshape(-1, WIDTH).astype(float)
        return pd.DataFrame({"prediction": matrix[:, 0], **{name: matrix[:, i] for i, name in enumerate(names)}})

    sent = frame.withColumn("scored", nothing(vector_to_array("features", "float32")))
    probability = array_to_vector(F.array(*(F.col(f"scored.{name}") for name in names)))
    return sent.withColumns({"prediction": F.col("scored.prediction"), "probability": probability}).drop("scored")


def timed(frame: DataFrame) -> float:
    began = time.perf_counter()
    run_without_writing(frame)
    return ROWS / (time.perf_counter() - began)


spark = local_session()
spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
features = array_to_vector(feature_array()).alias("features")
narrow = spark.range(0, ROWS, 1, 4).select(features, (F.col("id") % 10).alias("label")).cache()
wide = spark.range(0, ROWS, 1, 4).select(features, *passing_columns()).cache()
print(f"{narrow.count()} rows, {len(wide.columns)} columns in {wide.count()} rows")

fitted = KerasClassifier(model=dense_network(), batchSize=1024, tracking=None, verbose=0, scoreBatchSize=BATCH).fit(
    narrow
)
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
