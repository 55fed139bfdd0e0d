"""Copies of models whose class has a `compile` of its own: compiled alike, or refused."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from pyspark.sql import types as T

from spark_dl import KerasClassifier, KerasEstimator
from spark_dl.errors import ModelError
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes

ROWS = T.StructType([T.StructField("features", T.ArrayType(T.FloatType())), T.StructField("label", T.IntegerType())])


class PassesOn(keras.Model):
    """Has arguments of Keras's alone, and something of its own."""

    def compile(self, *args: Any, **others: Any) -> None:
        super().compile(*args, **others)
        self.seen = keras.metrics.Mean(name="seen")


class TakesFew(keras.Model):
    """Sets its metrics by itself."""

    def compile(self, optimizer: Any, loss: Any = "mse") -> None:
        super().compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])


class Distiller(keras.Model):
    """Has arguments that Keras doesn't know, as the models of Keras's examples of custom train steps."""

    def compile(self, optimizer: Any, soft_optimizer: Any, temperature: float = 3.0) -> None:
        super().compile(optimizer=optimizer)
        self.soft_optimizer, self.temperature = soft_optimizer, temperature

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, **others: Any) -> Any:
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred / self.temperature, True))


class Hides(keras.Model):
    """Gives Keras less than it has got, as `keras.distillation.Distiller` does."""

    def compile(self, optimizer: Any, loss: Any = "mse") -> None:
        super().compile(loss=loss)
        self.inner = keras.optimizers.get(optimizer)


class Saved(Distiller):
    """Has what copies need."""

    def get_compile_config(self) -> dict[str, Any]:
        names = ("optimizer", "soft_optimizer", "temperature") if self.compiled else ()
        return {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))


def net(kind: Any, *args: Any, **others: Any) -> keras.Model:
    inputs = keras.Input((4,))
    model = kind(inputs, keras.layers.Dense(3)(inputs))
    if args:
        model.compile(*args, **others)
    return model


def spec(estimator: KerasEstimator) -> FitSpec:
    return build_fit_spec(estimator, ROWS, estimator._options())


@pytest.mark.parametrize("kind", [PassesOn, TakesFew])
def test_a_copy_is_compiled_by_its_own_compile(kind: Any) -> None:
    model = net(kind, keras.optimizers.SGD(0.125, momentum=0.5), loss="mae")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.variables[2].assign(keras.ops.ones((4, 3)))  # a momentum
    objects = custom_objects(model)
    with keras.saving.custom_object_scope(objects):
        copy = from_bytes(to_bytes(model))
    assert (type(copy.optimizer), copy.loss) == (keras.optimizers.SGD, "mae")
    assert (float(copy.optimizer.learning_rate), copy.optimizer.momentum) == (0.125, 0.5)
    mine, theirs = ([v.numpy().tolist() for v in one.optimizer.variables] for one in (copy, model))
    assert mine == theirs
    assert hasattr(copy, "seen") == (kind is PassesOn)
    assert copy.get_compile_config()["metrics"] == (None if kind is PassesOn else ["accuracy"])


def test_a_compile_with_other_arguments_is_repeated_by_the_class_or_refused() -> None:
    arguments = ("sgd", keras.optimizers.Adam(0.25), 5.0)
    with pytest.raises(
        ModelError, match=r"has a custom compile.*Distiller.compile with the arguments soft_opt.*, temper"
    ):
        spec(KerasClassifier(model=net(Distiller, *arguments)))
    found = spec(KerasClassifier(model=net(Saved, *arguments)))  # its default loss isn't asked for
    copy = from_bytes(found.content, custom_objects(found.model))
    assert (float(copy.soft_optimizer.learning_rate), copy.temperature) == (0.25, 5.0)
    with pytest.raises(ModelError, match=r"can't be compiled with optimizer, loss.*Saved.compile.*'soft_optimizer'"):
        spec(KerasClassifier(model=net(Saved), loss="sparse_categorical_crossentropy"))


def test_what_an_own_compile_keeps_from_keras_is_named() -> None:
    model = net(Hides, keras.optimizers.Adam(0.5), "sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match=r"has a custom compile.*Hides.compile with inner that Keras's"):
        spec(KerasClassifier(model=model))
    given = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"}
    with pytest.raises(ModelError, match=r"has a custom compile.*Hides.compile with inner"):
        spec(KerasClassifier(model=net(Hides), **given))
    teacher, student = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2))
    keras_own = keras.distillation.Distiller(teacher, student, keras.distillation.LogitsDistillation())
    keras_own.build((None, 4))
    keras_own.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match=r"has a custom compile.*Distiller.compile with"):
        spec(KerasClassifier(model=keras_own))


def test_options_of_the_estimator_reach_an_own_compile() -> None:
    found = spec(KerasEstimator(model=net(TakesFew), optimizer="sgd", loss="sparse_categorical_crossentropy"))
    assert (found.model.loss, type(found.model.optimizer)) == ("sparse_categorical_crossentropy", keras.optimizers.SGD)


class BuildsItself(keras.Model):
    """Builds its graph itself, as keras-hub's tasks do."""

    def __init__(self, units: int, **others: Any) -> None:
        inputs = keras.Input((4,))
        super().__init__(inputs, keras.layers.Dense(units, "softmax")(inputs), **others)
        self.units = units

    def compile(self, optimizer: Any = "adam", loss: Any = "mse", *, metrics: Any = None, **others: Any) -> None:
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **others)

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units, "name": self.name}


def test_a_transform_in_front_keeps_what_a_model_was_compiled_with() -> None:
    model = BuildsItself(3)
    model.compile(keras.optimizers.SGD(0.125), "sparse_categorical_crossentropy", metrics=["accuracy"])
    found = spec(KerasClassifier(model=model, transformFn=keras.layers.Rescaling(2.0))).model
    assert (type(found.optimizer), float(found.optimizer.learning_rate)) == (keras.optimizers.SGD, 0.125)
    assert (found.loss, found.get_compile_config()["metrics"]) == ("sparse_categorical_crossentropy", ["accuracy"])
