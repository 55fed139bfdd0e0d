"""Ranks stay one training: logs of own steps, batch logs that callbacks read, and ranks that have drifted apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from rows import changed, on_ranks

from spark_dl.data.shards import shards
from spark_dl.errors import ModelError, OptionError
from spark_dl.train.loop import train
from spark_dl.train.metrics.step_logs import TEST_HOOKS, TRAIN_HOOKS, read_logs
from spark_dl.train.plan import TrainPlan, TrainResult

from .test_train import HELD_OUT, ROWS, WIDTH, X, Y, a_plan

TARGETS = Y.astype("float32")


class Own(keras.Model):
    """Steps of its own, which return plain tensors.

    Args:
        logs: What the steps return: "plain" tensors under other names, "loss" alone, or "mixed" with a metric.
    """

    def __init__(self, logs: str = "plain", **others: Any) -> None:
        super().__init__(**others)
        self.logs = logs
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def build(self, shape: Any) -> None:
        self.dense.build(shape)
        self.built = True

    def call(self, features: Any) -> Any:
        return self.dense(features)

    def returned(self, loss: Any, truth: Any, guess: Any) -> dict[str, Any]:
        if self.logs == "loss":
            return {"loss": loss}
        if self.logs == "plain":
            return {"own": loss, "double": 2 * loss}
        self.error.update_state(truth, guess)
        return {"own": loss, "error": self.error.result()}

    def train_step(self, data: Any) -> Any:
        features, truth = data
        truth = tf.cast(tf.reshape(truth, (-1, 1)), tf.float32)
        with tf.GradientTape() as tape:
            guess = self(features, training=True)
            loss = tf.reduce_mean((truth - guess) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return self.returned(loss, truth, guess)

    def test_step(self, data: Any) -> Any:
        features, truth = data
        truth = tf.cast(tf.reshape(truth, (-1, 1)), tf.float32)
        guess = self(features, training=False)
        return self.returned(tf.reduce_mean((truth - guess) ** 2), truth, guess)

    def get_config(self) -> dict[str, Any]:
        return {"logs": self.logs}


class Seen(keras.callbacks.Callback):
    """Keeps what it is told, by rank."""

    kept: ClassVar[dict[int, list[Any]]] = {}

    def __init__(self, hook: str = "on_epoch_end") -> None:
        super().__init__()
        self.hook = hook
        if hook == "batch":
            self.on_train_batch_end = lambda batch, logs=None: self.keep(logs)
        if hook == "test":
            self.on_test_batch_end = lambda batch, logs=None: self.keep(logs)

    def keep(self, logs: Any) -> None:
        rank = self.model.rank_of_test
        self.kept.setdefault(rank, []).append(dict(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.hook == "on_epoch_end":
            self.keep(logs)

    def on_test_end(self, logs: Any = None) -> None:
        if self.hook == "on_test_end":
            self.keep(logs)

    def on_train_end(self, logs: Any = None) -> None:
        if self.hook == "on_train_end":
            self.keep(logs)


class Numbered(keras.callbacks.Callback):
    """Tells the model the rank that it is on. It is given to each rank by itself."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        model.rank_of_test = self.rank


def own_plan(directory: Path, logs: str = "plain", eager: bool = True, **options: Any) -> TrainPlan:
    """Without a graph, which would take most of the time of a few steps, but where that is what is tested."""
    model = Own(logs)
    model.build((None, WIDTH))
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=eager)
    validation = options.pop("validation", None)
    plan = a_plan(directory, model, validation, batch_size=8, epochs=2, **options)
    return replace(plan, custom_objects=cloudpickle.dumps({"Own": Own}))


def trained(plan: TrainPlan, callbacks: list[Any], size: int = 2) -> list[TrainResult]:
    def run(rank: Any) -> TrainResult:
        own = cloudpickle.dumps([*callbacks, Numbered(rank.world.rank)])
        return train(replace(plan, callbacks=own), rank, lambda content: None).result

    Seen.kept.clear()
    return on_ranks(size, run)


def joined_batches(plan: TrainPlan, validation: bool = False, size: int = 2) -> list[np.ndarray]:
    """The places in X of the rows of each step of all ranks."""
    rows = np.flatnonzero(validation == HELD_OUT) if plan.dataset.rows(validation=True) else np.arange(ROWS)
    dealt = shards(plan.dataset.part(validation=validation), size, plan.options.batch_size, None)
    bounds = np.cumsum([0, *(shard.rows for shard in dealt)])
    parts = [rows[a:b] for a, b in itertools.pairwise(bounds)]
    taken = range(0, max(map(len, parts)), plan.options.batch_size)
    return [np.concatenate([part[first : first + plan.options.batch_size] for part in parts]) for first in taken]


