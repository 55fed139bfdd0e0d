"""Losses and weights that aren't finite: said when it happens, and no such epoch is the best one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest

from spark_dl.collectives import SoloCollectives
from spark_dl.train.callbacks.finite import first_not_finite
from spark_dl.train.loop import train
from spark_dl.train.reports import EpochReport, TrainReport, WarningReport
from spark_dl.world import solo

from .test_train import HELD_OUT, a_model, a_plan, run


class Spoil(keras.callbacks.Callback):
    """Puts a value into a weight at the end of some epochs, and another into the logs."""

    def __init__(
        self,
        value: float,
        epochs: tuple[int, ...],
        score: tuple[float, ...] = (3.0, 2.0, 1.0),
        loss: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.loss = loss
        self.value = value
        self.epochs = epochs
        self.score = score

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["score"], logs["loss"] = self.score[epoch], self.loss[epoch]
        if epoch in self.epochs:
            kernel = self.model.layers[-1].kernel
            kernel.assign(np.full(kernel.shape, self.value))


def diverging() -> keras.Model:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, name="out")])
    model.compile(keras.optimizers.SGD(1e18), "mse")
    return model


def test_a_loss_that_is_nan_and_weights_that_are_not_finite_are_said(tmp_path: Path) -> None:
    reports: list[TrainReport] = []
    result, model = run(a_plan(tmp_path, diverging(), HELD_OUT, monitor="loss", restore_best_weights=True), reports)
    assert not any(map(math.isfinite, result.history["loss"]))
    assert result.non_finite == first_not_finite(model)
    assert result.non_finite.endswith("out/kernel")
    assert result.best_epoch == -1
    texts = [report.text for report in reports if isinstance(report, WarningReport)]
    assert len(texts) == 2
    assert texts[0].startswith("At the end of epoch 1: loss is ")
    assert "val_loss is " in texts[0]
    assert f"The variable {first_not_finite(model)} is the first that isn't finite." in texts[0]
    assert texts[1].startswith("No epoch has finite weights, finite losses and a finite loss")
    # It is said when it happens, and not at the end.
    kinds = [type(report) for report in reports]
    assert kinds.index(WarningReport) < kinds.index(EpochReport)


@pytest.mark.parametrize(
    ("callback", "best"),
    [
        (Spoil(math.nan, ()), 2),
        (Spoil(math.nan, (2,)), 1),
        (Spoil(math.inf, (1, 2)), 0),
        (Spoil(0.0, (), (math.nan, 2.0, math.nan)), 1),
        (Spoil(0.0, (), (3.0, -math.inf, 2.0)), 2),
        (Spoil(0.0, (), (math.inf, math.inf, 2.0)), 2),
        (Spoil(0.0, (), loss=(1.0, 1.0, math.nan)), 1),
        (Spoil(0.0, (), loss=(1.0, math.inf, math.nan)), 0),
    ],
)
def test_the_best_epoch_has_finite_weights_and_a_finite_value(tmp_path: Path, callback: Spoil, best: int) -> None:
    plan = a_plan(tmp_path, a_model(), callbacks=[callback], monitor="score", restore_best_weights=True)
    result, model = run(plan)
    assert result.best_epoch == best
    assert result.non_finite == "" == first_not_finite(model)


def unknown(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(y_pred) * math.nan


def test_a_metric_that_is_nan_spoils_no_epoch(tmp_path: Path) -> None:
    model = a_model()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[unknown])
    objects = cloudpickle.dumps({"unknown": unknown})
    plan = a_plan(tmp_path, model, monitor="loss", restore_best_weights=True, custom_objects=objects)
    reports: list[TrainReport] = []
    result = train(plan, SoloCollectives(solo()), reports.append).result
    assert np.isnan(result.history["unknown"]).all()
    assert (result.best_epoch, result.non_finite) == (2, "")
    assert [report for report in reports if isinstance(report, WarningReport)] == []


def test_without_the_best_weights_the_last_are_told_of(tmp_path: Path) -> None:
    result, model = run(a_plan(tmp_path, a_model(), callbacks=[Spoil(math.nan, (2,))]))
    assert np.isfinite(result.history["loss"]).all()
    assert result.non_finite == first_not_finite(model) == model.layers[-1].kernel.path
    # A moving mean isn't trained, and spoils predictions all the same.
    model = keras.Sequential([keras.Input((5,)), keras.layers.BatchNormalization(name="norm")])
    assert first_not_finite(model) == ""
    model.layers[0].moving_mean.assign([1, 2, math.inf, 4, 5])
    assert first_not_finite(model) == model.layers[0].moving_mean.path
