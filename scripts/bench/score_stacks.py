"""Scoring on two stacks side by side: `python scripts/bench/score_stacks.py [ROWS [STACK STACK]]`.

On each stack, of those that scripts/setup.sh has made (default: primary and newest): rows of 64 floats, scored by a
dense network 64-128-10 on local[2], each way five times in alternation. `transform` of a Vector column against Spark's
`predict_batch_udf`, with 30 columns that pass through against a `mapInArrow` that takes all columns to Python and back,
and of an array column against `mlflow.pyfunc.spark_udf` over the same model. Prints rows for a second of the processor
time of the driver, the JVM and the Python workers, which a busy machine changes less than the time on the clock.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROWS, WIDTH, BATCH, TURNS = 200_000, 64, 4096, 5
ROOT = Path(__file__).resolve().parent.parent.parent


def cpu_seconds() -> float:
    import psutil

    used = sum(psutil.Process().cpu_times()[:2])
    for process in psutil.Process().children(recursive=True):
        used += sum(process.cpu_times()[:4])
    return used


def loaded(content: bytes) -> Callable[[Any], Any]:
    """What a careful user would write by hand: a compiled call of the model."""
    import tensorflow as tf

    from spark_dl.train.model.serialization import from_bytes

    model = from_bytes(content, {}, compiled=False)
    call = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec((None, WIDTH), tf.float32)])
    return lambda inputs: call(tf.constant(inputs, tf.float32)).numpy()


def by_predict_batch_udf(frame: Any, content: bytes) -> Any:
    from pyspark.ml.functions import predict_batch_udf, vector_to_array
    from pyspark.sql.types import ArrayType, FloatType

    kind, shapes = ArrayType(FloatType()), [[WIDTH]]
    udf = predict_batch_udf(lambda: loaded(content), return_type=kind, batch_size=BATCH, input_tensor_shapes=shapes)
    return frame.withColumn("probability", udf(vector_to_array("features", "float32")))


def by_map_in_arrow(frame: Any, content: bytes) -> Any:
    import numpy as np
    import pyarrow as pa
    from pyspark.ml.functions import vector_to_array

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


def mlflow_udf(spark: Any, model: Any, directory: str) -> Any:
    import mlflow
    import numpy as np
    from mlflow.models import infer_signature

    mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("scoring", f"file://{directory}/artifacts"))
    example = np.zeros((1, WIDTH), np.float32)
    with mlflow.start_run():
        signature = infer_signature(example, model.predict(example, verbose=0))
        logged = mlflow.keras.log_model(model, name="model", signature=signature)
    return mlflow.pyfunc.spark_udf(spark, logged.model_uri, result_type="array<float>", env_manager="local")


def measure(rows: int) -> None:
    """Print JSON: the version of Spark, and for each comparison both ways' rows a second of processor time."""
    import keras
    from local import local_session
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    from spark_dl import KerasClassifierModel

    spark = local_session()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
    numbers = F.array(*(F.rand(i).cast("float") for i in range(WIDTH)))
    text = F.md5(F.col("id").cast("string"))
    others = [(F.rand(100 + i) if i % 2 else text).alias(f"x{i}") for i in range(30)]
    ids = spark.range(0, rows, 1, 4)
    vectors = ids.select(array_to_vector(numbers).alias("features")).cache()
    arrays = ids.select(numbers.alias("features")).cache()
    wide = ids.select(array_to_vector(numbers).alias("features"), *others).cache()
    assert vectors.count() == arrays.count() == wide.count() == rows
    layers = [keras.layers.Dense(128, "relu"), keras.layers.Dense(10, "softmax")]
    network = keras.Sequential([keras.Input((WIDTH,)), *layers])
    network.compile(loss="sparse_categorical_crossentropy")
    fitted = KerasClassifierModel.fromKeras(network)
    fitted.setParams(scoreBatchSize=BATCH, rawPredictionCol="")  # the same work for all: probabilities alone
    content = fitted._fitted_content()

    def speed(frame: Any) -> float:
        before = cpu_seconds()
        frame.write.format("noop").mode("overwrite").save()
        return rows / (cpu_seconds() - before)

    with tempfile.TemporaryDirectory() as directory:
        udf = mlflow_udf(spark, network, directory)
        ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "a Vector column; predict_batch_udf": (
                lambda: fitted.transform(vectors),
                lambda: by_predict_batch_udf(vectors, content),
            ),
            "and 30 columns that pass through; mapInArrow": (
                lambda: fitted.transform(wide),
                lambda: by_map_in_arrow(wide, content),
            ),
            "an array column; mlflow.pyfunc.spark_udf": (
                lambda: fitted.transform(arrays),
                lambda: arrays.withColumn("probability", udf("features")),
            ),
        }
        found = {}
        for name, pair in ways.items():
            turns = [[speed(way()) for way in pair] for _ in range(TURNS + 1)][1:]  # the first loads the model
            found[name] = [statistics.median(way) for way in zip(*turns, strict=True)]
    print(json.dumps({"spark": spark.version, "found": found}))
    spark.stop()


def on_stack(stack: str, rows: int) -> dict[str, Any]:
    venv = ROOT / (".venv" if stack == "primary" else f".venv-{stack}")
    python = venv / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"score_stacks.py: {venv} is missing: scripts/setup.sh --stack {stack} makes it")
    java = {"JAVA_HOME": str(venv / "jdk")} if (venv / "jdk" / "bin" / "java").exists() else {}
    environment = {**os.environ, **java, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": str(python)}
    environment["PYSPARK_DRIVER_PYTHON"] = str(python)
    command = [str(python), __file__, "measure", str(rows)]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def main(rows: int, stacks: list[str]) -> None:
    results = [on_stack(stack, rows) for stack in stacks]
    heads = [f"{kind} on {result['spark']}" for result in results for kind in ("transform", "other", "ratio")]
    print(f"| transform of; other way | {' | '.join(heads)} |")
    print(f"|---|{'---|' * len(heads)}")
    for name in results[0]["found"]:
        cells = []
        for result in results:
            own, other = result["found"][name]
            cells += [f"{own:,.0f}", f"{other:,.0f}", f"{own / other:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS, sys.argv[2:] or ["primary", "newest"])
