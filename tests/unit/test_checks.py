"""Options that are checked together, and the learning rate that follows from them."""

from __future__ import annotations

from typing import Any

import keras
import pytest

from spark_dl.errors import OptionError
from spark_dl.estimators.checks import scaled_rate

VALUES: dict[str, Any] = {
    "learningRateScaling": "linear",
    "warmupEpochs": 0.0,
    "globalBatchSize": None,
    "numWorkers": 4,
}


def compiled(optimizer: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize(("rule", "expected"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer], ids=["plain", "loss scaling"])
def test_the_rate_follows_the_number_of_workers(rule: str, expected: float, wrap: Any) -> None:
    model = compiled(wrap(keras.optimizers.SGD(0.1)))
    assert scaled_rate(model, {**VALUES, "learningRateScaling": rule}) is None
    assert float(model.optimizer.learning_rate) == pytest.approx(expected)


def test_a_warm_up_begins_with_the_rate_of_one_worker() -> None:
    rate = scaled_rate(compiled(keras.optimizers.SGD(0.1)), {**VALUES, "warmupEpochs": 2.0})
    assert rate is not None
    assert [rate.at(step, 10) for step in (0, 9, 19, 25)] == pytest.approx([0.115, 0.25, 0.4, 0.4])


@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer], ids=["plain", "loss scaling"])
def test_a_schedule_is_refused_by_name(wrap: Any) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(OptionError, match="SGD with ExponentialDecay"):
        scaled_rate(compiled(wrap(keras.optimizers.SGD(schedule))), VALUES)
