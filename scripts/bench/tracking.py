"""What tracking costs, and how long a served model takes to answer: `python scripts/bench/tracking.py [--serving]`.

Fits of 200,000 rows of 64 floats in an array column, a tenth of them for validation, a dense network 64-128-10, 2 ranks
on local[2], with MLflow on a sqlite store against `tracking=None`, alternating: of 5 epochs, and of 150 epochs, which
take more than half a minute. Then requests of one row and of 1,000 rows over HTTP, one after the other, to `mlflow
models serve` with our flavor (also with `typed_arrays=False`, as JSON and as Parquet), against the same with the same
network logged by `mlflow.keras`. With `--serving`, only the latter.
"""

import argparse
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import keras
import mlflow
import numpy as np
import pandas as pd
from compare import HEAD, compare
from local import local_session
from mlflow.models import infer_signature
from pyspark.sql import functions as F

import spark_dl.mlflow
from spark_dl import KerasClassifier

ROWS, WIDTH, REQUESTS = 200_000, 64, 200
SHORT, LONG = 5, 150  # epochs


@contextmanager
def served(path: str) -> Iterator[str]:
    """`mlflow models serve`, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", path, "-p", str(port), "--env-manager", "local"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} ended") from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


JSON, PARQUET = "application/json", "application/vnd.apache.parquet"


def milliseconds(url: str, body: bytes, kind: str) -> list[float]:
    """Of each request."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    found = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        urllib.request.urlopen(request).read()
        found.append(1000 * (time.perf_counter() - began))
    return found


def as_parquet(rows: list[list[float]]) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"features": list(np.array(rows, np.float32))}).to_parquet(stream)
    return stream.getvalue()


def serving(typed: str, untyped: str, peer: str) -> None:
    """Compare servers of the models in these directories."""
    every = np.random.default_rng(1).random((1000, WIDTH)).round(4).tolist()
    print("\n| rows per request | model, request | median, ms | 95th percentile, ms | mlflow.keras / this |")
    print("|---|---|---|---|---|")
    with served(typed) as ours, served(untyped) as quick, served(peer) as theirs:
        for rows in (every[:1], every):
            records = json.dumps({"dataframe_records": [{"features": row} for row in rows]}).encode()
            requests = {
                "mlflow.keras, JSON": (theirs, json.dumps({"inputs": rows}).encode(), JSON),
                "spark_dl, JSON": (ours, records, JSON),
                "spark_dl, typed_arrays=False, JSON": (quick, records, JSON),
                "spark_dl, typed_arrays=False, Parquet": (quick, as_parquet(rows), PARQUET),
            }
            for request in requests.values():
                milliseconds(*request)
            found = {name: milliseconds(*request) for name, request in requests.items()}
            first = statistics.median(next(iter(found.values())))
            for name, taken in found.items():
                middle, slow = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
                print(f"| {len(rows):,} | {name} | {middle:.1f} | {slow:.1f} | {first / middle:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serving", action="store_true")
    only_serving = parser.parse_args().serving
    spark = local_session()
    features = F.array(*(F.rand(i).cast("float") for i in range(WIDTH))).alias("features")
    frame = spark.range(0, ROWS, 1, 4).select(features, (F.col("id") % 10).cast("int").alias("label")).cache()
    frame.count()
    layers = [keras.layers.Dense(128, "relu"), keras.layers.Dense(10, "softmax")]
    network = keras.Sequential([keras.Input((WIDTH,)), *layers])
    classifier = KerasClassifier(
        model=network, batchSize=1024, epochs=SHORT, numWorkers=2, validationFraction=0.1, verbose=0
    )

    def fit(tracking: str | None, epochs: int) -> float:
        began = time.perf_counter()
        classifier.fit(frame, {classifier.tracking: tracking, classifier.epochs: epochs})
        seconds = time.perf_counter() - began
        print(f"{epochs} epochs, tracking={tracking}: {seconds:.1f} s", file=sys.stderr)
        return ROWS * epochs / seconds

    with tempfile.TemporaryDirectory() as made:
        mlflow.set_tracking_uri(f"sqlite:///{made}/mlflow.db")
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", f"file://{made}/artifacts"))
        if not only_serving:
            print(HEAD)
            for epochs, turns in ((SHORT, 7), (LONG, 3)):
                ways = {"ours": partial(fit, "mlflow", epochs), "tracking=None": partial(fit, None, epochs)}
                compare(f"fit of {epochs} epochs, tracked", ways, turns, warm=epochs == SHORT)

        fitted = classifier.fit(frame, {classifier.tracking: None})
        spark_dl.mlflow.save_model(fitted, f"{made}/ours")
        spark_dl.mlflow.save_model(fitted, f"{made}/untyped", typed_arrays=False)
        model, example = fitted.keras(), np.zeros((1, WIDTH), np.float32)
        signature = infer_signature(example, model.predict(example, verbose=0))
        mlflow.keras.save_model(model, f"{made}/theirs", signature=signature)
        spark.stop()
        serving(f"{made}/ours", f"{made}/untyped", f"{made}/theirs")


if __name__ == "__main__":
    main()
