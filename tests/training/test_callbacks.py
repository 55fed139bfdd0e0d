"""What the callbacks add to Keras's trainer: agreed metrics, checkpoints, progress, stopping together."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import math
import warnings
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from rows import Together, changed, on_ranks

from spark_dl.collectives import SoloCollectives
from spark_dl.io.store import Store
from spark_dl.options import TrainingOptions
from spark_dl.train.callbacks.checkpointing import SaveCheckpoint, is_better
from spark_dl.train.callbacks.progress import MeasureSpeed, ReportProgress
from spark_dl.train.callbacks.state import CallbackState
from spark_dl.train.callbacks.sync import SyncEarlyStop, SyncMetrics, runs_on
from spark_dl.train.checkpoint import latest
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.optimizer import GradientReducer
from spark_dl.train.plan import TrainPlan
from spark_dl.train.reports import TRAIN_REPORTS, EpochReport, StepReport, TrainReport, WarningReport
from spark_dl.train.speed import StepClock
from spark_dl.wire import decode, encode
from spark_dl.world import solo

NAN = math.nan


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 4)).astype("float32"), random.integers(0, 3, count).astype("int32")


def still() -> keras.Model:
    """A model that doesn't learn, so that its metrics depend on the rows alone."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", metrics=metrics)
    return model


# --- AgreeOnEpoch --------------------------------------------------------------------------------------------


@functools.cache
def agreed_history(validated: bool) -> tuple[list[dict[str, list[float]]], dict[str, list[float]]]:
    """The histories of ranks with 30 and 7 rows, and of one process with all of them."""
    training = [rows(30, 1), rows(7, 2)]
    held_out = [rows(5, 3), rows(12, 4)]
    models = [still(), still()]

    def run(rank: Together) -> dict[str, list[float]]:
        me = rank.world.rank
        fit = models[me].fit(
            *training[me],
            batch_size=40,
            epochs=2,
            verbose=0,
            validation_data=held_out[me] if validated else None,
            callbacks=[SyncMetrics(rank)],
        )
        return fit.history

    joined = [np.concatenate(parts) for parts in zip(*training, strict=True)]
    all_held_out = tuple(np.concatenate(parts) for parts in zip(*held_out, strict=True))
    alone = still().fit(
        *joined, batch_size=40, epochs=2, verbose=0, validation_data=all_held_out if validated else None
    )
    return on_ranks(2, run), alone.history


@pytest.mark.parametrize("validated", [False, True])
def test_training_metrics_are_those_of_the_joined_rows(validated: bool) -> None:
    histories, alone = agreed_history(validated)
    for history in histories:
        for name in ("loss", "accuracy", "top2"):
            assert history[name] == pytest.approx(alone[name], rel=1e-6), name


def test_validation_metrics_are_those_of_the_joined_rows() -> None:
    histories, alone = agreed_history(validated=True)
    for history in histories:
        for name in ("val_loss", "val_accuracy", "val_top2"):
            assert history[name] == pytest.approx(alone[name], rel=1e-6), name


def test_callbacks_that_follow_see_the_agreed_values_on_every_rank() -> None:
    models = [still(), still()]
    data = [rows(30, 1), rows(7, 2)]

    def run(rank: Together) -> list[dict[str, float]]:
        seen: list[dict[str, float]] = []
        following = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
        me = rank.world.rank
        held_out = rows(5 + me, 5 + me)
        callbacks = [SyncMetrics(rank), following]
        models[me].fit(*data[me], batch_size=40, verbose=0, validation_data=held_out, callbacks=callbacks)
        return seen

    first, second = on_ranks(2, run)
    assert first == second
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= first[0].keys()


