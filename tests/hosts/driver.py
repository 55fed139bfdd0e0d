"""The user's program on the driver's host: one fit for each fault, in the order of the command line.

It says what it does in lines on standard output, which the controller reads, and ends each fit with a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cloudpickle
import keras
import mlflow
import models
from mlflow_stores import tracking_server
from sessions import session

from spark_dl import HorovodLauncher, KerasClassifier
from spark_dl.errors import SparkDLError

cloudpickle.register_pickle_by_value(sys.modules[__name__])
# Of single faults.
OPTIONS: dict[str, dict[str, Any]] = {
    "no spare": {"minWorkers": 1, "slotTimeout": 15},
    "no spare, no fewer": {"slotTimeout": 10},
    "one rank": {"numWorkers": 1, "globalBatchSize": 16},
    "eight ranks": {"numWorkers": 8, "globalBatchSize": 16},
    "tracked": {"tracking": "mlflow", "experimentName": "hosts"},
}


def interface() -> str:
    return os.environ["HOROVOD_GLOO_IFACE"]


class Slow(keras.callbacks.Callback):
    """Leaves time for faults."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(0.05)


class Alone(keras.callbacks.Callback):
    """Makes sure that its rank knows no password, has no MLflow, and could not reach the server."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def on_train_begin(self, logs: Any = None) -> None:
        known = [name for name in os.environ if name.startswith("MLFLOW")]
        assert not known, known
        assert "mlflow" not in sys.modules
        try:
            urllib.request.urlopen(f"{self._url}/health", timeout=5)
        except OSError:
            return
        raise AssertionError(f"{self._url} can be reached")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(master: str, directory: str, faults: list[str]) -> None:
    preflight = {
        "spark.driver.host": "10.9.0.1",
        "spark.driver.bindAddress": "10.9.0.1",
        "spark.executor.memory": "512m",
        "spark.executor.cores": "1",
        "spark.executorEnv.PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # the hosts have none
        "spark.network.timeout": "30s",
        "spark.network.timeoutInterval": "5s",
        "spark.executor.heartbeatInterval": "5s",
    }
    with session(master, **{key.removeprefix("spark.").replace(".", "_"): v for key, v in preflight.items()}) as spark:
        data = models.frame(spark)
        for fault in faults:
            estimator = KerasClassifier(
                model=models.classifier(),
                optimizer=keras.optimizers.Adam(0.01),
                callbacks=[Slow()],
                batchSize=10,
                epochs=4,
                checkpointSteps=4,
                cacheDir=directory,
                collectiveTimeout=8,
                verbose=2,
                seed=3,
                **{"numWorkers": 2, "slotTimeout": 90, "tracking": None, **OPTIONS.get(fault, {})},
            )
            say(f"BEGIN {fault}")
            if fault == "tracked":
                with tracking_server(Path(directory).parent) as server:
                    estimator.fit(data, {estimator.callbacks: [Alone(server.url)]})
                    (run,) = mlflow.search_runs(experiment_names=["hosts"], output_format="list")
                    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
                say("END " + json.dumps({"status": run.info.status, "steps": [loss.step for loss in losses]}))
                continue
            if fault == "another network":
                interfaces = HorovodLauncher(4, networkInterface="10.8.0.0/24").run(interface)
                say("END " + json.dumps({"interfaces": interfaces}))
                continue
            try:
                fitted = estimator.fit(data)
            except SparkDLError as error:
                say("END " + json.dumps({"error": type(error).__name__, "text": str(error)}))
                continue
            weights = [float(number) for weight in fitted.keras().get_weights() for number in weight.reshape(-1)]
            epochs = len(fitted.summary.history["loss"])
            say("END " + json.dumps({"weights": weights, "epochs": epochs}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
