"""Losses and metrics as users write them: classes, without get_config, with from_logits, and eager models."""

from __future__ import annotations

import tracemalloc
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
from pyspark.sql import types as T

from spark_dl import KerasClassifier, KerasEstimator, KerasRegressor
from spark_dl.data.batches import keras_batch
from spark_dl.data.dataset import LABEL
from spark_dl.errors import ModelError, OptionError
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.score.heads import Classification
from spark_dl.train.model.batch_dependence import broadcasts_labels
from spark_dl.train.model.examples import Example
from spark_dl.train.model.label_trial import takes_one_hot_rows
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.step import build_state

ROWS = T.StructType([T.StructField("features", T.ArrayType(T.FloatType())), T.StructField("label", T.IntegerType())])


class Plain(keras.losses.Loss):
    """Without a get_config, and nothing that it could tell."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


class Powered(keras.losses.Loss):
    """With an argument, and without a get_config."""

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.power(keras.ops.abs(y_true - y_pred), self.power), axis=-1)


class OfLogits(keras.losses.Loss):
    """Says by from_logits what it takes."""

    def __init__(self, from_logits: bool = False) -> None:
        super().__init__()
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=self.from_logits)

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits}


class Count(keras.metrics.Metric):
    """Without a get_config."""

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(keras.ops.cast(keras.ops.shape(y_true)[0], "float32"))

    def result(self) -> Any:
        return self.total.value


def net(units: int = 1, eager: bool = False, **compiled: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
    if compiled or eager:
        model.compile("sgd", run_eagerly=eager, **compiled)
    return model


def spec(estimator: Any) -> FitSpec:
    return build_fit_spec(estimator, ROWS, estimator._options())


@pytest.mark.parametrize(
    "options",
    [
        {"model": net(loss=Plain(), metrics=[Count()])},
        {"model": net(eager=True, loss=Plain()), "learningRate": 0.5},
        {"model": net(), "loss": Powered(3.0)},
        {"model": net(), "loss": Plain, "metrics": [Count]},
        {"model": net(loss=Plain)},
        {"model": net(), "loss": keras.losses.MeanSquaredError, "metrics": [keras.metrics.MeanAbsoluteError]},
    ],
)
def test_losses_and_metrics_without_get_config_and_as_classes_train(options: dict[str, Any]) -> None:
    found = spec(KerasRegressor(**options))
    before = found.model.get_weights()
    history = found.model.fit(np.ones((8, 2), np.float32), np.full((8, 1), 3.0, np.float32), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert found.model.run_eagerly is options["model"].run_eagerly
    assert any((a != b).any() for a, b in zip(before, found.model.get_weights(), strict=True))


@pytest.mark.parametrize("logits", [True, False])
def test_a_custom_loss_may_say_by_from_logits_what_it_takes(logits: bool) -> None:
    layers = [keras.layers.Dense(3)] if logits else [keras.layers.Dense(3), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((2,)), *layers])
    head = spec(KerasClassifier(model=model, loss=OfLogits(logits))).head
    assert isinstance(head, Classification)
    assert head.from_logits is logits


class Doubled(keras.losses.CategoricalCrossentropy):
    """Takes one-hot rows, as its base does."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return 2 * super().call(y_true, y_pred)


