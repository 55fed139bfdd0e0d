"""A model that a process keeps is trained to the bits of a new one, and isn't kept where it couldn't be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from plans import written_plan
from rows import packed_arrays

from spark_dl.collectives import SoloCollectives
from spark_dl.options import TrainingOptions
from spark_dl.train.loop import train
from spark_dl.train.model.serialization import from_bytes, to_bytes
from spark_dl.train.plan import TrainPlan, TrainResult
from spark_dl.world import solo

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(90, 6)).astype("float32")
Y = RANDOM.integers(0, 3, 90).astype("int32")
FIRST, SECOND = slice(0, 50), slice(50, 90)
HELD_OUT = np.arange(50) % 4 == 0


def a_model(*layers: keras.layers.Layer, optimizer: Any = None, inputs: Any = None) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([inputs or keras.Input((6,)), *layers, keras.layers.Dense(3, "softmax", dtype="float32")])
    model.compile(optimizer or keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def dropout() -> keras.Model:
    layers = keras.layers
    return a_model(layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dropout(0.5), layers.GaussianNoise(0.1))


def recurrent() -> keras.Model:
    return a_model(keras.layers.Reshape((3, 2)), keras.layers.LSTM(4, dropout=0.2))


def averaged() -> keras.Model:
    return a_model(optimizer=keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=None))


def scheduled() -> keras.Model:
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)
    return a_model(optimizer=keras.optimizers.Nadam(rate, clipnorm=0.5))


def scaled() -> keras.Model:
    half = keras.layers.Dense(8, "relu", dtype="mixed_float16")
    return a_model(half, optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)))


def seeded() -> keras.Model:
    return a_model(keras.layers.Dense(8), keras.layers.Dropout(0.5, seed=7))


def frozen() -> keras.Model:
    layers = [keras.layers.Dense(8, "relu", trainable=False), keras.layers.LayerNormalization()]
    return a_model(*layers)


MODELS = (dropout, recurrent, averaged, scheduled, scaled, seeded, frozen)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"gradient_accumulation": 2},
    "compiled": {"jit_compile": True},
    "shuffled": {"shuffle": True},
}


def a_plan(directory: Path, content: bytes, rows: slice, options: TrainingOptions, **others: Any) -> TrainPlan:
    held = HELD_OUT[: len(X[rows])] if others.pop("validated", False) else None
    dataset = packed_arrays(directory / "data", X[rows], Y[rows], held, rows=10)
    return replace(written_plan(directory, content, dataset), options=options, **others)


def run(plan: TrainPlan, kept: dict[str, Any]) -> tuple[TrainResult, bytes]:
    result = train(plan, SoloCollectives(solo()), lambda report: None, kept=kept).result
    return result, plan.workspace.read(result.model_file)


def values(content: bytes) -> list[np.ndarray]:
    """The values of all variables; seeds are drawn by whoever loads the model."""
    model = from_bytes(content)
    found = [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]
    return [np.asarray(variable) for variable in found if "seed_generator" not in variable.path]


def trained(directory: Path, model: keras.Model) -> bytes:
    """A model after a training: as its optimizer is built, its file has all that later ones have."""
    options = TrainingOptions(batch_size=10, epochs=1, shuffle=False)
    return run(a_plan(directory / "before", to_bytes(model), FIRST, options), {})[1]


def kept_model(kept: dict[str, Any]) -> Any:
    (entry,) = kept.values()
    return entry[1].model


def same_as_new(tmp_path: Path, content: bytes, options: TrainingOptions, **others: Any) -> Any:
    """Train twice, on other rows and with the result of the first, in a process that keeps, and in new ones."""
    kept: dict[str, Any] = {}
    _, between = run(a_plan(tmp_path / "first", content, FIRST, options, **others), kept)
    model = kept_model(kept)
    plan = a_plan(tmp_path / "second", between, SECOND, options, **others)
    (result, after), (expected, expected_after) = run(plan, kept), run(plan, {})
    assert result.history == expected.history
    assert all(np.array_equal(*pair) for pair in zip(values(after), values(expected_after), strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(values(after), values(between), strict=True))
    assert kept_model(kept) is model
    return model


@pytest.mark.parametrize("model", MODELS)
def test_a_kept_model_is_trained_to_the_bits_of_a_new_one(tmp_path: Path, model: Callable[[], keras.Model]) -> None:
    options = TrainingOptions(batch_size=8, epochs=2, shuffle=False)
    same_as_new(tmp_path, trained(tmp_path, model()), options, validated=model is dropout)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_with_other_options_too(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = {"batch_size": 8, "epochs": 2, "shuffle": False, **options}
    if "gradient_accumulation" not in options:
        same_as_new(tmp_path, trained(tmp_path, dropout()), TrainingOptions(**rows))
        return
    content = trained(tmp_path, dropout())
    kept: dict[str, Any] = {}  # the last step of an epoch is known by its number, which differs between these rows
    run(a_plan(tmp_path / "first", content, FIRST, TrainingOptions(**rows)), kept)
    model = kept_model(kept)
    run(a_plan(tmp_path / "second", content, SECOND, TrainingOptions(**rows)), kept)
    assert kept_model(kept) is not model


class Counted(keras.Model):
    traced: ClassVar[list[int]] = []

    def train_step(self, data: Any) -> Any:
        self.traced.append(1)
        return super().train_step(data)


def test_a_step_is_traced_once(tmp_path: Path) -> None:
    inputs = keras.Input((6,))
    model = Counted(inputs, keras.layers.Dense(3, "softmax")(inputs))
    model.compile("adam", "sparse_categorical_crossentropy")
    objects = {"Counted": Counted}
    with keras.saving.custom_object_scope(objects):
        model.optimizer.build(model.trainable_variables)
        content = to_bytes(from_bytes(to_bytes(from_bytes(to_bytes(model)))))
    kept: dict[str, Any] = {}
    pickled = cloudpickle.dumps(objects)
    Counted.traced.clear()
    for number in range(3):
        options = TrainingOptions(batch_size=10, epochs=2)
        _, content = run(a_plan(tmp_path / str(number), content, FIRST, options, custom_objects=pickled), kept)
    assert len(Counted.traced) == 1


class Remembers(keras.layers.Layer):
    """A layer with a state that Keras doesn't know."""

    def build(self, shape: Any) -> None:
        self.calls = tf.Variable(0.0, trainable=False)

    def call(self, inputs: Any) -> Any:
        return inputs + 0.1 * self.calls.assign_add(1.0)