def plain_keras(plan: TrainPlan, logs: str) -> tuple[list[list[dict[str, float]]], list[dict[str, float]]]:
    """The logs of each step of one process on the global batches, by epoch; and those of the last of validation."""
    model = Own(logs)
    model.build((None, WIDTH))
    model.compile(keras.optimizers.SGD(0.05))
    epochs, tests = [], []
    for _ in range(plan.options.epochs):
        model.reset_metrics()
        steps = [model.train_step((X[rows], TARGETS[rows])) for rows in joined_batches(plan)]
        epochs.append([{name: float(value) for name, value in step.items()} for step in steps])
        model.reset_metrics()
        if plan.dataset.rows(validation=True):
            tests.append([model.test_step((X[r], TARGETS[r])) for r in joined_batches(plan, validation=True)][-1])
    return epochs, [{name: float(value) for name, value in test.items()} for test in tests]


@pytest.mark.parametrize("logs", ["plain", "loss", "mixed"])
def test_logs_of_own_steps_are_those_of_the_joined_batches(tmp_path: Path, logs: str) -> None:
    # 40 rows, 20 a rank: the last step has 4 on each; 10 for validation.
    plan = own_plan(tmp_path, logs, eager=False, validation=HELD_OUT)
    first, second = trained(plan, [Seen()])
    epochs, tests = plain_keras(plan, logs)
    expected = {name: [epoch[-1][name] for epoch in epochs] for name in epochs[0][-1]}
    expected |= {f"val_{name}": [test[name] for test in tests] for name in tests[0]}
    assert first.history.keys() == expected.keys()
    for name, values in expected.items():
        assert first.history[name] == pytest.approx(values, rel=1e-5), name
    assert second.history == first.history
    assert Seen.kept[0] == Seen.kept[1] == [{n: v[e] for n, v in first.history.items()} for e in range(2)]


def test_a_rank_without_rows_in_the_last_step_counts_nothing(tmp_path: Path) -> None:
    # 50 rows on 3 ranks, 16, 17 and 17: the first has none in the last step.
    plan = changed(own_plan(tmp_path), batch_size=4)
    results = trained(plan, [], size=3)
    model = Own()
    model.build((None, WIDTH))
    model.compile(keras.optimizers.SGD(0.05))
    for rows in joined_batches(plan, size=3):
        last = model.train_step((X[rows], TARGETS[rows]))
    assert results[0].history["own"][0] == pytest.approx(float(last["own"]), rel=1e-5)


@pytest.mark.parametrize("hook", ["batch", "test", "on_test_end", "on_train_end"])
@pytest.mark.parametrize("logs", ["plain", "mixed"])
def test_logs_that_a_callback_reads_are_joined(tmp_path: Path, hook: str, logs: str) -> None:
    plan = own_plan(tmp_path, logs, validation=HELD_OUT)
    results = trained(plan, [Seen(hook)])
    assert Seen.kept[0] == Seen.kept[1]
    epochs, tests = plain_keras(plan, logs)
    if hook == "batch":
        for ours, theirs in zip(Seen.kept[0], [step for epoch in epochs for step in epoch], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    elif hook == "on_train_end":
        assert Seen.kept[0] == [{name: values[-1] for name, values in results[0].history.items()}]
    elif hook == "on_test_end":
        for ours, theirs in zip(Seen.kept[0], tests, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)


def classifier() -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(3, activation="softmax")])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    return model