def test_moving_statistics_become_the_mean_over_ranks_before_validation() -> None:
    def normalising() -> keras.Model:
        model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(momentum=0.5)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        model.jit_compile = False
        return model

    models = [normalising(), normalising()]
    data = [rows(8, 1)[0], rows(8, 2)[0] + 3]

    def run(rank: Together) -> list[list[float]]:
        x = data[rank.world.rank]
        callbacks = [SyncMetrics(rank)]
        seen: list[list[float]] = []
        model = models[rank.world.rank]
        callbacks.append(keras.callbacks.LambdaCallback(on_train_end=lambda logs: seen.extend(_moving(model))))
        model.fit(x, x, batch_size=8, verbose=0, validation_data=(x, x), callbacks=callbacks)
        return seen

    first, second = on_ranks(2, run)
    assert first == second
    mean = np.mean([0.5 * part.mean(axis=0) for part in data], axis=0)
    variance = np.mean([0.5 + 0.5 * part.var(axis=0) for part in data], axis=0)
    np.testing.assert_allclose(first, [mean, variance], rtol=1e-5)


def _moving(model: keras.Model) -> list[list[float]]:
    return [np.asarray(v).tolist() for v in model.non_trainable_variables]


def test_alone_nothing_changes() -> None:
    x, y = rows(20, 1)
    alone, plain = still(), still()
    held_out = rows(6, 2)
    with_it = alone.fit(
        x, y, epochs=2, verbose=0, validation_data=held_out, callbacks=[SyncMetrics(SoloCollectives(solo()))]
    )
    expected = plain.fit(x, y, epochs=2, verbose=0, validation_data=held_out).history
    assert with_it.history.keys() == expected.keys()
    for name, values in expected.items():
        assert with_it.history[name] == pytest.approx(values)


# --- the best epoch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "than", "mode", "better"),
    [
        (1.0, 2.0, "min", True),
        (2.0, 1.0, "min", False),
        (1.0, 1.0, "min", False),
        (2.0, 1.0, "max", True),
        (1.0, 2.0, "max", False),
        (1.0, 1.0, "max", False),
        (1.0, NAN, "min", True),
        (1.0, NAN, "max", True),
        (NAN, NAN, "min", False),
        (NAN, 1.0, "min", False),
        (-math.inf, 0.0, "min", True),
    ],
)
def test_is_better(value: float, than: float, mode: str, better: bool) -> None:
    assert is_better(value, than, mode) is better


def saver(directory: Path, told: list[TrainReport] | None = None, **options: Any) -> SaveCheckpoint:
    """A World of one that saves checkpoints; five steps make an epoch."""
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(TrainPlan))
    own = {"attempt": 1, "checkpoints": Store.at(str(directory)), "options": TrainingOptions(monitor_mode="min")}
    plan = changed(TrainPlan(**{**nothing, **own, "monitor": "loss"}), **options)
    agreement = SyncMetrics(SoloCollectives(solo()))
    return SaveCheckpoint(plan, agreement, CallbackState({}), 5, (told if told is not None else []).append)


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [("min", [3, 1, 2, 1], 1), ("max", [3, 1, 5, 5], 2), ("min", [NAN, 2, NAN], 1), ("min", [NAN, NAN], -1)],
)
def test_the_first_of_the_best_epochs_is_kept(tmp_path: Path, mode: str, values: list[float], best: int) -> None:
    saving = saver(tmp_path, monitor="score", monitor_mode=mode)
    model = still()
    saving.set_model(model)
    kernels = []
    for epoch, value in enumerate(values):
        model.layers[0].bias.assign([float(epoch), 0, 0])
        kernels.append(float(model.layers[0].bias[0]))
        saving.on_epoch_end(epoch, {"score": value})
    assert saving.best_epoch == best
    content = saving.best()
    assert (content is None) == (best == -1)
    if content:
        assert float(from_bytes(content).layers[0].bias[0]) == kernels[best]


def test_an_epoch_without_the_monitored_metric_is_never_the_best(tmp_path: Path) -> None:
    saving = saver(tmp_path, monitor="val_loss")
    saving.set_model(still())
    saving.on_epoch_end(0, {"loss": 1.0})
    saving.on_epoch_end(1, None)
    assert saving.best_epoch == -1


