"""Run as a program: a saved model's predictions in all the ways that give them, with some cores for each task.

Arguments: the model's directory, the rows' Parquet files, a directory for results, the cores of a task. Prints, after
"RESULT", JSON: each way -> the probabilities of each row.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as F
from sessions import session

from spark_dl import KerasClassifierModel


def main(model_path: str, rows: str, scratch: str, cpus: str) -> None:
    with session("local[2]", task_cpus=cpus) as spark:
        model = KerasClassifierModel.load(model_path)
        frame = spark.read.parquet(rows)
        model.registerUdf(spark, "chances", "probability")
        stream = model.transform(spark.readStream.schema(frame.schema).parquet(rows))
        writer = stream.writeStream.trigger(availableNow=True).option("checkpointLocation", f"{scratch}/state")
        assert writer.start(f"{scratch}/streamed").awaitTermination(120)
        model.scoreParquet(rows, f"{scratch}/bulk")
        frames = {
            "transform": model.transform(frame),
            "stream": spark.read.parquet(f"{scratch}/streamed"),
            "parquet": spark.read.parquet(f"{scratch}/bulk"),
        }
        frames = {way: scored.withColumn("p", vector_to_array("probability")) for way, scored in frames.items()}
        frames["sql"] = frame.withColumn("p", F.expr("chances(features)"))
        found = {way: [row.p for row in scored.orderBy("id").collect()] for way, scored in frames.items()}
        features = np.array([row.features for row in frame.orderBy("id").collect()], np.float32)
        found["keras"] = model.keras().predict(features, verbose=0).tolist()
    sys.stdout.write(f"RESULT {json.dumps(found)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
