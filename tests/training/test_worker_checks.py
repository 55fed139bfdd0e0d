"""What several workers would compute otherwise than one process is refused, or said, before any Spark job."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import ops
from own_metrics import Capped, Greatest, InPython, RunningMean, TakesOtherThings, rooted
from pyspark.sql.types import ArrayType, FloatType, IntegerType, StructField, StructType

from spark_dl import KerasEstimator
from spark_dl.errors import ModelError, OptionError
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.score import evaluate

from .test_batch_dependence import AddsMean, AddsSum, AddsVariance, contrastive, drawn, summed
from .test_layer_states import Deviation, Fails, Rows, Scaled, Steps
from .test_step_trial import Noise, OwnStep, by_norm, halved

NUMBERS = ArrayType(FloatType())


def notes(model: keras.Model, label: Any = NUMBERS, features: Any = NUMBERS, **options: Any) -> tuple[str, ...]:
    """What is said of a fit; an error where it is refused."""
    return spec(model, label, features, **options).notes


def spec(model: keras.Model, label: Any = NUMBERS, features: Any = NUMBERS, **options: Any) -> FitSpec:
    columns = StructType(
        [StructField("features", features), StructField("label", label), StructField("w", FloatType())]
    )
    estimator = KerasEstimator(model=model, **options)
    return build_fit_spec(estimator, columns, estimator._options())


def network(*layers: keras.layers.Layer, loss: Any = "mse", metrics: Any = None) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), *layers, keras.layers.Dense(2)])
    model.compile("sgd", loss, metrics=metrics)
    return model


def sequences(*layers: keras.layers.Layer, loss: Any = "mse") -> keras.Model:
    first = keras.layers.Embedding(9, 3, mask_zero=True)
    model = keras.Sequential([keras.Input((5,), dtype="int32"), first, *layers])
    model.compile("sgd", loss)
    return model


def fails(self: Any, gradients: Any) -> Any:
    raise RuntimeError("other rows")


def own_step(change: Any, *layers: keras.layers.Layer) -> keras.Model:
    """A model whose train_step changes the gradients."""
    inputs = keras.Input((4,))
    outputs = inputs
    for layer in (*layers, keras.layers.Dense(2)):
        outputs = layer(outputs)

    model = type("OwnStep", (OwnStep,), {"change": change, "error": of_vectors})(inputs, outputs)
    model.compile("sgd", "mse")
    return model


def of_vectors(self: Any, y: Any, p: Any) -> Any:
    return ops.mean(ops.square(y - p))


IDS = {"features": ArrayType(IntegerType())}


class Unreduced(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.sum(ops.square(y_true - y_pred))


def of_positions(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


class ReducesItself(keras.losses.Loss):
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return ops.mean(ops.square(y_true - y_pred))


def masked_step() -> keras.Model:
    tokens = keras.Input((5,), dtype="int32")
    model = OwnLoss(tokens, keras.layers.Dense(4)(keras.layers.Embedding(9, 3, mask_zero=True)(tokens)))
    model.compile("sgd", "mse")
    return model


class OwnLoss(keras.Model):
    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        return 2 * super().compute_loss(x, y, y_pred, sample_weight)


REFUSED: dict[str, tuple[Callable[[], keras.Model], dict[str, Any], str]] = {
    "a sum": (lambda: network(loss=keras.losses.Huber(reduction="sum")), {}, "huber with reduction 'sum'"),
    "no reduction": (lambda: network(loss=keras.losses.Huber(reduction=None)), {}, "huber with reduction 'None'"),
    "a function that sums": (lambda: network(loss=summed), {}, "The loss summed of 'dense.*' is a sum over rows"),
    "a loss that sums itself": (lambda: network(loss=Unreduced()), {}, "The loss Unreduced of .* is a sum over rows"),
    "add_loss of a sum": (lambda: network(AddsSum()), {}, "add_loss.* is a sum over rows"),
    "add_loss of a sum within a model": (
        lambda: network(keras.Sequential([keras.Input((3,)), AddsSum()])),
        {},
        "add_loss.* is a sum over rows",
    ),
    "a masked loss that reduces itself": (
        lambda: sequences(keras.layers.Dense(4, "softmax"), loss=ReducesItself()),
        IDS,
        "masked output 'dense.*has a custom __call__",
    ),
    "a masked output of an own step": (lambda: masked_step(), IDS, "masked output .*the model's own train_step"),
    "a masked output compiled by XLA": (
        lambda: sequences(keras.layers.Dense(4, "softmax")),
        {**IDS, "jitCompile": True},
        "masked output 'dense.*XLA",
    ),
}


@pytest.mark.parametrize("several", [{"numWorkers": 2}, {"gradientAccumulation": 3}], ids=["workers", "steps"])
@pytest.mark.parametrize("what", REFUSED)
def test_losses_that_are_no_means_over_rows_are_refused(what: str, several: dict[str, int]) -> None:
    make, options, text = REFUSED[what]
    ((name, value),) = several.items()
    with pytest.raises(ModelError, match=rf"{text}(.|\n)*averaged over rows|averaged over rows(.|\n)*{text}") as raised:
        notes(make(), **options, **several)
    assert f"{name}={value}" in str(raised.value)
    assert notes(make(), **options) == ()  # alone it is what Keras does


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: network(keras.layers.Dense(3, activity_regularizer="l2", kernel_regularizer="l1")), {}),
        (lambda: network(AddsMean()), {}),
        (lambda: network(keras.layers.BatchNormalization()), {}),
        (lambda: network(loss=keras.losses.Huber(reduction="mean_with_sample_weight")), {}),
        (lambda: network(loss=keras.losses.CosineSimilarity(), metrics=["mae", keras.metrics.F1Score()]), {}),
        (lambda: network(metrics=[Greatest()]), {"weightCol": "w"}),
        (lambda: sequences(keras.layers.LSTM(3), keras.layers.Dense(2)), IDS),
        (lambda: network(loss=keras.losses.Huber(reduction="mean_with_sample_weight")), {"weightCol": "w"}),
        (lambda: sequences(keras.layers.Dense(4), loss=of_positions), IDS),
        (
            lambda: network(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)),
            {"label": IntegerType()},
        ),
    ],
)
@pytest.mark.parametrize("several", [{"numWorkers": 2}, {"gradientAccumulation": 3}], ids=["workers", "steps"])
def test_what_is_exact_is_taken_without_a_word(make: Any, options: dict[str, Any], several: dict[str, int]) -> None:
    assert notes(make(), **options, **several) == ()


@pytest.mark.parametrize("regularizer", ["activity_regularizer", "kernel_regularizer"])
def test_accumulated_steps_with_a_masked_loss_beside_others_are_refused(regularizer: str) -> None:
    regularized = keras.layers.Dense(4, **{regularizer: "l2"})
    with pytest.raises(ModelError, match=r"masked output(.|\n)*gradientAccumulation=3, and other losses beside it"):
        notes(sequences(regularized), **IDS, gradientAccumulation=3)
    assert notes(sequences(regularized), **IDS, numWorkers=2) == ()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: network(loss=contrastive), "The loss contrastive of 'dense.*' depends on which rows share a batch"),
        (lambda: network(loss=keras.losses.Dice()), "The loss Dice of 'dense.*' depends on which rows share a batch"),
        (lambda: network(loss=drawn), "The loss drawn of 'dense.*' could not be compared on synthetic labels"),
        (lambda: network(AddsVariance()), "A loss that a layer adds .* depends on which rows share a batch"),
        (lambda: network(metrics=[rooted]), "The metric 'rooted' .* depends on which rows share a batch"),
        (lambda: network(Deviation()), "The state .*kept depends on which rows share a batch"),
        (lambda: network(Scaled()), "The state .*kept changes the model's outputs in training"),
        (lambda: network(Fails()), "The states of the model's layers could not be tried"),
        (lambda: own_step(by_norm), "The gradients of OwnStep's own .* depend on which rows share a batch"),
        (lambda: own_step(fails), "The gradients of OwnStep's own .* could not be compared, since a step .* failed"),
        (lambda: own_step(halved, Noise(1)), "The gradients of OwnStep's own .*, since they are random"),
        (lambda: network(metrics=[TakesOtherThings()]), "The metric 'greatest' .* could not be tried"),
    ],
)
def test_what_depends_on_the_batch_is_said(make: Callable[[], keras.Model], text: str) -> None:
    keras.utils.set_random_seed(3)  # of some weights, outputs of a changed state differ by too little
    (note,) = notes(make(), numWorkers=2)
    assert re.search(text, note)
    assert notes(make()) == ()


class Distance(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.abs(y_true - y_pred), axis=-1)


def test_a_loss_that_compares_a_label_with_all_outputs_is_said() -> None:
    one = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    one.compile("sgd", Distance())
    (note,) = notes(one, label=FloatType())
    assert re.search("loss Distance of 'dense.*compares the label of each row with the outputs of all rows", note)
    assert notes(one) == ()  # an array of one number, as the note advises
    one.compile("sgd", lambda y, p: ops.abs(y - p))  # Keras gives functions one shape
    assert notes(one, label=FloatType()) == ()


def test_evaluation_says_which_loss_depends_on_the_batch(recwarn: pytest.WarningsRecorder) -> None:
    for loss in ("mse", keras.losses.Huber(delta=0.1), Distance()):
        fit = spec(network(loss=loss))
        evaluate._warn_of_losses(fit.model, fit.conversion)
    assert not [one for one in recwarn if "depends on which rows" in str(one.message)]
    for loss in (contrastive, keras.losses.MeanSquaredError(reduction="sum")):
        fit = spec(network(loss=loss))
        with pytest.warns(RuntimeWarning, match="The loss .* of 'dense.*' depends on which rows share a batch"):
            evaluate._warn_of_losses(fit.model, fit.conversion)


def test_ranks_get_the_rules_of_states() -> None:
    layers = (keras.layers.BatchNormalization(), Rows(), Steps())
    assert spec(network(*layers), numWorkers=2).state_rules == ((2, "sum"), (3, "mean"))
    assert spec(network(*layers)).state_rules == spec(network(), numWorkers=2).state_rules == ()


def test_statistics_that_would_not_be_synchronized_are_refused() -> None:
    inner = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(synchronized=True, name="inside")])
    with pytest.raises(ModelError, match="statistics of inside would not be synchronized"):
        notes(network(inner), numWorkers=2)
    assert notes(network(inner), gradientAccumulation=2) == ()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (RunningMean, "'running_mean' .RunningMean. .* keeps other state"),
        (InPython, "'in_python' .* outside its"),
        (Capped, "'capped' .* keeps other state"),
    ],
)
def test_metrics_that_can_not_be_joined_are_refused(make: Callable[[], keras.metrics.Metric], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        notes(network(metrics=[make()]), numWorkers=2)
    if make is not InPython:  # which no graph can compute
        assert notes(network(metrics=[make()])) == ()


@pytest.mark.parametrize("monitor", ["f1_score", "val_f1_score"])
def test_a_best_epoch_by_a_metric_of_several_values_is_refused(monitor: str) -> None:
    options = {"restoreBestWeights": True, "monitor": monitor, "monitorMode": "max", "validationFraction": 0.5}
    with pytest.raises(OptionError, match=rf"monitor='{monitor}': it has a value for each class(.|\n)*2 values"):
        notes(network(metrics=[keras.metrics.F1Score()]), **options)
    assert notes(network(metrics=[keras.metrics.F1Score(average="macro")]), **options) == ()
