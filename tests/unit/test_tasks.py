"""What the task estimators make of a model and its loss: heads, classes, default losses, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import pytest

from spark_dl import KerasClassifier, KerasEstimator, KerasRegressor
from spark_dl.data.column import Column
from spark_dl.data.specs import LabelSpec
from spark_dl.errors import ModelError
from spark_dl.score.heads import Classification, Regression, SeveralOutputs, TensorOutput
from spark_dl.train.model.losses import LossFacts
from spark_dl.train.model.one_hot_metrics import check_one_hot_metrics
from spark_dl.train.model.shape import ModelInput, ModelOutput, ModelShape, shape_of


def a_shape(*output: int, activation: str = "linear") -> ModelShape:
    return ModelShape((ModelInput("in", (4,), "float32"),), (ModelOutput("out", output, activation),))


def classes(estimator: KerasEstimator, shape: ModelShape, loss: LossFacts) -> int | None:
    return estimator._classes(shape.outputs[0], loss)


def facts(name: str, from_logits: bool = False) -> LossFacts:
    return LossFacts(name, from_logits, "sum_over_batch_size")


@pytest.mark.parametrize(
    ("units", "loss", "head"),
    [
        (10, facts("sparse_categorical_crossentropy"), Classification(10, 10, False)),
        (2, facts("sparse_categorical_crossentropy", True), Classification(2, 2, True)),
        (10, facts("categorical_generalized_cross_entropy"), Classification(10, 10, False)),
        (10, facts("categorical_crossentropy"), Classification(10, 10, False)),
        (10, facts("categorical_focal_crossentropy", True), Classification(10, 10, True)),
        (1, facts("binary_crossentropy"), Classification(2, 1, False)),
        (1, facts("binary_crossentropy", True), Classification(2, 1, True)),
        (1, facts("binary_focal_crossentropy"), Classification(2, 1, False)),
    ],
)
def test_a_classifiers_head_follows_its_units_and_loss(units: int, loss: LossFacts, head: Classification) -> None:
    classifier = KerasClassifier()
    assert classifier._head(a_shape(units), [loss]) == head
    assert classes(classifier, a_shape(units), loss) == head.classes


@pytest.mark.parametrize(
    ("units", "loss", "fix"),
    [
        (10, "binary_crossentropy", "loss='sparse_categorical_crossentropy'"),
        (1, "sparse_categorical_crossentropy", "loss='binary_crossentropy'"),
        (1, "categorical_crossentropy", "loss='binary_crossentropy'"),
    ],
)
def test_a_loss_that_takes_no_class_indices_is_refused(units: int, loss: str, fix: str) -> None:
    with pytest.raises(ModelError, match=f"loss {loss} doesn't take class indices for {units} output.*{fix}"):
        KerasClassifier()._head(a_shape(units), [facts(loss)])


@pytest.mark.parametrize("metric", ["sparse_categorical_accuracy", "SparseTopKCategoricalAccuracy", "of a class"])
def test_metrics_of_class_indices_are_refused_beside_a_loss_of_one_hot_labels(metric: str) -> None:
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    own = keras.metrics.SparseCategoricalCrossentropy() if metric == "of a class" else metric
    one_hot = LabelSpec(Column("kind", "number", "int32", 1), (), "int32", 3, one_hot=True)
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy", own])
    with pytest.raises(ModelError, match=r"labels are one-hot rows.*Received: [Ss]parse.*Leave out 'sparse'"):
        check_one_hot_metrics(model, [one_hot])
    check_one_hot_metrics(model, [replace(one_hot, one_hot=False)])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy", keras.metrics.F1Score()])
    check_one_hot_metrics(model, [one_hot])


def test_metrics_of_class_indices_are_of_another_output() -> None:
    import keras

    features = keras.Input((2,))
    outputs = {name: keras.layers.Dense(3, "softmax", name=name)(features) for name in ("a", "b")}
    model = keras.Model(features, outputs)
    losses = {"a": "categorical_crossentropy", "b": "sparse_categorical_crossentropy"}
    model.compile("sgd", losses, metrics={"b": ["sparse_categorical_accuracy"]})
    check_one_hot_metrics(model, [LabelSpec(Column("x", "number", "int32", 1), (), "int32", 3, "a", one_hot=True)])
    with pytest.raises(ModelError, match="labels are one-hot rows"):
        check_one_hot_metrics(model, [LabelSpec(Column("x", "number", "int32", 1), (), "int32", 3, "b", one_hot=True)])


@pytest.mark.parametrize("loss", ["mean_squared_error", "kl_divergence", "poisson", "hinge", "cosine_similarity"])
def test_a_loss_of_vectors_is_refused_for_several_units(loss: str) -> None:
    with pytest.raises(ModelError, match=r"doesn't take class indices.*For labels that are probabilities"):
        KerasClassifier()._head(a_shape(10), [facts(loss)])


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_a_margin_is_no_probability(loss: str) -> None:
    import numpy as np

    columns = KerasClassifier()._head(a_shape(1), [facts(loss)]).columns([np.array([[0.25], [-0.25]])])
    assert columns["prediction"].tolist() == [1, 0]
    assert (columns["probability"] >= 0).all()


@pytest.mark.parametrize("shape", [(2, 3), ()])
def test_a_classifiers_output_has_one_axis(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="isn't one of a classifier"):
        KerasClassifier()._check_outputs(a_shape(*shape))


@pytest.mark.parametrize(
    ("units", "activation", "loss", "from_logits"),
    [
        (3, "softmax", keras.losses.SparseCategoricalCrossentropy, False),
        (3, "linear", keras.losses.SparseCategoricalCrossentropy, True),
        (1, "sigmoid", keras.losses.BinaryCrossentropy, False),
        (1, "linear", keras.losses.BinaryCrossentropy, True),
    ],
)
def test_a_classifier_without_a_loss_takes_the_one_for_its_last_layer(
    units: int, activation: str, loss: Any, from_logits: bool
) -> None:
    default = KerasClassifier()._default_loss(a_shape(units, activation=activation), keras.Sequential())
    assert type(default) is loss
    assert default.from_logits is from_logits


def test_a_classifier_whose_output_can_not_be_read_wants_a_loss() -> None:
    with pytest.raises(ModelError, match="probabilities or logits"):
        KerasClassifier()._default_loss(a_shape(3, activation=""), keras.Sequential())


def test_a_compiled_loss_is_kept() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mae")
    assert KerasClassifier()._default_loss(a_shape(1), model) is None
    assert KerasRegressor()._default_loss(a_shape(1), model) is None
    assert KerasRegressor()._default_loss(a_shape(1), keras.Sequential()) == "mean_squared_error"


@pytest.mark.parametrize("shape", [(1,), ()])
def test_a_regressor_has_one_unit(shape: tuple[int, ...]) -> None:
    KerasRegressor()._check_outputs(a_shape(*shape))
    assert KerasRegressor()._head(a_shape(*shape), [facts("mse")]) == Regression()
    assert classes(KerasRegressor(), a_shape(*shape), facts("mse")) is None


@pytest.mark.parametrize("shape", [(2,), (1, 1)])
def test_a_regressor_with_more_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"isn't one of a regressor.*Dense\(1\)"):
        KerasRegressor()._check_outputs(a_shape(*shape))


def test_the_general_estimator_takes_any_output() -> None:
    estimator = KerasEstimator()
    assert estimator._head(a_shape(1), [facts("mse")]) == Regression()
    assert estimator._head(a_shape(2, 3), [facts("mse")]) == TensorOutput(6, shape=(2, 3))
    assert classes(estimator, a_shape(5), facts("sparse_categorical_crossentropy")) == 5
    assert classes(estimator, a_shape(2, 5), facts("sparse_categorical_crossentropy")) == 5  # at each position
    assert classes(estimator, a_shape(5), facts("mse")) is None


def test_the_general_estimator_takes_several_outputs_and_the_task_estimators_one() -> None:
    outputs = (ModelOutput("a", (1,), ""), ModelOutput("b", (2, 3), ""))
    shape = ModelShape((ModelInput("in", (4,), "float32"),), outputs)
    assert KerasEstimator()._head(shape, [facts("mse")] * 2) == SeveralOutputs.of({"a": (1,), "b": (2, 3)})
    for estimator in (KerasClassifier(), KerasRegressor()):
        with pytest.raises(ModelError, match=r"one output.*\(batch, 1\), \(batch, 2, 3\)"):
            estimator._check_outputs(shape)


def default_metrics(model: keras.Model, loss: Any = None, estimator: KerasEstimator | None = None) -> Any:
    return (estimator or KerasClassifier())._default_metrics(shape_of(model), loss, model)


def dense(units: int, activation: str | None) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation)])


@pytest.mark.parametrize(
    ("units", "activation", "loss", "labels", "outputs"),
    [
        (3, "softmax", "sparse_categorical_crossentropy", [0, 2], [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]),
        (1, "sigmoid", "binary_crossentropy", [0, 1], [[0.4], [0.6]]),
        (1, None, keras.losses.BinaryCrossentropy(from_logits=True), [0, 1], [[-0.1], [0.1]]),
        (1, None, "hinge", [0, 1], [[-0.1], [0.1]]),
    ],
)
def test_a_classifier_without_metrics_has_accuracy(
    units: int, activation: str | None, loss: Any, labels: Any, outputs: Any
) -> None:
    (metric,) = default_metrics(dense(units, activation), loss)
    assert metric.name == "accuracy"
    assert float(metric(keras.ops.reshape(keras.ops.array(labels), (-1, 1)), keras.ops.array(outputs))) == 1


def test_a_classifiers_own_metrics_are_kept() -> None:
    model = dense(1, "sigmoid")
    model.compile("sgd", "binary_crossentropy", metrics=["auc"])
    assert default_metrics(model) is None
    model.compile("sgd", "binary_crossentropy", weighted_metrics=["auc"])
    assert default_metrics(model) is None
    model.compile("sgd", "binary_crossentropy")
    assert [metric.name for metric in default_metrics(model)] == ["accuracy"]


def test_a_model_with_a_step_of_its_own_and_other_tasks_get_no_metric() -> None:
    class Own(keras.Sequential):
        def train_step(self, data: Any) -> Any:
            return super().train_step(data)

    assert default_metrics(Own([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")]), "binary_crossentropy") is None
    assert default_metrics(dense(1, None), "mse", KerasRegressor()) is None