class OfIndices(keras.losses.CategoricalCrossentropy):
    """Makes one-hot rows itself."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return super().call(keras.ops.one_hot(keras.ops.cast(y_true, "int32"), 3), y_pred)


def brier(y_true: Any, y_pred: Any) -> Any:
    """Takes one-hot rows; indices would broadcast in batches of three rows."""
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def as_rows(y_true: Any, y_pred: Any) -> Any:
    return keras.losses.categorical_crossentropy(y_true, y_pred)


def as_indices(y_true: Any, y_pred: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def of_nothing(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.reshape(y_true, (-1, 7)) - y_pred


def soft(units: int = 3) -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(units, "softmax")])


@pytest.mark.parametrize(
    ("loss", "one_hot"),
    [
        (Doubled(), True),
        (OfIndices(), False),
        (brier, True),
        (as_rows, True),
        (lambda a, b: as_rows(a, b), True),
        (as_indices, False),
        (keras.losses.CategoricalCrossentropy(axis=0), True),
        (keras.losses.categorical_crossentropy, True),
    ],
)
def test_an_own_loss_gets_classes_in_the_form_that_it_takes(loss: Any, one_hot: bool) -> None:
    found = spec(KerasClassifier(model=soft(), loss=loss))
    (label,) = found.conversion.labels
    assert (label.classes, label.one_hot) == (3, one_hot)
    (tensor,) = [tensor for tensor in found.conversion.tensors if tensor.role == LABEL]
    batch = keras_batch(found.conversion.tensors, [np.ones((4, 2), np.float32), np.array([0, 1, 2, 1], np.int32)])
    assert batch[1].shape == ((4, 3) if one_hot else (4,))
    assert set(found.model.train_on_batch(*batch, return_dict=True)) == {"loss", "accuracy"}
    assert tensor.shape == ()


@pytest.mark.parametrize(("loss", "one_hot"), [(brier, True), (as_indices, False)])
def test_many_classes_take_little_memory_to_try(loss: Any, one_hot: bool) -> None:
    tracemalloc.start()  # it counts NumPy's arrays
    assert takes_one_hot_rows(loss, (20_000,)) is one_hot
    assert broadcasts_labels(loss, Example("", (), "int32", (20_000,))) is one_hot
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_a_loss_that_takes_no_such_label_is_refused_before_any_job() -> None:
    message = (
        r"loss of_nothing of 'dense.*' doesn't take the label 'label'.*shape \(batch\) .int32. and outputs of shape"
    )
    with pytest.raises(ModelError, match=message):
        spec(KerasClassifier(model=soft(), loss=of_nothing))
    with pytest.raises(ModelError, match=r"loss as_rows .* doesn't take the label.*must have the same rank"):
        spec(KerasEstimator(model=soft(), loss=as_rows))
    with pytest.raises(ModelError, match=r"loss CTC .* doesn't take the label"):
        spec(KerasRegressor(model=net(), loss=keras.losses.CTC()))
    words = keras.Input((2,), dtype="int32")
    tagger = keras.Model(words, keras.layers.Dense(3, "softmax")(keras.layers.Embedding(9, 5)(words)))
    estimator = KerasEstimator(model=tagger, loss=as_indices, labelCol="features", labelShapes={"features": [2, 3]})
    with pytest.raises(ModelError, match=r"Set labelShapes=\{'features': \[2\]\} for a class index at each"):
        spec(estimator)


def test_class_indices_become_one_hot_rows_for_kerass_losses_of_rows() -> None:
    found = spec(KerasEstimator(model=soft(), loss="categorical_crossentropy"))
    (label,) = found.conversion.labels
    assert (label.classes, label.one_hot, label.dtype) == (3, True, "int32")


def test_a_class_of_losses_is_carried_as_an_object_of_it() -> None:
    made = spec(KerasRegressor(model=net(), loss=Powered, optimizer=keras.optimizers.SGD))
    loaded = from_bytes(made.content, cloudpickle.loads(made.custom_objects))
    assert loaded.loss.power == 2.0
    assert isinstance(loaded.optimizer, keras.optimizers.SGD)


@pytest.mark.parametrize("optimizer", ["sgdd", 5, lambda: 1])
def test_what_is_no_optimizer_is_refused(optimizer: Any) -> None:
    with pytest.raises(OptionError, match=r"optimizer can't be used.*(Did you mean 'sgd'|Pass an object)"):
        spec(KerasRegressor(model=net(), loss="mse", optimizer=optimizer))


def own_metric(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.reshape(keras.ops.cast(y_true, "float32"), (-1, 7)) - y_pred


@pytest.mark.parametrize("metric", ["nosuch", own_metric, keras.metrics.F1Score(), 5])
def test_metrics_that_cannot_be_computed_are_refused_before_any_job(metric: Any) -> None:
    with pytest.raises(ModelError, match=r"metrics can't be computed.*labels of shape \(batch\) \(int32\)"):
        spec(KerasClassifier(model=soft(), metrics=["accuracy", metric]))
    if isinstance(metric, keras.Metric):
        spec(KerasClassifier(model=soft(), metrics=["accuracy", metric], loss="categorical_crossentropy"))


class Weighted(keras.losses.Loss):
    """Needs weights."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return keras.ops.mean(sample_weight * keras.losses.sparse_categorical_crossentropy(y_true, y_pred))


