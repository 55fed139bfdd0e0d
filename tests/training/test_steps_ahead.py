"""Steps that are taken several at a time are the steps that are taken one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
from plans import written_plan
from rows import changed, packed_arrays

from spark_dl.collectives import SoloCollectives
from spark_dl.train import steps_ahead
from spark_dl.train.checkpoint import latest
from spark_dl.train.learning_rate import LearningRate
from spark_dl.train.loop import train
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.plan import TrainPlan
from spark_dl.world import solo

ROWS, BATCH = 700, 8
STEPS = 88  # the last one has 4 rows
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(ROWS, 6)).astype("float32")
Y = RANDOM.integers(0, 3, ROWS).astype("int32")
HELD_OUT = np.arange(ROWS) % 100 == 0


def a_model(*hidden: Callable[[], keras.layers.Layer], optimizer: Any = None) -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = [make() for make in hidden]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3, "softmax")])
    model.compile(optimizer or keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def hidden() -> keras.layers.Layer:
    return keras.layers.Dense(8, "relu")


def mixed() -> keras.Model:
    layers = keras.layers
    return a_model(hidden, layers.BatchNormalization, lambda: layers.Dropout(0.3))


def scheduled() -> keras.Model:
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 20, 0.9)
    return a_model(optimizer=keras.optimizers.SGD(rate, momentum=0.9, use_ema=True, ema_overwrite_frequency=7))


def embedded() -> keras.Model:
    layers = keras.layers
    return a_model(lambda: layers.Rescaling(0.0, 1.0), lambda: layers.Embedding(4, 3), layers.Flatten)


def a_plan(directory: Path, model: keras.Model, **others: Any) -> TrainPlan:
    dataset = packed_arrays(directory / "data", X, Y, others.pop("validation", None), rows=100)
    defaults = {"batch_size": BATCH, "epochs": 2, "keep_checkpoints": 100}
    return written_plan(directory, model, dataset, **{**defaults, **others})


def trained(plan: TrainPlan) -> tuple[dict[str, list[Any]], list[np.ndarray]]:
    result = train(plan, SoloCollectives(solo()), lambda report: None).result
    model = from_bytes(plan.workspace.read(result.model_file), cloudpickle.loads(plan.custom_objects))
    found = [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]
    return result.history, [np.asarray(one) for one in found if "seed_generator" not in one.path]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of steps of each call; many at a time, however long they take."""
    found: list[int] = []
    take = steps_ahead.StepsAhead.take

    def counted(self: steps_ahead.StepsAhead, steps: Any, iterator: Any) -> Any:
        def call(batches: Any, count: Any) -> Any:
            found.append(int(count))
            return steps(batches, count)

        return take(self, call, iterator)

    monkeypatch.setattr(steps_ahead.StepsAhead, "take", counted)
    monkeypatch.setattr(steps_ahead, "_CALL_SECONDS", 1000.0)
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "validated": {"validation": HELD_OUT},
    "accumulated": {"gradient_accumulation": 3},
    "compiled": {"jit_compile": True},
}


