"""The option learningRate: over any optimizer, searched by grids, refused beside schedules."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import types as T

from spark_dl import KerasModel, KerasRegressor
from spark_dl.errors import OptionError
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.options import declared

ROWS = T.StructType([T.StructField("features", T.ArrayType(T.FloatType())), T.StructField("label", T.FloatType())])


def net(optimizer: Any = None) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    if optimizer is not None:
        model.compile(optimizer, "mse")
    return model


def spec(estimator: KerasRegressor) -> FitSpec:
    return build_fit_spec(estimator, ROWS, estimator._options())


def optimizer(found: FitSpec) -> Any:
    return getattr(found.model.optimizer, "inner_optimizer", found.model.optimizer)


def rate(found: FitSpec) -> float:
    return float(optimizer(found).learning_rate)


@pytest.mark.parametrize(
    "options",
    [
        {"model": net()},
        {"model": net(), "optimizer": "rmsprop"},
        {"model": net(), "optimizer": keras.optimizers.SGD(0.5, momentum=0.9)},
        {"model": net(keras.optimizers.AdamW(0.5))},
        {"model": net(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(1, 1, 1))), "optimizer": "sgd"},
        {"model": net(), "optimizer": "sgd", "dtypePolicy": "mixed_float16"},
        {"modelFn": lambda: net("adam")},
        {"warmStart": KerasModel.fromKeras(net(keras.optimizers.SGD(0.5)))},
    ],
)
def test_it_sets_the_rate_of_any_optimizer_and_nothing_else(options: dict[str, Any]) -> None:
    found, plain = (spec(KerasRegressor(**options, **more)) for more in ({"learningRate": 0.125}, {}))
    assert rate(found) == 0.125
    configs = [
        getattr(one.model.optimizer, "inner_optimizer", one.model.optimizer).get_config() for one in (found, plain)
    ]
    assert configs[1].pop("learning_rate") != configs[0].pop("learning_rate")
    assert {**configs[0], "name": ""} == {**configs[1], "name": ""}


def test_the_users_optimizer_and_model_stay_as_they_are() -> None:
    own, model = keras.optimizers.SGD(0.5), net(keras.optimizers.SGD(0.25))
    spec(KerasRegressor(model=model, optimizer=own, learningRate=0.125))
    spec(KerasRegressor(model=model, learningRate=0.125))
    assert float(own.learning_rate) == 0.5
    assert float(model.optimizer.learning_rate) == 0.25


def test_a_grid_searches_it() -> None:
    estimator = KerasRegressor(model=net("adam"))
    grid = ParamGridBuilder().addGrid(estimator.learningRate, [0.5, 0.25]).build()
    assert [rate(spec(estimator.copy(point))) for point in grid] == [0.5, 0.25]


def test_it_is_scaled_and_warmed_up_like_an_optimizers_own() -> None:
    more: dict[str, Any] = {"learningRateScaling": "linear", "numWorkers": 2, "warmupEpochs": 1}
    found = spec(KerasRegressor(model=net("adam"), learningRate=0.125, **more))
    assert found.learning_rate is not None
    assert (found.learning_rate.first, found.learning_rate.target) == (0.125, 0.25)
    warm = KerasModel.fromKeras(net("adam"))
    assert rate(spec(KerasRegressor(warmStart=warm, learningRate=0.125, **more))) == 0.25
    with pytest.raises(OptionError, match="may have been scaled before"):
        spec(KerasRegressor(warmStart=warm, **more))


class OfTwo(keras.Model):
    """Has two optimizers, as a GAN has."""

    def compile(self, *args: Any, **others: Any) -> None:
        super().compile(*args, **others)
        self.second = keras.optimizers.SGD(0.5)

    def get_compile_config(self) -> dict[str, Any]:
        return {"loss": "mse"}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile("adam", **config)


def test_it_is_refused_beside_schedules_and_several_optimizers() -> None:
    decay = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9)
    for options in (
        {"model": net(), "optimizer": keras.optimizers.Adam(decay)},
        {"model": net(keras.optimizers.Adam(decay))},
    ):
        with pytest.raises(
            OptionError, match=r"learningRate can't be set.*learningRate=0.125 and Adam with Exponential"
        ):
            spec(KerasRegressor(learningRate=0.125, **options))
    inputs = keras.Input((4,))
    model = OfTwo(inputs, keras.layers.Dense(1)(inputs))
    model.compile("adam", "mse")
    with pytest.raises(OptionError, match="several optimizers: Adam, SGD"):
        spec(KerasRegressor(model=model, learningRate=0.125))


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), float("inf"), True, "0.1"])
def test_only_numbers_above_0_are_rates(value: Any) -> None:
    with pytest.raises((OptionError, TypeError), match="learningRate"):
        KerasRegressor(learningRate=value)


def test_a_resumed_fit_needs_the_same_rate_through_the_models_config() -> None:
    assert declared("learningRate").on_resume == declared("optimizer").on_resume == "model"
    contents = [spec(KerasRegressor(model=net(), learningRate=one)).model.optimizer.get_config() for one in (0.5, 0.25)]
    assert contents[0]["learning_rate"] != contents[1]["learning_rate"]
