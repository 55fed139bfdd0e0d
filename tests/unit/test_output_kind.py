"""What a classifier's outputs are taken to be: declared, known from the model and its loss, or measured."""

from __future__ import annotations

import functools
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dl import KerasClassifier
from spark_dl.errors import ModelError, OptionError
from spark_dl.score.heads import Classification
from spark_dl.train.model.compiling import compiled_copy
from spark_dl.train.model.losses import LossFacts, loss_facts, losses_of, without_partial
from spark_dl.train.model.output_kind import LOGITS, PROBABILITY, SCORES, output_kind
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes
from spark_dl.train.model.shape import shape_of

L = keras.layers
SCCE, BCE = keras.losses.SparseCategoricalCrossentropy, keras.losses.BinaryCrossentropy


@keras.saving.register_keras_serializable("test_output_kind")
def cooled(z: Any) -> Any:
    """A softmax of one's own."""
    return keras.ops.softmax(z / 2)


@keras.saving.register_keras_serializable("test_output_kind")
def softmax(z: Any) -> Any:
    """Logarithms of probabilities, by a name that says otherwise."""
    return keras.ops.log_softmax(z)


@keras.saving.register_keras_serializable("test_output_kind")
class Scaled(L.Dense):
    """Has an activation, and doesn't end with it."""

    def call(self, inputs: Any) -> Any:
        return 3 * super().call(inputs)


@keras.saving.register_keras_serializable("test_output_kind")
class Subclassed(keras.Model):
    """Has no symbolic outputs."""

    def __init__(self, activation: Any = None, **others: Any) -> None:
        super().__init__(**others)
        self.dense = L.Dense(3, activation=activation)
        self.activation = activation

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": self.activation}


@keras.saving.register_keras_serializable("test_output_kind")
class Overridden(keras.Model):
    """Is built of a graph, and computes something else."""

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return 5 * super().call(inputs, training, mask)


def sequential(*layers: Any, inputs: Any = None) -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential([inputs if inputs is not None else keras.Input((4,)), *layers])


def of_two(index: int) -> keras.Model:
    """One output of an inner model that has two."""
    given = keras.Input((4,))
    inner = keras.Model(given, [L.Dense(3)(given), L.Dense(3, "softmax")(given)])
    outer = keras.Input((4,))
    return keras.Model(outer, inner(outer)[index])


def subclassed(activation: Any) -> keras.Model:
    model = Subclassed(activation)
    model(np.zeros((1, 4), "float32"))
    return model


def overridden() -> keras.Model:
    given = keras.Input((4,))
    return Overridden(given, L.Dense(3, "softmax")(given))


def ids(dtype: str) -> keras.Model:
    return sequential(
        L.Embedding(2, 4), L.Flatten(), L.Dense(3, activation=cooled), inputs=keras.Input((5,), dtype=dtype)
    )


def mixed(policy: str) -> keras.Model:
    return sequential(L.Dense(300, activation=tf.nn.softmax, dtype=policy), L.Activation("linear", dtype="float32"))


def texts() -> keras.Model:
    return sequential(
        L.Hashing(4),
        L.Embedding(4, 3),
        L.Flatten(),
        L.Dense(3, activation=cooled),
        inputs=keras.Input((1,), dtype="string"),
    )