@pytest.mark.parametrize(
    ("make", "options"),
    [*((mixed, options) for options in OPTIONS.values()), (scheduled, {}), (embedded, {})],
    ids=[*OPTIONS, "scheduled", "embedded"],
)
def test_steps_ahead_have_the_bits_of_single_ones(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[int],
    make: Callable[[], keras.Model],
    options: dict[str, Any],
) -> None:
    history, values = trained(a_plan(tmp_path / "ahead", make(), **options))
    steps = -(-int(ROWS - HELD_OUT.sum() * ("validation" in options)) // BATCH)
    assert sum(calls) == 2 * steps
    assert max(calls) == 32
    assert calls[:8] == [1] * 8
    calls.clear()
    monkeypatch.setattr(steps_ahead, "_CALL_SECONDS", 0.0)
    expected_history, expected = trained(a_plan(tmp_path / "single", make(), **options))
    assert calls == [1] * (2 * steps)
    assert history == expected_history
    assert all(np.array_equal(*pair) for pair in zip(values, expected, strict=True))


def test_they_are_plain_kerass_steps(tmp_path: Path, calls: list[int]) -> None:
    model = a_model(hidden)
    history, values = trained(a_plan(tmp_path, model, shuffle=False))
    expected = model.fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    assert max(calls) == 32
    assert history["loss"] == pytest.approx(expected.history["loss"], rel=1e-5)
    for mine, theirs in zip(values, model.trainable_variables, strict=False):
        np.testing.assert_allclose(mine, np.asarray(theirs), atol=1e-5)


class EachStep(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        assert int(self.model.optimizer.iterations) == batch + 1 + STEPS * self.epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch


class Own(keras.Model):
    def train_step(self, data: Any) -> Any:
        return {**super().train_step(data), "steps": keras.ops.cast(self.optimizer.iterations, "float32")}


def own() -> keras.Model:
    inputs = keras.Input((6,))
    model = Own(inputs, keras.layers.Dense(3, "softmax")(inputs))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


class Derived(keras.Model):
    """Derives a value of a metric."""

    def compute_metrics(self, *args: Any, **others: Any) -> Any:
        found = super().compute_metrics(*args, **others)
        return {**found, "missed": 1.0 - found["accuracy"]}


def derived() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    model = Derived(inputs, keras.layers.Dense(3, "softmax")(inputs))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def eager() -> keras.Model:
    model = a_model()
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


SINGLE: dict[str, tuple[Callable[[], keras.Model], dict[str, Any]]] = {
    "callback": (a_model, {"callbacks": [EachStep()]}),
    "lambda": (a_model, {"callbacks": [keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: None)]}),
    "warm-up": (a_model, {"learning_rate": LearningRate(0.01, 0.02, 1.0)}),
    "profile": (a_model, {"profile": True}),
    "own step": (own, {"objects": {"Own": Own}}),
    "own metrics": (derived, {"objects": {"Derived": Derived}}),
    "eager": (eager, {"epochs": 1}),
    "few steps": (a_model, {"batch_size": 64}),
}


@pytest.mark.parametrize(("make", "others"), SINGLE.values(), ids=SINGLE)
def test_steps_are_single_where_something_happens_between_them(
    tmp_path: Path, calls: list[int], make: Callable[[], keras.Model], others: dict[str, Any]
) -> None:
    with keras.saving.custom_object_scope(others.get("objects", {})):
        trained(a_plan(tmp_path, make(), **others))
    assert set(calls) <= {1}
    assert bool(calls) is (make is not eager)


def test_values_derived_from_metrics_are_logged_as_in_keras(tmp_path: Path) -> None:
    objects = {"Derived": Derived}
    with keras.saving.custom_object_scope(objects):
        history, _ = trained(a_plan(tmp_path, derived(), objects=objects, validation=HELD_OUT, shuffle=False))
    held_out = (X[HELD_OUT], Y[HELD_OUT])
    options = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0}
    expected = derived().fit(X[~HELD_OUT], Y[~HELD_OUT], validation_data=held_out, **options).history
    assert history.keys() == expected.keys()
    assert all(history[name] == pytest.approx(values, rel=1e-5) for name, values in expected.items())


def test_callbacks_at_the_ends_of_epochs_leave_steps_ahead(tmp_path: Path, calls: list[int]) -> None:
    ends = [keras.callbacks.EarlyStopping("loss", patience=5), keras.callbacks.ReduceLROnPlateau("loss")]
    saved = keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), monitor="loss")
    trained(a_plan(tmp_path, a_model(), callbacks=[*ends, saved]))
    assert max(calls) == 32


def test_a_checkpoint_within_an_epoch_has_its_own_step(tmp_path: Path, calls: list[int]) -> None:
    plan = a_plan(tmp_path, a_model(hidden), checkpoint_steps=21)
    _, values = trained(plan)
    assert max(calls) == 21
    position = 0
    for count in calls:
        assert position % STEPS // 21 == (position % STEPS + count - 1) // 21  # no call goes beyond a checkpoint
        position += count
    files = {file.name: file for file in (tmp_path / "checkpoints").glob("epoch-000001-step-*.keras")}
    reached = {name: int(from_bytes(file.read_bytes()).optimizer.iterations) for name, file in files.items()}
    assert reached == {f"epoch-000001-step-{step:08d}.keras": STEPS + step for step in (21, 42, 63, 84)}
    for late in ("2.*", "1-step-00000063.*", "1-step-00000084.*"):
        for file in (tmp_path / "checkpoints").glob(f"epoch-00000{late}"):
            file.unlink()
    found = latest(plan.checkpoints)
    assert found is not None
    start, model = found
    assert (start.epoch, start.step) == (1, 42)
    plan.workspace.write("start.keras", model)
    calls.clear()
    _, resumed = trained(changed(plan, start=start, initial_model="start.keras"))
    assert sum(calls) == STEPS - 42
    assert all(np.array_equal(*pair) for pair in zip(resumed, values, strict=True))
