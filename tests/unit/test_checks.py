"""Options that are checked together, and the learning rate that follows from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import pytest

from spark_dl.errors import ModelError, OptionError
from spark_dl.fit.checks import check_compiles, scaled_rate
from spark_dl.options import EstimatorOptions

OPTIONS = EstimatorOptions(learning_rate_scaling="linear", num_workers=4)


def compiled(optimizer: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize(("rule", "expected"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer], ids=["plain", "loss scaling"])
def test_the_rate_follows_the_number_of_workers(rule: str, expected: float, wrap: Any) -> None:
    model = compiled(wrap(keras.optimizers.SGD(0.1)))
    assert scaled_rate(model, replace(OPTIONS, learning_rate_scaling=rule)) is None
    assert float(model.optimizer.learning_rate) == pytest.approx(expected)


def test_a_warm_up_begins_with_the_rate_of_one_worker() -> None:
    rate = scaled_rate(compiled(keras.optimizers.SGD(0.1)), replace(OPTIONS, warmup_epochs=2.0))
    assert rate is not None
    assert [rate.at(step, 10) for step in (0, 9, 19, 25)] == pytest.approx([0.115, 0.25, 0.4, 0.4])


@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer], ids=["plain", "loss scaling"])
def test_a_schedule_is_refused_by_name(wrap: Any) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(OptionError, match="SGD with ExponentialDecay"):
        scaled_rate(compiled(wrap(keras.optimizers.SGD(schedule))), OPTIONS)


def test_rates_of_several_optimizers_are_refused() -> None:
    model = compiled(keras.optimizers.SGD(0.1))
    model.other = keras.optimizers.Adam(0.1)
    with pytest.raises(OptionError, match=r"several optimizers can't be scaled(.|\n)*SGD, Adam"):
        scaled_rate(model, OPTIONS)


class OwnStep(keras.Model):
    def call(self, inputs: Any) -> Any:
        return inputs

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: OwnStep(), "a custom train_step"),
        (lambda: keras.Sequential([keras.Input((1,)), keras.layers.Hashing(3)]), r"hashing.* \(Hashing\)"),
        (lambda: compiled_eagerly(), "run_eagerly=True"),
    ],
)
def test_what_xla_can_not_compile_is_refused(model: Any, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        check_compiles(model())
    check_compiles(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))


def compiled_eagerly() -> keras.Model:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model
