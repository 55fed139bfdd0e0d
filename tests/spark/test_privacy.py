"""A private fit on a real rank: its epsilon is reported, and models it can't hold for are refused at once."""

from __future__ import annotations

import keras
import models
import pytest
from pyspark.sql import SparkSession

from spark_dl import KerasClassifier, KerasClassifierModel
from spark_dl.errors import ModelError
from spark_dl.privacy import DPSGD


def test_a_private_fit_reports_its_epsilon(spark: SparkSession) -> None:
    data = models.frame(spark, rows=120, partitions=2)
    options = {"optimizer": keras.optimizers.Adam(0.05), "epochs": 3, "batchSize": 30, "tracking": None, "verbose": 0}
    classifier = KerasClassifier(model=models.classifier(), **options)
    private = DPSGD(classifier, l2NormClip=1.0, targetEpsilon=8.0, delta=1e-3)
    fitted = private.fit(data)
    assert isinstance(fitted, KerasClassifierModel)
    epsilons = fitted.summary.history["epsilon"]
    assert 7.9 < epsilons[2] <= 8.0
    assert epsilons == sorted(epsilons)
    assert fitted.keras().evaluate(*models.blobs(120), verbose=0, return_dict=True)["accuracy"] > 0.5
    assert int(fitted.keras().optimizer.iterations) == 12
    norm = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(3, "softmax")])
    with pytest.raises(ModelError, match="can't be trained with differential privacy"):
        DPSGD(KerasClassifier(model=norm, tracking=None), l2NormClip=1.0, noiseMultiplier=1.0).fit(data)