class Untracked(Remembers):
    def build(self, shape: Any) -> None:
        self.held = {"calls": [tf.random.Generator.from_seed(1)]}

    def call(self, inputs: Any) -> Any:
        return inputs + self.held["calls"][0].normal(tf.shape(inputs))


class Noise(keras.layers.Layer):
    """A layer that draws from the random generator that Keras has for the whole process."""

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(tf.shape(inputs))


class Draws(keras.layers.Layer):
    """A layer that draws by an operation with a state of its own."""

    def call(self, inputs: Any) -> Any:
        return inputs + tf.random.normal(tf.shape(inputs))


class CallsPython(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda x: x, [inputs], tf.float32), inputs.shape)


@pytest.mark.parametrize("layer", [Remembers, Untracked, Noise, Draws, CallsPython, None])
def test_a_model_with_a_state_of_its_own_is_not_kept(tmp_path: Path, layer: type[keras.layers.Layer] | None) -> None:
    objects = {layer.__name__: layer} if layer else {}
    model = a_model(*([layer()] if layer else []))
    if layer is None:
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    options = TrainingOptions(batch_size=10, epochs=1)
    kept: dict[str, Any] = {}
    with keras.saving.custom_object_scope(objects):
        content = to_bytes(model)
    run(a_plan(tmp_path, content, FIRST, options, custom_objects=cloudpickle.dumps(objects)), kept)
    assert not kept


class Grows(keras.losses.Loss):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls = keras.Variable(1.0, trainable=False)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        self.calls.assign_add(1.0)
        return self.calls * keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


class Least(keras.metrics.Metric):
    """A metric that begins with 1, and after a reset with 0."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.least = self.add_weight(shape=(), initializer="ones")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.least.assign(keras.ops.minimum(self.least, keras.ops.min(y_pred)))

    def result(self) -> Any:
        return self.least + 0.0


@pytest.mark.parametrize("part", [Grows, Least])
def test_a_loss_or_a_metric_with_a_state_of_its_own_has_a_new_model(tmp_path: Path, part: type[Any]) -> None:
    model = a_model()
    given: dict[str, Any] = {"loss": Grows()} if part is Grows else {"metrics": [Least()]}
    model.compile("sgd", **{"loss": "sparse_categorical_crossentropy", **given})
    objects = {part.__name__: part}
    with keras.saving.custom_object_scope(objects):
        content = to_bytes(model)
    kept: dict[str, Any] = {}
    run(
        a_plan(tmp_path, content, FIRST, TrainingOptions(batch_size=10), custom_objects=cloudpickle.dumps(objects)),
        kept,
    )
    assert not kept


def changed_layer(content: bytes) -> bytes:
    model = from_bytes(content)
    model.layers[0].activation = keras.activations.tanh
    return to_bytes(model)


OTHERS: dict[str, dict[str, Any]] = {
    "batch size": {"options": TrainingOptions(batch_size=5, epochs=2, shuffle=False)},
    "classes": {"class_weights": (1.0, 2.0, 3.0)},
    "objects": {"custom_objects": cloudpickle.dumps({"other": len})},
    "layer": {"change": changed_layer},
    "callbacks": {"callbacks": cloudpickle.dumps([keras.callbacks.TerminateOnNaN()])},
    "augmentation": {"augment": cloudpickle.dumps(keras.layers.GaussianNoise(0.5))},
}


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
def test_another_training_has_a_new_model(tmp_path: Path, others: dict[str, Any]) -> None:
    options = TrainingOptions(batch_size=8, epochs=2, shuffle=False)
    kept: dict[str, Any] = {}
    _, between = run(a_plan(tmp_path / "first", trained(tmp_path, frozen()), FIRST, options), kept)
    model = kept_model(kept)
    given = {"options": options, **others}
    between = given.pop("change", lambda content: content)(between)
    plan = a_plan(tmp_path / "second", between, SECOND, **given)
    (_, after), (_, expected) = run(plan, kept), run(plan, {})
    assert all(np.array_equal(*pair) for pair in zip(values(after), values(expected), strict=True))
    assert not kept or kept_model(kept) is not model


def test_a_training_that_fails_leaves_nothing(tmp_path: Path) -> None:
    options = TrainingOptions(batch_size=8, epochs=2, shuffle=False)
    kept: dict[str, Any] = {}
    run(a_plan(tmp_path / "first", trained(tmp_path, frozen()), FIRST, options), kept)
    broken = a_plan(tmp_path / "second", to_bytes(frozen()), SECOND, options)
    for file in (tmp_path / "second" / "data").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(Exception, match=r"parquet|block|read"):
        run(broken, kept)
    assert not kept