class FollowsLoss(keras.callbacks.Callback):
    """Sets the rate by the logs of each step."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.1 / (1 + logs["loss"])


def test_a_rate_that_follows_the_logs_of_steps_is_that_of_one_process(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, classifier(), batch_size=8, epochs=2)
    results = trained(plan, [FollowsLoss(), Seen("batch")])
    model = classifier()
    batches = joined_batches(plan)
    seen: list[dict[str, float]] = []
    noting = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    data = ((X[rows], Y[rows]) for _ in range(2) for rows in batches)
    expected = model.fit(data, steps_per_epoch=len(batches), epochs=2, verbose=0, callbacks=[FollowsLoss(), noting])
    for name, values in expected.history.items():
        assert results[1].history[name] == pytest.approx(values, rel=1e-4), name
    for rank in (0, 1):
        for ours, theirs in zip(Seen.kept[rank], seen, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_plateau_of_an_own_log_moves_all_ranks_alike(tmp_path: Path) -> None:
    plateau = keras.callbacks.ReduceLROnPlateau("own", factor=0.5, patience=1, min_delta=10.0, mode="min")
    results = trained(changed(own_plan(tmp_path), epochs=4), [plateau])
    assert results[0].history["learning_rate"] == results[1].history["learning_rate"]
    assert results[0].history["learning_rate"][-1] < 0.05


def test_nan_on_one_rank_ends_all_at_the_same_step(tmp_path: Path) -> None:
    class Spoilt(Own):
        def train_step(self, data: Any) -> Any:
            logs = super().train_step(data)
            return {"loss": tf.where(getattr(self, "rank_of_test", 0) == 1, np.nan, logs["own"])}

    model = Spoilt()
    model.build((None, WIDTH))
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
    plan = a_plan(tmp_path, model, batch_size=8, epochs=3)
    plan = replace(plan, custom_objects=cloudpickle.dumps({"Spoilt": Spoilt}))
    results = trained(plan, [keras.callbacks.TerminateOnNaN()])
    assert [len(result.history["loss"]) for result in results] == [1, 1]


def test_a_loss_that_no_step_reports_can_not_tell_the_best_epoch(tmp_path: Path) -> None:
    plan = own_plan(tmp_path, restore_best_weights=True)
    with pytest.raises(OptionError, match=r"monitor='loss'.*Received: double, own"):
        trained(plan, [], size=1)


# --- which callbacks read the logs of steps ----------------------------------------------------------------------


class Counts(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batch = batch

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.last = (batch, logs)


class Passes(keras.callbacks.Callback):
    def on_batch_end(self, *given: Any) -> None:
        self.last = given


@pytest.mark.parametrize(
    ("callback", "train_logs", "test_logs"),
    [
        (keras.callbacks.EarlyStopping(), False, False),
        (keras.callbacks.CSVLogger("log.csv"), False, False),
        (keras.callbacks.TerminateOnNaN(), True, False),
        (keras.callbacks.ProgbarLogger(), True, True),
        (keras.callbacks.ModelCheckpoint("a.keras"), False, False),
        (keras.callbacks.ModelCheckpoint("a.keras", save_freq=3), True, False),
        (keras.callbacks.TensorBoard("logs"), False, False),
        (keras.callbacks.TensorBoard("logs", update_freq="batch"), True, False),
        (keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None), False, False),
        (keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: print(batch)), False, False),
        (keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: print(logs)), True, False),
        (keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: [n for n in "a" if logs]), True, False),
        (FollowsLoss(), True, False),
        (Counts(), False, True),
        (Passes(), True, False),
    ],
)
def test_which_callbacks_read_the_logs_of_steps(callback: Any, train_logs: bool, test_logs: bool) -> None:
    assert read_logs([callback], TRAIN_HOOKS) is train_logs
    assert read_logs([keras.callbacks.History(), callback], TEST_HOOKS) is test_logs


# --- ranks that have drifted apart ---------------------------------------------------------------------------------


class Drifts(keras.callbacks.Callback):
    """Changes something by the rank, once."""

    def __init__(self, change: Callable[[Any, int], None], epoch: int = 1) -> None:
        super().__init__()
        self.change, self.epoch = change, epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            self.change(self.model, self.model.rank_of_test)


def halve_rate(model: Any, rank: int) -> None:
    model.optimizer.learning_rate = 0.1 / (1 + rank)


def move_weights(model: Any, rank: int) -> None:
    model.layers[-1].kernel.assign_add(0.01 * rank * np.ones((WIDTH, 3), np.float32))


def spoil_weights(model: Any, rank: int) -> None:
    if rank == 2:
        model.layers[-1].bias.assign([np.nan, 0, 0])


def move_momentum(model: Any, rank: int) -> None:
    model.optimizer.momentums[0].assign(np.full((WIDTH, 3), 1.0 + rank))


def count_on(model: Any, rank: int) -> None:
    model.optimizer._iterations.assign_add(rank)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (halve_rate, r"end of epoch 2.*learning rate of .*: 0.1 on rank 0, 0.05 on rank 1, 0.0333"),
        (move_weights, r"kernel on ranks? .*, by up to 0.0"),
        (spoil_weights, r"bias on rank 2"),
        (move_momentum, r"momentum on ranks"),
        (count_on, r"iteration: 12 on rank 0, 13 on rank 1, 14 on rank 2"),
    ],
)
def test_ranks_that_drift_apart_are_told(tmp_path: Path, change: Any, told: str) -> None:
    plan = a_plan(tmp_path, classifier(), batch_size=3, epochs=3)
    with pytest.raises(ModelError, match=told):
        trained(plan, [Drifts(change)], size=3)
    # The last checkpoint is of the epoch before.
    assert {path.name for path in (tmp_path / "checkpoints").glob("*.json")} == {"epoch-000001.json"}


def round_otherwise(model: Any, rank: int) -> None:
    model.layers[-1].kernel.assign(model.layers[-1].kernel * (1 + rank * np.float32(2e-7)))


def test_rounding_is_no_drift(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, classifier(), epochs=3)
    results = trained(plan, [Drifts(round_otherwise)])
    assert len(results[0].history["loss"]) == 3
