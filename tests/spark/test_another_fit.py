"""An unfinished fit in checkpointDir is gone on with by the same fit, and by no other one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasRegressor
from spark_dl.errors import RankError

# The ranks can't import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Fails(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 3:
            raise ZeroDivisionError


def made(sign: float) -> Any:
    def own(truth: Any, guess: Any) -> Any:
        return keras.ops.mean((truth - sign * guess) ** 2, axis=-1)

    return own


def regressor(directory: Path, **options: Any) -> KerasRegressor:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    given = {"loss": made(1.0), "optimizer": "sgd", "epochs": 5, "validationCol": "fold0", "tracking": None}
    return KerasRegressor(model=model, checkpointDir=str(directory), verbose=2, **{**given, **options})


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    folds = [f"id % 4 = {fold} AS fold{fold}" for fold in range(2)]
    return spark.range(64).selectExpr("array(id / 64) features", "id / 64 label", *folds).coalesce(1)


def test_another_fit_leaves_an_unfinished_one_alone_and_the_same_one_goes_on(
    data: DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RankError):
        regressor(tmp_path, callbacks=[Fails()]).fit(data)
    (left,) = tmp_path.iterdir()
    before = {path.name: path.read_bytes() for path in left.iterdir()}
    others: list[tuple[dict[str, Any], str]] = [
        ({"validationCol": "fold1", "epochs": 4}, "had another training rows and validation rows"),
        ({"loss": made(-1.0), "epochs": 4}, "had another code of the model, its losses or metrics"),
        ({"epochs": 2}, "is at the end of epoch 3, beyond epochs=2"),
    ]
    for options, reason in others:
        capsys.readouterr()
        fitted = regressor(tmp_path, **options).fit(data)
        said = capsys.readouterr().err
        assert f"The unfinished fit in file://{left} {reason}: it is left unchanged." in said, said
        assert len(fitted.summary.history["loss"]) == options["epochs"]
        assert {path.name: path.read_bytes() for path in left.iterdir()} == before
    # Fewer epochs may be asked for while they aren't over; and it is the rows that count, not the name of a column.
    renamed = data.withColumnRenamed("fold0", "held")
    fitted = regressor(tmp_path, validationCol="held", epochs=4).fit(renamed)
    assert f"Resuming the unfinished fit in file://{left}." in capsys.readouterr().err
    assert len(fitted.summary.history["loss"]) == 4
    assert json.loads((left / "fit.json").read_text())["finished"]
