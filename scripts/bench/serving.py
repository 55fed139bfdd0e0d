"""Where the time of a served request goes: `python scripts/bench/serving.py`, in this process, without HTTP.

1,000 rows of 64 floats and a dense network 64-128-10, saved by our flavor (also with `typed_arrays=False`) and by
`mlflow.keras`, through the functions that MLflow's scoring server calls for a request, alternating: parsing, the
check of the signature, the model's own `predict`, and JSON. Medians of CPU time, which is what requests share on a
busy server.
"""

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import mlflow
import numpy as np
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server
from pyspark.sql import types as T

import spark_dl.mlflow
from spark_dl import KerasClassifierModel

ROWS, WIDTH, TURNS = 1000, 64, 30
PARTS = ("parse the request", "check the signature", "the model's predict", "write the answer")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU milliseconds of a call, and its result."""
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # Keras's predict shows its progress
        made = call()
    return 1000 * (time.process_time() - began), made


def parts(served: Any, own: Callable[[Any], Any], body: str) -> list[float]:
    """CPU milliseconds of each part of a request."""
    schema = served.metadata.get_input_schema()
    parse, parsed = timed(lambda: scoring_server._parse_json_data(body, served.metadata, schema))
    whole, answer = timed(lambda: served.predict(parsed.data))
    alone, _ = timed(lambda: own(parsed.data))
    write, _ = timed(lambda: scoring_server.predictions_to_json(answer, io.StringIO()))
    return [parse, max(0.0, whole - alone), alone, write]


def main() -> None:
    layers = [keras.layers.Dense(128, "relu"), keras.layers.Dense(10, "softmax")]
    network = keras.Sequential([keras.Input((WIDTH,)), *layers])
    columns = T.StructType([T.StructField("features", T.ArrayType(T.FloatType()))])
    example = np.zeros((1, WIDTH), np.float32)
    rows = np.random.default_rng(1).random((ROWS, WIDTH)).round(4).tolist()
    records = {"dataframe_records": [{"features": row} for row in rows]}
    bodies = {"spark_dl": records, "spark_dl, typed_arrays=False": records, "mlflow.keras": {"inputs": rows}}
    with tempfile.TemporaryDirectory() as made:
        fitted = KerasClassifierModel.fromKeras(network, columns)
        spark_dl.mlflow.save_model(fitted, f"{made}/spark_dl")
        spark_dl.mlflow.save_model(fitted, f"{made}/spark_dl, typed_arrays=False", typed_arrays=False)
        signature = infer_signature(example, network.predict(example, verbose=0))
        mlflow.keras.save_model(network, f"{made}/mlflow.keras", signature=signature)
        models = {name: mlflow.pyfunc.load_model(f"{made}/{name}") for name in bodies}
    found: dict[str, list[list[float]]] = {name: [] for name in bodies}
    for turn in range(TURNS + 2):
        for name, served in models.items():
            taken = parts(served, served._model_impl.predict, json.dumps(bodies[name]))
            if turn > 1:
                found[name].append(taken)
    medians = {name: [statistics.median(one) for one in zip(*taken, strict=True)] for name, taken in found.items()}
    print(f"| part of a request of 1,000 rows | {' | '.join(f'{name}, CPU ms' for name in medians)} |")
    print("|---" * (1 + len(medians)) + "|")
    for part, *taken in zip((*PARTS, "all"), *([*parts, sum(parts)] for parts in medians.values()), strict=True):
        print(f"| {part} | {' | '.join(f'{one:.1f}' for one in taken)} |")


if __name__ == "__main__":
    main()
