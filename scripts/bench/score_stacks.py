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
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS, TURNS = 200_000, 5
ROOT = Path(__file__).resolve().parent.parent.parent


def measure(rows: int) -> None:
    """Print JSON: the version of Spark, and for each comparison both ways' rows a second of processor time."""
    import dense_scoring as dense
    from local import local_session
    from pyspark.ml.functions import array_to_vector

    from spark_dl import KerasClassifierModel

    spark = local_session()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", dense.BATCH)
    vector = array_to_vector(dense.feature_array()).alias("features")
    ids = spark.range(0, rows, 1, 4)
    vectors = ids.select(vector).cache()
    arrays = ids.select(dense.feature_array().alias("features")).cache()
    wide = ids.select(vector, *dense.passing_columns()).cache()
    assert vectors.count() == arrays.count() == wide.count() == rows
    network = dense.dense_network()
    fitted = KerasClassifierModel.fromKeras(network)
    fitted.setParams(scoreBatchSize=dense.BATCH, rawPredictionCol="")  # the same work for all: probabilities alone
    content = fitted._fitted_content()

    def speed(frame: Any) -> float:
        before = dense.cpu_seconds()
        dense.run_without_writing(frame)
        return rows / (dense.cpu_seconds() - before)

    with tempfile.TemporaryDirectory() as directory:
        udf = dense.log_mlflow_udf(spark, network, directory)
        ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "a Vector column; predict_batch_udf": (
                lambda: fitted.transform(vectors),
                lambda: dense.by_predict_batch_udf(vectors, content),
            ),
            "and 30 columns that pass through; mapInArrow": (
                lambda: fitted.transform(wide),
                lambda: dense.by_map_in_arrow(wide, content),
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
    print(f"| transform of; baseline | {' | '.join(heads)} |")
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
