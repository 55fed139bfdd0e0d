"""A metric that can't decide which epoch is best is refused before any Spark job, and none that can."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from own_metrics import Greatest
from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

from spark_dl import KerasEstimator
from spark_dl.errors import OptionError
from spark_dl.fit.spec import build_fit_spec

COLUMNS = StructType(
    [StructField("features", ArrayType(FloatType())), *(StructField(name, FloatType()) for name in ("label", "a", "b"))]
)


def check(model: keras.Model, monitor: str | None, **options: Any) -> None:
    estimator = KerasEstimator(model=model, restoreBestWeights=True, monitor=monitor, **options)
    build_fit_spec(estimator, COLUMNS, estimator._options())


def network(*metrics: Any, kind: Any = keras.Model) -> keras.Model:
    inputs = keras.Input((2,))
    model = kind(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", metrics=list(metrics))
    return model


def two(metrics: Any) -> keras.Model:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, [keras.layers.Dense(1, name=name)(inputs) for name in "ab"])
    model.compile("sgd", "mse", metrics=metrics)
    return model


LABELS = {"labelCols": ["a", "b"]}
VALIDATED = {"validationFraction": 0.5}


@pytest.mark.parametrize(
    ("metrics", "monitor", "options", "text"),
    [
        (["mae"], "mea", {}, r"monitor='mea'(.|\n)*received: loss, mae(.|\n)*'mae'"),
        (["mae"], "val_mae", {}, r"monitor='val_mae'(.|\n)*received: loss, mae"),
        (["mae"], "val_mea", VALIDATED, r"received: loss, mae, val_loss, val_mae(.|\n)*'val_mae'"),
        ([Greatest()], "greatest", {}, "unknown whether monitor='greatest' is better"),
        ([Greatest()], "val_greatest", VALIDATED, "unknown whether monitor='val_greatest' is better"),
    ],
)
def test_refused(metrics: list[Any], monitor: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as raised:
        check(network(*metrics), monitor, **options)
    assert raised.match(f"(?i){text}")


def test_of_several_outputs_names_begin_with_the_outputs() -> None:
    metrics = {"a": ["mae"], "b": [keras.metrics.BinaryAccuracy(name="share")]}
    for monitor in ("a_mae", "b_share", "a_loss", "loss"):
        check(two(metrics), monitor, **LABELS)
    with pytest.raises(OptionError, match=r"(?i)received: .*a_mae"):
        check(two(metrics), "mae", **LABELS)


class Adds(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["own"] = 1.0


class OwnLogs(keras.Model):
    def compute_metrics(self, *args: Any, **kwargs: Any) -> Any:
        return {**super().compute_metrics(*args, **kwargs), "own": 1.0}


@pytest.mark.parametrize(
    ("model", "monitor", "options"),
    [
        (lambda: network("mae"), None, {}),
        (lambda: network("mae"), None, VALIDATED),
        (lambda: network("mae"), "val_loss", VALIDATED),
        (lambda: network("accuracy"), "accuracy", {}),
        (lambda: network(Greatest()), "greatest", {"monitorMode": "max"}),
        (lambda: network("mae"), "learning_rate", {"callbacks": [keras.callbacks.LearningRateScheduler(abs)]}),
        (lambda: network("mae"), "own", {"callbacks": [Adds()]}),
        (lambda: network("mae", kind=OwnLogs), "own", {"monitorMode": "max"}),
    ],
)
def test_taken(model: Any, monitor: str | None, options: dict[str, Any]) -> None:
    check(model(), monitor, **options)
