"""Privacy accounting against the dp-accounting library, and what private training refuses."""

from __future__ import annotations

import math
from typing import Any

import keras
import models
import pytest
from pyspark.sql.types import ArrayType, DoubleType, FloatType, StructType

from spark_dl import KerasClassifier
from spark_dl.errors import ModelError, OptionError
from spark_dl.fit.spec import build_fit_spec
from spark_dl.privacy import DPSGD, epsilon, noise_for
from spark_dl.privacy.checks import check_private


# From dp-accounting 0.6.0: RdpAccountant(orders=range(2, 513)) over SelfComposedDpEvent(PoissonSampledDpEvent(chance,
# GaussianDpEvent(noise)), steps).
@pytest.mark.parametrize(
    ("chance", "noise", "steps", "delta", "expected"),
    [
        (0.01, 1.1, 1000, 1e-5, 1.7252908180449444),
        (256 / 60000, 1.0, 14062, 1e-5, 3.079000483270172),
        (0.1, 2.0, 200, 1e-4, 3.2192288269831115),
        (0.04, 0.7, 500, 1e-5, 15.455643420297797),
        (1.0, 5.0, 50, 1e-6, 7.828374610068334),
        (0.001, 4.0, 100, 1e-5, 0.024106452617075242),
    ],
)
def test_epsilon_is_that_of_dp_accounting(
    chance: float, noise: float, steps: int, delta: float, expected: float
) -> None:
    assert epsilon(noise, chance, steps, delta) == pytest.approx(expected, rel=1e-9)


def test_noise_for_a_target_reaches_it_and_hardly_more() -> None:
    noise = noise_for(3.0, 0.02, 500, 1e-5)
    assert 2.99 < epsilon(noise, 0.02, 500, 1e-5) <= 3.0
    assert epsilon(0.0, 0.1, 1, 1e-5) == math.inf
    with pytest.raises(OptionError, match=r"epsilon of 1e-09 can't be reached.*at least"):
        noise_for(1e-9, 1.0, 500, 1e-5)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"l2NormClip": 0.0}, {}, "l2NormClip can't be used"),
        ({"l2NormClip": float("inf")}, {}, "l2NormClip can't be used"),
        ({"noiseSeed": 2**70}, {}, "noiseSeed can't be used"),
        ({"noiseMultiplier": None}, {}, "one of noiseMultiplier and targetEpsilon"),
        ({"targetEpsilon": 1.0}, {}, "one of noiseMultiplier and targetEpsilon"),
        ({"delta": 2.0}, {}, "delta can't be used"),
        ({}, {"gradientAccumulation": 2}, "can't have gradientAccumulation: each step"),
        ({}, {"restoreBestWeights": True}, "can't have restoreBestWeights"),
        ({}, {"dtypePolicy": "mixed_float16"}, "dtypePolicy can't be used"),
    ],
)
def test_settings_under_which_the_accounting_fails_are_refused(
    settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        DPSGD(
            KerasClassifier(model=models.classifier(), **options),
            **{"l2NormClip": 1.0, "noiseMultiplier": 1.0, **settings},
        )


def test_a_delta_that_promises_nothing_is_refused() -> None:
    estimator = KerasClassifier(model=models.classifier())
    private = DPSGD(estimator, l2NormClip=1.0, noiseMultiplier=1.0, delta=0.01)
    assert private._steps(99, estimator._options()).noise == 1.0
    with pytest.raises(OptionError, match=r"delta=0.01 gives no guarantee.*less than 1 / rows, which is 0.01"):
        private._steps(100, estimator._options())


class Contrast(keras.losses.Loss):
    """A loss that compares rows with the mean of their batch."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean((y_pred - keras.ops.mean(y_pred, axis=0)) ** 2, axis=-1)


@pytest.mark.parametrize(
    ("layer", "loss", "message"),
    [
        (keras.layers.BatchNormalization(name="norm"), "sparse_categorical_crossentropy", "the layer norm"),
        (keras.layers.LayerNormalization(), Contrast(), "depends on which rows share a batch"),
        (keras.layers.LayerNormalization(), "sparse_categorical_crossentropy", ""),
        (keras.layers.BatchNormalization(trainable=False), "sparse_categorical_crossentropy", ""),
    ],
)
def test_models_whose_rows_depend_on_each_other_are_refused(layer: Any, loss: Any, message: str) -> None:
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(3, "softmax")])
    checked(message, model=model, loss=loss)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "expects a scaled loss"),
        (keras.optimizers.SGD(loss_scale_factor=8.0), "expects a scaled loss"),
        (keras.optimizers.SGD(gradient_accumulation_steps=2), "adds up the gradients"),
    ],
)
def test_optimizers_that_expect_other_gradients_are_refused(optimizer: Any, message: str) -> None:
    checked(message, model=models.classifier(), optimizer=optimizer)


def test_weights_that_would_cancel_out_are_refused() -> None:
    for reduction, message in (("mean_with_sample_weight", "a row's cancels out"), ("sum_over_batch_size", "")):
        loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
        checked(message, model=models.classifier(), loss=loss, weightCol="weight")


class Shuffling(keras.layers.Layer):
    """A layer of the user, which may do anything with the rows of a batch."""

    def call(self, x: Any) -> Any:
        return x[::-1]


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (keras.layers.Pipeline([keras.layers.GaussianNoise(0.1), Shuffling()]), "augment with shuffling"),
        (keras.layers.GaussianNoise(0.1), ""),
    ],
)
def test_augmentation_that_may_blend_rows_is_refused(augment: Any, message: str) -> None:
    checked(message, model=models.classifier(), augment=augment)


@pytest.mark.parametrize("mixes", [keras.layers.MixUp, keras.layers.CutMix])
def test_images_arent_blended(mixes: type[keras.layers.Layer]) -> None:
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    images = ArrayType(ArrayType(ArrayType(FloatType())))
    message = f"augment with {mixes(0.2).name[:4]}.* images are blended"
    checked(message, images, model=keras.Sequential(layers), loss="categorical_crossentropy", augment=mixes(0.2))


def checked(message: str, features: ArrayType | None = None, **options: Any) -> None:
    estimator = KerasClassifier(**options)
    columns = StructType().add("features", features or ArrayType(FloatType())).add("label", DoubleType())
    columns = columns.add("weight", DoubleType())
    spec = build_fit_spec(estimator, columns, estimator._options())
    if message:
        with pytest.raises(ModelError, match=message):
            check_private(spec)
    else:
        check_private(spec)
