"""A federated fit on real ranks, one for each silo, and the silos that are refused."""

from __future__ import annotations

from pathlib import Path

import keras
import mlflow
import models
import numpy as np
import pytest
from mlflow_stores import sqlite_store
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier, KerasClassifierModel, federated
from spark_dl.errors import ClusterError, DataError
from spark_dl.federated.silos import find_silos


def test_a_federated_fit_averages_ranks_of_one_silo_each(spark: SparkSession, tmp_path: Path) -> None:
    rows = models.frame(spark, rows=120, partitions=2)
    hospital = F.when(F.col("id") % 4 == 0, "a").otherwise("b").alias("hospital")
    data = rows.select("*", hospital, F.when(F.col("id") > 9, F.col("id") % 3).alias("ward"))
    cache = tmp_path / "cache"
    classifier = KerasClassifier(
        model=models.classifier(),
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        batchSize=16,
        validationCol="held",
        cacheDir=str(cache),
        verbose=0,
    )
    with sqlite_store(tmp_path, "silos"):
        fitted = federated.fit(classifier, data, siloCol="hospital", rounds=3, localEpochs=2, proximal=0.01)
        run = mlflow.get_run(fitted.summary.run_id).data
    assert isinstance(fitted, KerasClassifierModel)
    assert (fitted.summary.rows, fitted.summary.validation_rows) == (96, 24)
    history = fitted.summary.history
    assert {len(values) for values in history.values()} == {3}
    settings = {"localEpochs": "2", "proximal": "0.01", "silos": "2", "numWorkers": "2", "epochs": "3"}
    assert settings.items() <= run.params.items()
    assert run.metrics["val_loss_silo_b_"] == pytest.approx(history["val_loss[silo=b]"][-1])
    held = {name: data.where(F.col("held") & (F.col("hospital") == name)).toPandas() for name in "ab"}
    for name, frame in held.items():
        x, y = np.array(frame["features"].tolist(), np.float32), frame["label"].to_numpy()
        found = fitted.keras().evaluate(x, y, verbose=0, return_dict=True)
        assert history[f"val_loss[silo={name}]"][-1] == pytest.approx(found["loss"], rel=1e-4)
    assert history["val_accuracy"][-1] > 0.8
    # A round has two passes of 72 rows in 5 batches on the rank of b.
    assert int(fitted.keras().optimizer.iterations) == 3 * 2 * 5

    classifier.setTracking(None)
    with pytest.raises(DataError, match=r"belong to no silo.*10 rows with a null"):
        find_silos(data, "ward")
    with pytest.raises(DataError, match=r"doesn't divide the rows into silos.*1: a"):
        find_silos(data.where("hospital = 'a'"), "hospital")
    with pytest.raises(ClusterError, match=r"3 silos are more than the cluster's 2 slots.*0, 1, 2"):
        federated.fit(classifier, data.where("ward IS NOT NULL"), siloCol="ward")
    with pytest.raises(DataError, match=r"no training rows: a.*a: 0 training and 6 validation rows"):
        federated.fit(classifier, data.where("hospital = 'b' OR held"), siloCol="hospital")
    assert not list(cache.iterdir())