class SumOfWeights(Count):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(keras.ops.sum(sample_weight))


def test_losses_and_metrics_may_need_weights() -> None:
    model = soft()
    model.compile("sgd", Weighted(), weighted_metrics=[SumOfWeights()])
    rows = T.StructType([*ROWS, T.StructField("weight", T.DoubleType())])
    estimator = KerasClassifier(model=model, weightCol="weight")
    made = build_fit_spec(estimator, rows, estimator._options())
    batch = [np.ones((4, 2), np.float32), np.array([0, 1, 2, 1], np.int32), np.full(4, 0.5, np.float32)]
    logs = made.model.train_on_batch(*keras_batch(made.conversion.tensors, batch), return_dict=True)
    assert logs["sum_of_weights"] == pytest.approx(2.0)
    with pytest.raises(ModelError, match=r"loss Weighted .* doesn't take the label"):
        spec(KerasClassifier(model=model))


def test_metrics_of_columns_of_one_number_say_who_has_them() -> None:
    metrics = ["accuracy", keras.metrics.F1Score(threshold=0.5)]
    with pytest.raises(ModelError, match=r"KerasEstimator has them of a column of arrays of one number"):
        spec(KerasClassifier(model=soft(1), metrics=metrics))
    rows = T.StructType([ROWS["features"], T.StructField("label", T.ArrayType(T.FloatType()))])
    estimator = KerasEstimator(model=soft(1), loss="binary_crossentropy", metrics=metrics)
    (label,) = build_fit_spec(estimator, rows, estimator._options()).conversion.labels
    assert label.shape == (1,)


def eager(y_true: Any, y_pred: Any) -> Any:
    return keras.losses.mean_squared_error(y_true, y_pred) * (1.0 + 0.0 * float(y_pred.numpy().sum()))


def test_an_eager_model_may_have_a_loss_and_metrics_that_need_numbers() -> None:
    made = spec(KerasRegressor(model=net(eager=True), loss=eager, metrics=[eager], numWorkers=2))
    build_state(made.model, (np.zeros((0, 2), np.float32), np.zeros((0, 1), np.float32)))
    assert len(made.model.metrics_variables) == 4
    assert not any(np.any(variable) for variable in made.model.metrics_variables)
    with pytest.raises(ModelError, match=r"loss eager .* doesn't take the label"):
        spec(KerasRegressor(model=net(), loss=eager))


def test_the_error_of_an_output_without_a_loss_names_a_model_without_it() -> None:
    features = keras.Input((2,))
    outputs = [keras.layers.Dense(1, name=name)(features) for name in ("a", "b")]
    estimator = KerasEstimator(
        model=keras.Model(features, outputs), loss={"a": "mse", "b": None}, labelCols={"a": "label"}
    )
    with pytest.raises(ModelError, match=r"Received: \{'a': 'mse', 'b': None\}.* model .* without the output b"):
        spec(estimator)


def test_an_output_column_is_taken_by_a_feature_in_another_case() -> None:
    with pytest.raises(OptionError, match="output column 'Features' is taken"):
        spec(KerasRegressor(model=net(), loss="mse", predictionCol="Features"))