def test_the_latest_and_the_best_checkpoint_are_kept_and_the_others_dropped(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("the user's")
    saving = saver(tmp_path)
    saving.set_model(still())
    kept = []
    for epoch, loss in enumerate([2.0, 3.0, 1.0, 4.0, 5.0, 6.0]):
        saving.on_epoch_end(epoch, {"loss": loss})
        kept.append([int(path.stem[-2:]) for path in sorted(tmp_path.glob("*.keras"))])
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [3, 4, 5], [3, 5, 6]]
    assert {path.name for path in tmp_path.glob("*.json")} == {"epoch-000005.json", "epoch-000006.json"}
    assert (tmp_path / "notes.txt").exists()
    found = latest(Store.at(str(tmp_path)))
    assert found is not None
    record, model = found
    assert (record.epoch, record.step, record.best_epoch, record.best_file) == (6, 0, 2, "epoch-000003.keras")
    assert record.history == {"loss": [2.0, 3.0, 1.0, 4.0, 5.0, 6.0]}
    assert model == (tmp_path / "epoch-000006.keras").read_bytes()


@pytest.mark.parametrize("damage", ["model cut short", "model gone", "record cut short"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    saving = saver(tmp_path)
    saving.set_model(still())
    saving.on_epoch_end(0, {"loss": 1.0})
    saving.on_epoch_end(1, {"loss": 2.0})
    file = tmp_path / ("epoch-000002.json" if damage == "record cut short" else "epoch-000002.keras")
    if damage == "model gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = latest(Store.at(str(tmp_path)))
    assert found is not None
    assert found[0].epoch == 1
    # A record that was cut short is as if it had never been written.
    assert len(warned) == (damage != "record cut short")
    assert all("epoch-000002.keras can't be used" in str(warning.message) for warning in warned)


def test_a_damaged_state_of_callbacks_is_no_checkpoint(tmp_path: Path) -> None:
    saving = saver(tmp_path)
    stopping = keras.callbacks.EarlyStopping()
    saving._state = CallbackState({0: stopping})
    saving._state.begin(b"")
    saving.set_model(still())
    for epoch in range(4):
        stopping.wait = epoch
        saving.on_epoch_end(epoch, {"loss": 1.0})
    names = {path.name for path in tmp_path.glob("*.callbacks")}
    assert names == {"epoch-000003.callbacks", "epoch-000004.callbacks"}
    (tmp_path / "epoch-000004.callbacks").write_bytes(b"cut short")
    with pytest.warns(RuntimeWarning, match=r"epoch-000004.keras can't be used: its content isn't what was written"):
        found = latest(Store.at(str(tmp_path)))
    assert found is not None
    assert found[0].epoch == 3


class Rich(keras.callbacks.Callback):
    """Remembers things of several kinds."""

    calls = 0  # of the class, until an instance counts

    def __init__(self, number: float) -> None:
        super().__init__()
        self.given, self.name = number, f"n{number}"
        self.learn(0.0)

    def learn(self, number: float) -> None:
        self.count, self.rate, self.seen = int(number), np.float32(number), [number, None]
        self.table = {"a": [number], "b": {"c": bool(number)}}
        self.array, self.arrays = np.full((2, 3), number), [np.full(n, number, np.float32) for n in range(12)]
        self.better = keras.ops.less if number else None
        self.open, self.mixed = io.StringIO(), [np.zeros(1), "x"]
        self.phase, self.pair, self.known = f"p{number}", (number, "x"), {number, "y"}
        self.window, self.by_epoch = deque([number, 1.0], maxlen=2), {int(number): "e"}
        self.when = np.datetime64("2026-01-01") + int(number)
        self.calls += int(number)


LEARNED = ("count", "rate", "seen", "table", "better", "calls", "phase", "pair", "known", "window", "by_epoch")


def test_what_training_has_changed_is_kept_and_what_was_given_is_not() -> None:
    old = {1: Rich(1.0), 3: Rich(1.0)}
    before = CallbackState(old)
    before.begin(b"")
    assert before.content() == b""
    old[1].learn(1.5)
    old[3].learn(2.5)
    new = {0: Rich(7.0), 1: Rich(7.0), 3: Rich(7.0)}
    untouched = new[1].open
    after = CallbackState(new)
    after.begin(before.content())
    for position, number in ((0, 0.0), (1, 1.5), (3, 2.5)):
        expected = Rich(7.0)
        if number:
            expected.learn(number)
        assert new[position].given == 7.0
        for name in LEARNED:
            assert getattr(new[position], name) == getattr(expected, name)
        np.testing.assert_array_equal(new[position].array, expected.array)
        for one, other in zip(new[position].arrays, expected.arrays, strict=True):
            np.testing.assert_array_equal(one, other)
    assert new[1].open is untouched
    # What was restored is part of the next checkpoint, too.
    third = {1: Rich(0.0), 3: Rich(0.0)}
    CallbackState(third).begin(after.content())
    assert (third[1].count, third[3].count) == (1, 2)


def test_another_list_of_callbacks_gets_nothing() -> None:
    old = {0: keras.callbacks.EarlyStopping(patience=2)}
    state = CallbackState(old)
    state.begin(b"")
    old[0].wait = 1
    plateau, stopping = keras.callbacks.ReduceLROnPlateau(), keras.callbacks.EarlyStopping(patience=5)
    CallbackState({0: plateau}).begin(state.content())
    assert plateau.wait == 0
    CallbackState({0: stopping}).begin(state.content())
    assert (stopping.wait, stopping.patience) == (1, 5)


@pytest.mark.parametrize(("name", "value"), [("on_epoch_end", ["value", 1.0]), ("better", ["comparison", "system"])])
def test_a_hostile_state_replaces_no_methods_and_names_no_functions(name: str, value: list[Any]) -> None:
    hostile = io.BytesIO()
    with zipfile.ZipFile(hostile, "w") as target:
        target.writestr("values.json", json.dumps({"0": {"class": "Rich", "values": {name: value}}}))
    callback = Rich(1.0)
    with contextlib.suppress(KeyError):
        CallbackState({0: callback}).begin(hostile.getvalue())
    assert callable(callback.on_epoch_end)
    assert callback.better is None


def test_a_checkpoint_that_cant_be_written_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    told: list[TrainReport] = []
    saving = saver(tmp_path / "checkpoints", told)
    saving.set_model(still())
    (tmp_path / "checkpoints").write_text("a file is in the way")
    saving.on_epoch_end(0, {"loss": 1.0})
    (report,) = told
    assert isinstance(report, WarningReport)
    assert "No checkpoint at the end of epoch 1, the previous one is used." in report.text
    assert saving.best() is None


def test_an_earlier_attempt_drops_nothing_of_a_later_one(tmp_path: Path) -> None:
    later, earlier = saver(tmp_path, attempt=2), saver(tmp_path)
    for saving, epochs in ((later, [3]), (earlier, [0, 1, 2, 3])):
        saving.set_model(still())
        for epoch in epochs:
            saving.on_epoch_end(epoch, {"loss": 1.0 + epoch})
    assert {p.name for p in tmp_path.glob("*.keras")} == {
        "epoch-000001.keras",
        "epoch-000003.keras",
        "epoch-000004.keras",
        "epoch-000004-attempt-2.keras",
    }


def test_a_later_attempt_that_begins_further_back_supersedes_the_earlier_one(tmp_path: Path) -> None:
    earlier, later = saver(tmp_path), saver(tmp_path, attempt=2)
    for saving, epochs in ((earlier, [0, 1, 2]), (later, [1])):
        saving.set_model(still())
        for epoch in epochs:
            saving.on_epoch_end(epoch, {"loss": 1.0 - epoch})
    found = latest(Store.at(str(tmp_path)))
    assert found is not None
    assert (found[0].epoch, found[0].attempt, found[0].best_file) == (2, 2, "epoch-000002-attempt-2.keras")
    assert (tmp_path / found[0].best_file).exists()


def test_an_epochs_end_is_kept_beside_checkpoints_within_the_next(tmp_path: Path) -> None:
    saving = saver(tmp_path, checkpoint_steps=1)
    saving.set_model(still())
    saving._agreement.set_model(still())
    saving._agreement.on_train_begin()
    saving.on_epoch_begin(0)
    saving.on_epoch_end(0, {"loss": 1.0})
    saving.on_epoch_begin(1)
    for step in range(4):
        saving.on_train_batch_end(step)
    found = latest(Store.at(str(tmp_path)), whole_epochs=True)
    assert found is not None
    assert (found[0].epoch, found[0].step) == (1, 0)
    newest = latest(Store.at(str(tmp_path)))
    assert newest is not None
    assert (newest[0].epoch, newest[0].step) == (1, 4)


def test_a_best_epoch_that_cant_be_written_leaves_the_best_before_it(tmp_path: Path) -> None:
    saving = saver(tmp_path / "checkpoints")
    saving.set_model(still())
    saving.on_epoch_end(0, {"loss": 1.0})
    (tmp_path / "checkpoints").rename(tmp_path / "aside")
    (tmp_path / "checkpoints").write_text("in the way")
    saving.on_epoch_end(1, {"loss": 0.5})
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "aside").rename(tmp_path / "checkpoints")
    saving.on_epoch_end(2, {"loss": 2.0})
    assert saving.best_epoch == 0
    assert saving.best() == (tmp_path / "checkpoints" / "epoch-000001.keras").read_bytes()


def test_a_checkpoint_holds_the_optimizers_state(tmp_path: Path) -> None:
    model = still()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    saving = saver(tmp_path)
    model.fit(*rows(20, 1), verbose=0, callbacks=[saving])
    loaded = from_bytes(saving.best() or b"")
    assert int(loaded.optimizer.iterations.numpy()) == 1
    for mine, expected in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(expected))