MODELS: dict[str, tuple[Any, str]] = {
    "softmax": (lambda: sequential(L.Dense(3, "softmax")), PROBABILITY),
    "TensorFlow's softmax": (lambda: sequential(L.Dense(3, activation=tf.nn.softmax)), PROBABILITY),
    "an own softmax": (lambda: sequential(L.Dense(3, activation=cooled)), PROBABILITY),
    "another function of this name": (lambda: sequential(L.Dense(3, activation=softmax)), LOGITS),
    "a layer Softmax": (lambda: sequential(L.Dense(3), L.Softmax()), PROBABILITY),
    "an Activation": (lambda: sequential(L.Dense(3), L.Activation("softmax")), PROBABILITY),
    "an identity after softmax": (lambda: sequential(L.Dense(3, "softmax"), L.Activation("linear")), PROBABILITY),
    "a Dropout after softmax": (lambda: sequential(L.Dense(3, "softmax"), L.Dropout(0.5)), PROBABILITY),
    "a Flatten after softmax": (lambda: sequential(L.Dense(3, "softmax"), L.Flatten()), PROBABILITY),
    "an inner model": (lambda: sequential(sequential(L.Dense(3, "softmax"))), PROBABILITY),
    "an inner model without": (lambda: sequential(L.Dense(4, "softmax"), sequential(L.Dense(3))), LOGITS),
    "the first of an inner model": (lambda: of_two(0), LOGITS),
    "the second of an inner model": (lambda: of_two(1), PROBABILITY),
    "a subclassed model": (lambda: subclassed("softmax"), PROBABILITY),
    "a subclassed model without": (lambda: subclassed(None), LOGITS),
    "a model with a call of its own": (overridden, LOGITS),
    "a layer with a call of its own": (lambda: sequential(Scaled(3, activation="softmax")), LOGITS),
    "no activation": (lambda: sequential(L.Dense(3)), LOGITS),
    "a BatchNormalization": (lambda: sequential(L.Dense(3), L.BatchNormalization()), LOGITS),
    "a sigmoid of each": (lambda: sequential(L.Dense(3, "sigmoid")), SCORES),
    "TensorFlow's sigmoid of each": (lambda: sequential(L.Dense(3, activation=tf.nn.sigmoid)), SCORES),
    "one sigmoid": (lambda: sequential(L.Dense(1, "sigmoid")), PROBABILITY),
    "TensorFlow's sigmoid": (lambda: sequential(L.Dense(1, activation=tf.nn.sigmoid)), PROBABILITY),
    "one hard_sigmoid": (lambda: sequential(L.Dense(1, "hard_sigmoid")), PROBABILITY),
    "one unit of zeros": (
        lambda: sequential(L.Dense(1, kernel_initializer="zeros"), L.Activation("linear")),
        LOGITS,
    ),
    "one tanh": (lambda: sequential(L.Dense(1, "tanh")), LOGITS),
    "one relu": (lambda: sequential(L.Dense(1, "relu")), LOGITS),
    "indices": (lambda: ids("int32"), PROBABILITY),
    "indices as fractions": (lambda: ids("float32"), PROBABILITY),
    "bfloat16": (lambda: mixed("mixed_bfloat16"), PROBABILITY),
    "float16": (lambda: mixed("mixed_float16"), PROBABILITY),
    "texts": (texts, PROBABILITY),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_an_output_is_is_found_before_training(name: str) -> None:
    make, kind = MODELS[name]
    model = make()
    before = [weight.copy() for weight in model.get_weights()]
    found = output_kind(model, shape_of(model), None, None)
    assert found is not None
    assert (found.kind, bool(found.source)) == (kind, True)
    for weight, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, was)
    # The default loss is chosen by the same decision.
    loss = KerasClassifier()._default_loss(shape_of(model), model)
    assert loss.from_logits is (kind == LOGITS)


def head_of(model: keras.Model, loss: Any, **options: Any) -> Classification:
    shape = shape_of(model)
    loss = without_partial(loss)
    head = KerasClassifier(**options)._head(shape, losses_of(loss, shape), model)
    assert isinstance(head, Classification)
    return head


def on_logits(y: Any, z: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True)


class Wrapped(keras.losses.Loss):
    """A loss of one's own around one that takes logits."""

    from_logits = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = SCCE(from_logits=True)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.inner(y_true, y_pred)


def dense(units: int, activation: Any = None) -> keras.Model:
    return sequential(L.Dense(units, activation=activation))


