"""The function of the driver that is called after each epoch, and may end training."""

from __future__ import annotations

from typing import Any

import models
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier
from spark_dl.errors import OptionError, SavedModelError

QUIET: dict[str, Any] = {"tracking": None, "verbose": 0, "numWorkers": 2}


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


def test_it_sees_each_epoch_and_ends_training(data: DataFrame) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []

    def on_epoch(epoch: int, metrics: dict[str, Any]) -> bool:
        seen.append((epoch, metrics))
        return epoch == 1

    classifier = KerasClassifier(model=models.classifier(), epochs=5, onEpoch=on_epoch, validationCol="held", **QUIET)
    history = classifier.fit(data).summary.history
    assert [epoch for epoch, _ in seen] == [0, 1]
    assert history == {name: [metrics[name] for _, metrics in seen] for name in history}
    assert {"loss", "val_loss"} <= history.keys()
    with pytest.raises(SavedModelError, match="estimator with onEpoch can't be saved"):
        classifier.save("unused")


def test_what_it_raises_ends_the_fit(data: DataFrame) -> None:
    def fails(epoch: int, metrics: dict[str, Any]) -> None:
        raise KeyError("accuracy")

    classifier = KerasClassifier(model=models.classifier(), epochs=3, **QUIET)
    with pytest.raises(KeyError) as raised:
        classifier.fit(data, {classifier.onEpoch: fails})
    assert raised.value.__notes__ == ["onEpoch failed after epoch 1."]
    with pytest.raises(OptionError, match=r"onEpoch returned an invalid value after epoch 1(.|\n)*0.5 .float."):
        classifier.fit(data, {classifier.onEpoch: lambda epoch, metrics: 0.5})