# --- progress ------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_steps_are_told_a_few_times_a_second_and_epochs_always() -> None:
    told: list[TrainReport] = []
    clock = Clock()
    measure = MeasureSpeed(SoloCollectives(solo()), StepClock(), 500, 10, clock)
    progress = ReportProgress(told.append, measure, 3, clock)
    measure.on_train_begin()
    for callback in (measure, progress):
        callback.on_epoch_begin(2)
    for step in range(10):
        clock.now += 0.1
        measure.on_train_batch_end(step)
        progress.on_train_batch_end(step, {"loss": np.float32(step)})
    clock.now += 5  # validation
    measure.on_epoch_end(2)
    progress.on_epoch_end(2, {"loss": np.float32(0.5), "accuracy": 1})
    assert told[:-1] == [StepReport(2, step, step - 1.0) for step in (3, 6, 9)]
    report = told[-1]
    assert isinstance(report, EpochReport)
    assert (report.epoch, report.logs) == (2, {"loss": 0.5, "accuracy": 1.0})
    assert report.learning_rate is None  # there is no model
    assert measure.measured is not None
    assert measure.measured.seconds == pytest.approx(1.0)
    assert report.speed == measure.measured.speed
    assert report.speed.rows_per_second == pytest.approx(500)
    assert report.speed.step_ms == pytest.approx(100)
    (rank,) = report.speed.ranks
    assert rank.memory_mb > 50
    sent = [json.loads(json.dumps(encode(report))) for report in told]  # np.float32 is no JSON
    assert [decode(content, TRAIN_REPORTS) for content in sent] == told