HEADS: dict[str, tuple[Any, Any, str]] = {
    "an own loss on logits": (lambda: dense(3), on_logits, LOGITS),
    "an own loss on probabilities": (lambda: dense(3, tf.nn.softmax), on_logits, PROBABILITY),
    "a loss around one on logits": (lambda: dense(3), Wrapped(), LOGITS),
    "a partial loss": (
        lambda: dense(3),
        functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True),
        LOGITS,
    ),
    "a partial loss of one's own": (lambda: dense(3, cooled), functools.partial(on_logits), PROBABILITY),
    # Keras's losses take the logits before such an activation.
    "from_logits after softmax": (lambda: dense(3, "softmax"), SCCE(from_logits=True), PROBABILITY),
    "from_logits after TensorFlow's": (lambda: dense(3, tf.nn.softmax), SCCE(from_logits=True), PROBABILITY),
    "from_logits after sigmoid": (lambda: dense(1, "sigmoid"), BCE(from_logits=True), PROBABILITY),
    "from_logits": (lambda: dense(1), BCE(from_logits=True), LOGITS),
    "focal": (lambda: dense(1), keras.losses.BinaryFocalCrossentropy(from_logits=True), LOGITS),
    "sigmoids": (lambda: dense(3, "sigmoid"), "sparse_categorical_crossentropy", SCORES),
    "hinge": (lambda: dense(1), "hinge", LOGITS),
    "hinge of tanh": (lambda: dense(1, "tanh"), "squared_hinge", LOGITS),
    "hinge of sigmoid": (lambda: dense(1, "sigmoid"), "hinge", PROBABILITY),
    "squares": (lambda: dense(1, "sigmoid"), "mse", PROBABILITY),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_follows_what_the_output_is(name: str) -> None:
    make, loss, kind = HEADS[name]
    model = make()
    head = head_of(model, loss)
    assert (head.from_logits, head.normalize) == (kind == LOGITS, kind == SCORES)
    rows = np.random.default_rng(5).normal(scale=3, size=(50, 4)).astype("float32")
    outputs = model.predict(rows, verbose=0)
    columns = head.columns([outputs])
    expected = outputs.argmax(axis=1) if head.units > 1 else outputs[:, 0] > (0 if head.from_logits else 0.5)
    np.testing.assert_array_equal(columns["prediction"], expected)
    np.testing.assert_allclose(columns["probability"].sum(axis=1), 1, rtol=1e-5)
    if kind == PROBABILITY:
        np.testing.assert_array_equal(columns["probability"][:, -1], outputs[:, -1])


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (lambda: dense(3), "sparse_categorical_crossentropy"),
        (lambda: dense(3, softmax), SCCE()),
        (lambda: dense(1), "binary_crossentropy"),
        (lambda: dense(1, "tanh"), BCE()),
        (lambda: dense(1), "mse"),
    ],
)
def test_a_loss_of_probabilities_and_an_output_that_is_none_are_refused(make: Any, loss: Any) -> None:
    with pytest.raises(ModelError, match=r"isn't a probability, as the loss .*within \[0, 1\].*outputKind='logits'"):
        head_of(make(), loss)
    assert head_of(make(), loss, outputKind="logits").from_logits


def test_what_is_declared_comes_first() -> None:
    assert head_of(dense(1, "sigmoid"), "hinge", outputKind="logits").from_logits
    assert not head_of(dense(3, cooled), on_logits, outputKind="probability").from_logits
    assert head_of(dense(3, tf.nn.sigmoid), on_logits, outputKind="probability").normalize
    with pytest.raises(OptionError, match=r"isn't a probability, as outputKind='probability' takes it"):
        head_of(dense(3), on_logits, outputKind="probability")
    for kind in ("logits", "probability"):
        loss = KerasClassifier(outputKind=kind)._default_loss(shape_of(dense(3, cooled)), dense(3, cooled))
        assert loss.from_logits is (kind == "logits")


@keras.saving.register_keras_serializable("test_output_kind")
class Doubled(L.Layer):
    """Computes rows of 1,000 numbers and no others."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.cond(keras.ops.all(inputs > 1000), lambda: 2 * inputs, lambda: 0 * inputs / 0)


def test_what_can_not_be_measured_must_be_declared() -> None:
    model = sequential(Doubled())
    shape = shape_of(model)
    with pytest.raises(ModelError, match=r"is unknown whether the model.*outputKind"):
        KerasClassifier()._default_loss(shape, model)
    assert KerasClassifier(outputKind="logits")._default_loss(shape, model).from_logits


def test_the_facts_of_a_partial_loss_are_those_of_the_function() -> None:
    known = functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True)
    assert loss_facts(known) == LossFacts("sparse_categorical_crossentropy", True, "sum_over_batch_size")
    assert not loss_facts(functools.partial(on_logits)).known
    with pytest.raises(ModelError, match=r"bound by name.*1 bound by position"):
        loss_facts(functools.partial(on_logits, None))


def test_a_partial_loss_is_kept_with_the_model() -> None:
    def smoothed(y: Any, z: Any, power: float) -> Any:
        return keras.ops.mean((keras.ops.cast(y, "float32") - z) ** power)

    for given in (
        functools.partial(smoothed, power=2.0),
        functools.partial(keras.losses.binary_crossentropy, from_logits=True),
    ):
        loss = without_partial(given)
        compiled = compiled_copy(dense(1), "sgd", loss, None)
        custom = cloudpickle.loads(cloudpickle.dumps(custom_objects(compiled, loss)))
        loaded = from_bytes(to_bytes(compiled), custom)
        y, z = np.array([[1.0], [0.0]], "float32"), np.array([[0.3], [0.4]], "float32")
        np.testing.assert_allclose(np.mean(keras.losses.get(loaded.loss)(y, z)), np.mean(given(y, z)), rtol=1e-6)