def test_progress_is_told_during_a_real_fit() -> None:
    told: list[TrainReport] = []
    clock = Clock()
    measure = MeasureSpeed(SoloCollectives(solo()), StepClock(), 8, 2, clock)
    callbacks = [measure, ReportProgress(told.append, measure, 1, clock), Tick(clock)]
    still().fit(*rows(8, 1), batch_size=4, verbose=0, callbacks=callbacks)
    assert [type(report) for report in told] == [StepReport, StepReport, EpochReport]


class Tick(keras.callbacks.Callback):
    """Lets time pass, before `ReportProgress` looks at the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._clock.now += 1


# --- stopping ------------------------------------------------------------------------------------------------


class StopAt(keras.callbacks.Callback):
    """A user's callback that stops at an epoch's step, or at its end."""

    def __init__(self, epoch: int, step: int | None) -> None:
        super().__init__()
        self._at = (epoch, step)
        self._epoch = 0
        self.steps: list[int] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self.steps.append(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps[-1] += 1
        if (self._epoch, batch) == self._at:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch, None) == self._at:
            self.model.stop_training = True


def test_one_ranks_wish_at_an_epochs_end_stops_all() -> None:
    models = [still(), still()]

    def run(rank: Together) -> int:
        me = rank.world.rank
        users = StopAt(1, None) if me == 1 else StopAt(99, None)
        callbacks = [users, SyncEarlyStop(rank, GradientReducer(rank, StepClock()))]
        models[me].fit(*rows(8, me), batch_size=4, epochs=4, verbose=0, callbacks=callbacks)
        return len(users.steps)

    assert on_ranks(2, run) == [2, 2]


def test_one_ranks_wish_within_an_epoch_stops_all_after_the_next_step() -> None:
    def run(rank: Together) -> list[bool]:
        reducer = GradientReducer(rank, StepClock())
        stop = SyncEarlyStop(rank, reducer)
        stop.set_model(keras.Model())
        stopped = []
        for step in range(4):
            reducer.reduce([tf.constant([1.0])], "gradients")
            stop.model.stop_training = rank.world.rank == 1 and step == 1  # what the user's callback decided
            stop.on_train_batch_end(step)
            stopped.append(bool(stop.model.stop_training))
            if stopped[-1]:
                break
        return stopped

    assert on_ranks(2, run) == [[False, False, True]] * 2


def test_alone_a_wish_within_an_epoch_stops_at_once() -> None:
    users = StopAt(0, 1)
    collectives = SoloCollectives(solo())
    callbacks = [users, SyncEarlyStop(collectives, GradientReducer(collectives, StepClock()))]
    still().fit(*rows(24, 1), batch_size=4, epochs=3, verbose=0, callbacks=callbacks)
    assert users.steps == [2]


@pytest.mark.parametrize(
    ("make", "everywhere"),
    [
        (lambda: keras.callbacks.EarlyStopping(), True),
        (lambda: keras.callbacks.ReduceLROnPlateau(), True),
        (lambda: keras.callbacks.TerminateOnNaN(), True),
        (lambda: keras.callbacks.LambdaCallback(), True),
        (lambda: keras.callbacks.ModelCheckpoint("x.keras"), False),
        (lambda: keras.callbacks.CSVLogger("x.csv"), False),
        (lambda: keras.callbacks.TensorBoard("logs"), False),
        # Without its package, which its __init__ imports.
        (lambda: object.__new__(keras.callbacks.OrbaxCheckpoint), False),
        (lambda: keras.callbacks.BackupAndRestore("backup"), False),
        (lambda: keras.callbacks.RemoteMonitor(), False),
    ],
)
def test_callbacks_that_write_run_on_rank_0_alone(make: Any, everywhere: bool) -> None:
    assert runs_on(make(), 0)
    assert runs_on(make(), 1) is everywhere
