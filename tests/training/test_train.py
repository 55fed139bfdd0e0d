"""A rank's whole training, on real blocks: alone as plain Keras, and several ranks as one."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from own_metrics import OfEachClass
from plans import written_plan
from rows import Together, changed, on_ranks, packed_arrays

from spark_dl.collectives import SoloCollectives
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.readers import READERS, petastorm
from spark_dl.data.shards import Segment, shards
from spark_dl.errors import ClusterError, OptionError, SavedModelError
from spark_dl.launch.pickling import pickle_for_ranks
from spark_dl.train.augment import augment_features
from spark_dl.train.checkpoint import Checkpoint, latest
from spark_dl.train.learning_rate import LearningRate
from spark_dl.train.loop import train
from spark_dl.train.model.carrying import keras_reducer
from spark_dl.train.model.serialization import custom_objects, from_bytes
from spark_dl.train.plan import INITIAL_MODEL, PROFILE, TrainPlan, TrainResult
from spark_dl.train.reports import EpochEnd, EpochReport, TrainReport, Verdict, WarningReport
from spark_dl.wire import encode
from spark_dl.world import solo

ROWS, WIDTH, CLASSES = 50, 5, 3
RANDOM = np.random.default_rng(11)
X = RANDOM.normal(size=(ROWS, WIDTH)).astype("float32")
Y = RANDOM.integers(0, CLASSES, ROWS).astype("int32")
HELD_OUT = np.arange(ROWS) % 5 == 0


def a_model(*layers: Callable[[], Any], optimizer: Any = None) -> keras.Model:
    keras.utils.set_random_seed(3)
    hidden = [make() for make in layers]
    model = keras.Sequential([keras.Input((WIDTH,)), *hidden, keras.layers.Dense(CLASSES, activation="softmax")])
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def a_plan(directory: Path, model: keras.Model, validation: np.ndarray | None = None, **others: Any) -> TrainPlan:
    """A plan over real blocks of 50 rows, or of those for training, in `directory`."""
    defaults = {"batch_size": 8, "epochs": 3, "shuffle": False, "monitor_mode": "min", "reader": "petastorm"}
    monitor = "val_loss" if validation is not None else "loss"
    dataset = packed_arrays(directory / "data", X, Y, validation, rows=10)
    return written_plan(directory, model, dataset, **{**defaults, "monitor": monitor, **others})


def run(plan: TrainPlan, reports: list[TrainReport] | None = None) -> tuple[TrainResult, keras.Model]:
    """The result of a World of one, and the final model."""
    sent: list[TrainReport] = [] if reports is None else reports
    result = train(plan, SoloCollectives(solo()), sent.append).result
    return result, from_bytes(plan.workspace.read(result.model_file), cloudpickle.loads(plan.custom_objects))


def same_weights(one: keras.Model, other: keras.Model, tolerance: float) -> None:
    for mine, expected in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, expected, atol=tolerance, rtol=tolerance)


def same_history(one: dict[str, list[float]], other: dict[str, list[float]]) -> None:
    assert one.keys() == other.keys()
    for name, values in other.items():
        assert one[name] == pytest.approx(values, rel=1e-5), name


def test_alone_it_is_plain_keras_on_the_same_rows(tmp_path: Path) -> None:
    model = a_model(lambda: keras.layers.Dense(6, activation="relu"), keras.layers.BatchNormalization)
    result, trained = run(a_plan(tmp_path, model))  # 50 rows in batches of 8: the last has 2
    expected = model.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    same_weights(trained, model, 1e-6)
    same_history(result.history, expected.history)
    assert (result.rows, result.validation_rows) == (ROWS, 0)


def test_validation_is_plain_keras_too_and_no_row_of_it_is_trained_on(tmp_path: Path) -> None:
    model = a_model()
    result, trained = run(a_plan(tmp_path, model, HELD_OUT))
    expected = model.fit(
        X[~HELD_OUT],
        Y[~HELD_OUT],
        batch_size=8,
        epochs=3,
        shuffle=False,
        verbose=0,
        validation_data=(X[HELD_OUT], Y[HELD_OUT]),
        validation_batch_size=8,
    )
    same_weights(trained, model, 1e-6)
    same_history(result.history, expected.history)
    assert (result.rows, result.validation_rows) == (40, 10)


class Noise(keras.callbacks.Callback):
    """Draws from NumPy's own generator, as users' code may."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.set_weights([weight + np.random.normal() for weight in self.model.get_weights()])


def trained_bits(plan: TrainPlan) -> list[bytes]:
    keras.utils.set_random_seed(len(plan.workspace.url))  # what the process drew before must not matter
    return [np.asarray(variable).tobytes() for variable in run(plan)[1].trainable_variables]


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    def bits(place: str, seed: int) -> list[bytes]:
        model = a_model(lambda: keras.layers.Dense(6), lambda: keras.layers.Dropout(0.4))
        return trained_bits(a_plan(tmp_path / place, model, shuffle=True, seed=seed, callbacks=[Noise()]))

    first = bits("one", 5)
    assert bits("another", 5) == first
    assert bits("third", 6) != first


def test_the_seed_chooses_the_order_of_the_rows(tmp_path: Path) -> None:
    def bits(place: str, shuffle: bool, seed: int) -> list[bytes]:
        return trained_bits(a_plan(tmp_path / place, a_model(), shuffle=shuffle, seed=seed, epochs=1))

    in_order = bits("a", False, 5)
    assert bits("b", False, 6) == in_order
    assert len({tuple(in_order), tuple(bits("c", True, 5)), tuple(bits("d", True, 6))}) == 3


def test_shuffling_gives_each_epoch_all_rows_in_another_order(tmp_path: Path) -> None:
    model = a_model(optimizer=keras.optimizers.SGD(0.0))
    result, _ = run(a_plan(tmp_path, model, shuffle=True))
    loss, accuracy = model.evaluate(X, Y, verbose=0)
    assert result.history["loss"] == pytest.approx([loss] * 3, rel=1e-5)
    assert result.history["accuracy"] == pytest.approx([accuracy] * 3, rel=1e-5)


class Worsen(keras.callbacks.Callback):
    """Spoils the weights in the last epoch, as training may."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            self.model.set_weights([weight + 5 for weight in self.model.get_weights()])


@pytest.mark.parametrize("restore", [True, False])
def test_the_best_epochs_weights_are_returned_on_demand(tmp_path: Path, restore: bool) -> None:
    plan = a_plan(tmp_path, a_model(), HELD_OUT, callbacks=[Worsen()], restore_best_weights=restore)
    result, trained = run(plan)
    assert result.best_epoch == int(np.argmin(result.history["val_loss"])) < 2
    epoch = result.best_epoch if restore else 2
    loss = trained.evaluate(X[HELD_OUT], Y[HELD_OUT], verbose=0)[0]
    assert loss == pytest.approx(result.history["val_loss"][epoch], rel=1e-5)


@pytest.mark.parametrize("monitor", ["val_accuracy", "accuracy", "val_loss", "loss"])
def test_the_metric_says_which_way_is_better(tmp_path: Path, monitor: str) -> None:
    plan = a_plan(tmp_path, a_model(), HELD_OUT, monitor=monitor, monitor_mode="auto", callbacks=[Worsen()])
    result, _ = run(plan)
    best = np.argmax if "accuracy" in monitor else np.argmin
    assert result.best_epoch == int(best(result.history[monitor]))


def test_a_metric_that_does_not_say_which_way_is_better_wants_it_told(tmp_path: Path) -> None:
    def distance(truth: Any, guess: Any) -> Any:
        return keras.ops.mean(guess)

    model = a_model()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[distance])
    options = {"monitor": "distance", "custom_objects": cloudpickle.dumps({"distance": distance})}
    plan = a_plan(tmp_path, model, monitor_mode="auto", restore_best_weights=True, **options)
    with pytest.raises(OptionError, match=r"monitor='distance' is better when lower or higher.*monitorMode='min'"):
        run(plan)
    directed = changed(plan, monitor_mode="min")
    assert train(directed, SoloCollectives(solo()), lambda content: None).result.best_epoch >= 0


def test_the_best_may_be_the_greatest(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, a_model(), HELD_OUT, monitor="val_accuracy", monitor_mode="max", callbacks=[Worsen()])
    result, _ = run(plan)
    assert result.best_epoch == int(np.argmax(result.history["val_accuracy"]))


def test_each_epoch_leaves_a_checkpoint_and_a_report(tmp_path: Path) -> None:
    reports: list[TrainReport] = []
    plan = a_plan(tmp_path, a_model())
    result, trained = run(plan, reports)
    found = latest(plan.checkpoints)
    assert found is not None
    assert (found[0].epoch, found[0].step) == (3, 0)
    same_weights(from_bytes(found[1]), trained, 0)
    epochs = [report for report in reports if isinstance(report, EpochReport)]
    assert [report.epoch for report in epochs] == [0, 1, 2]
    assert [report.logs["loss"] for report in epochs] == result.history["loss"]


def test_a_users_callback_may_end_training_early(tmp_path: Path) -> None:
    stopping = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=100.0)
    result, _ = run(a_plan(tmp_path, a_model(), epochs=20, callbacks=[stopping]))
    assert len(result.history["loss"]) == 2


def test_a_batch_larger_than_all_rows_is_one_step(tmp_path: Path) -> None:
    model = a_model()
    _, trained = run(a_plan(tmp_path, model, batch_size=1000, epochs=2))
    model.fit(X, Y, batch_size=ROWS, epochs=2, shuffle=False, verbose=0)
    same_weights(trained, model, 1e-6)


def test_the_final_model_is_compiled_as_the_user_compiled_it(tmp_path: Path) -> None:
    _, trained = run(a_plan(tmp_path, a_model(optimizer=keras.optimizers.Adam(0.005, clipnorm=1.0))))
    assert type(trained.optimizer) is keras.optimizers.Adam
    assert trained.optimizer.clipnorm == 1.0
    assert trained.loss == "sparse_categorical_crossentropy"
    assert int(trained.optimizer.iterations.numpy()) == 3 * 7
    assert trained.evaluate(X, Y, verbose=0, return_dict=True).keys() == {"loss", "accuracy"}


def test_damaged_initial_bytes_are_one_clear_error(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, a_model())
    plan.workspace.write(INITIAL_MODEL, b"not a model")
    with pytest.raises(SavedModelError, match="Keras can't load the model"):
        run(plan)


def test_a_model_that_runs_eagerly_trains_the_same(tmp_path: Path) -> None:
    eager, graph = a_model(), a_model()
    eager.compile(eager.optimizer, eager.loss, metrics=["accuracy"], run_eagerly=True)
    one, trained = run(a_plan(tmp_path / "eager", eager))
    other, expected = run(a_plan(tmp_path / "graph", graph))
    assert trained.run_eagerly
    same_weights(trained, expected, 1e-6)
    same_history(one.history, other.history)


@pytest.mark.parametrize("size", [2, 3])
def test_several_ranks_are_one_process_with_their_batches_joined(tmp_path: Path, size: int) -> None:
    # 50 rows on 3 ranks in batches of 4: 16, 17, 17 rows, so that the first takes its fifth step without rows.
    batch = {2: 8, 3: 4}[size]
    model = a_model(lambda: keras.layers.Dense(6, activation="tanh"))
    plan = a_plan(tmp_path, model, batch_size=batch)
    dealt = shards(plan.dataset.part(validation=False), size, batch, None)
    assert [shard.empty_steps for shard in dealt] == {2: [0, 0], 3: [1, 0, 0]}[size]

    def ranks_training(rank: Together) -> TrainResult:
        return train(plan, rank, lambda content: None).result

    results = on_ranks(size, ranks_training)
    starts = np.cumsum([0, *(shard.rows for shard in dealt)])
    parts = [np.arange(start, stop) for start, stop in itertools.pairwise(starts)]
    steps = [slice(step * batch, (step + 1) * batch) for step in range(dealt[0].steps)]
    joined = [np.concatenate([part[step] for part in parts]) for step in steps]
    expected = model.fit(
        ((X[rows], Y[rows]) for rows in itertools.cycle(joined)),
        steps_per_epoch=len(steps),
        epochs=plan.options.epochs,
        verbose=0,
    )
    same_weights(from_bytes(plan.workspace.read(results[0].model_file)), model, 1e-5)
    for result in results:
        same_history(result.history, expected.history)
        assert result.best_epoch == results[0].best_epoch


def test_the_driver_ends_training_on_all_ranks(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, a_model(), epochs=5)
    asked: list[TrainReport] = []

    def training(rank: Together) -> TrainResult:
        epochs = itertools.count()
        report = asked.append if rank.world.is_leader else lambda content: None
        return train(plan, rank, report, reply=lambda: encode(Verdict(stop=next(epochs) == 1))).result

    results = on_ranks(2, training)
    assert [len(result.history["loss"]) for result in results] == [2, 2]
    ends = [report for report in asked if isinstance(report, (EpochEnd, EpochReport))]
    assert [(type(end), end.epoch) for end in ends] == [(kind, n) for n in (0, 1) for kind in (EpochEnd, EpochReport)]
    last = latest(plan.checkpoints)
    assert last is not None
    assert (last[0].epoch, last[0].stopped) == (2, True)  # a resumed fit doesn't go on, either


def test_a_rank_without_rows_in_a_step_spoils_no_statistics(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, a_model(keras.layers.BatchNormalization), batch_size=4, epochs=1)

    def ranks_training(rank: Together) -> TrainResult:
        return train(plan, rank, lambda content: None).result

    result = on_ranks(3, ranks_training)[0]
    assert all(np.isfinite(weight).all() for weight in from_bytes(plan.workspace.read(result.model_file)).get_weights())


class Crash(keras.callbacks.Callback):
    """Raises at the beginning of a step of an epoch, once the file is there no more."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self.at = (epoch, step)
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == self.at:
            raise ZeroDivisionError


LAYERS = (keras.layers.BatchNormalization, lambda: keras.layers.Dropout(0.4, seed=5))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("checkpoint_steps", [None, 2], ids=["each epoch", "every two steps"])
def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(
    tmp_path: Path, size: int, checkpoint_steps: int | None
) -> None:
    def train_on(plan: TrainPlan) -> TrainResult:
        return on_ranks(size, lambda rank: train(plan, rank, lambda content: None).result)[0]

    options = {"shuffle": True, "batch_size": 5, "epochs": 3, "checkpoint_steps": checkpoint_steps}
    held = {"validation": HELD_OUT}
    model = a_model(*LAYERS, optimizer=keras.optimizers.Adam(0.01))
    whole = a_plan(tmp_path / "whole", model, **held, **options)
    expected = train_on(whole)
    # 40 rows: 8 steps on one rank, 4 on two. It dies in the fourth of the second epoch.
    broken = a_plan(tmp_path / "broken", model, **held, **options, callbacks=[Crash(1, 3)])
    with pytest.raises(ZeroDivisionError):
        train_on(broken)
    found = latest(broken.checkpoints)
    assert found is not None
    start, content = found
    assert (start.epoch, start.step) == (1, 2 if checkpoint_steps else 0)
    broken.workspace.write("start.keras", content)
    again = replace(broken, initial_model="start.keras", start=start, attempt=2, callbacks=cloudpickle.dumps([]))
    result = train_on(again)
    weights = [from_bytes(p.workspace.read(r.model_file)) for p, r in ((again, result), (whole, expected))]
    same_weights(*weights, tolerance=1e-6)
    same_history(result.history, expected.history)
    assert result.best_epoch == expected.best_epoch
    record, _ = latest(again.checkpoints) or (None, None)
    assert record is not None
    assert (record.epoch, record.attempt) == (3, 2)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    ("remembering", "epochs"),
    [
        # No epoch is better than the first, by so much: the rate falls after epochs 3 and 5, or training ends after 5.
        (lambda: keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=2, min_delta=100.0), 6),
        (lambda: keras.callbacks.EarlyStopping("loss", 100.0, patience=4, restore_best_weights=True), 5),
    ],
    ids=["ReduceLROnPlateau", "EarlyStopping"],
)
def test_what_callbacks_remember_goes_on_too(
    tmp_path: Path, size: int, remembering: Callable[[], keras.callbacks.Callback], epochs: int
) -> None:
    def train_on(plan: TrainPlan) -> TrainResult:
        return on_ranks(size, lambda rank: train(plan, rank, lambda content: None).result)[0]

    model = a_model(optimizer=keras.optimizers.Adam(0.01))
    whole = a_plan(tmp_path / "whole", model, epochs=6, callbacks=[remembering()])
    expected = train_on(whole)
    assert len(expected.history["loss"]) == epochs
    broken = a_plan(tmp_path / "broken", model, epochs=6, callbacks=[remembering(), Crash(3, 1)])
    with pytest.raises(ZeroDivisionError):
        train_on(broken)
    start, content = latest(broken.checkpoints) or pytest.fail("no checkpoint")
    broken.workspace.write("start.keras", content)
    broken.workspace.write("start.callbacks", broken.checkpoints.read(start.callbacks_file))
    again = replace(broken, initial_model="start.keras", callback_state="start.callbacks", start=start, attempt=2)
    result = train_on(replace(again, callbacks=cloudpickle.dumps([remembering()])))
    same_history(result.history, expected.history)
    weights = [from_bytes(p.workspace.read(r.model_file)) for p, r in ((again, result), (whole, expected))]
    same_weights(*weights, tolerance=1e-6)


def test_a_finished_training_is_only_read(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, a_model())
    result, trained = run(plan)
    found = latest(plan.checkpoints)
    assert found is not None
    plan.workspace.write("start.keras", found[1])
    again, same = run(replace(plan, initial_model="start.keras", start=found[0]))
    assert again.history == result.history
    same_weights(same, trained, 0)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("optimizer", [lambda: keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.AdamW])
def test_accumulated_gradients_are_those_of_the_batches_joined(
    tmp_path: Path, size: int, optimizer: Callable[[], keras.optimizers.Optimizer]
) -> None:
    # 50 rows on one rank in batches of 4: 13 steps, joined by threes, the last of them alone.
    model = a_model(lambda: keras.layers.Dense(6, activation="tanh"), optimizer=optimizer())
    plan = a_plan(tmp_path, model, batch_size=4, epochs=3, gradient_accumulation=3)
    dealt = shards(plan.dataset.part(validation=False), size, 4, None)
    result = on_ranks(size, lambda rank: train(plan, rank, lambda content: None).result)[0]
    starts = np.cumsum([0, *(shard.rows for shard in dealt)])
    parts = [np.arange(start, stop) for start, stop in itertools.pairwise(starts)]
    joined = [
        np.concatenate([part[first * 4 : (first + 3) * 4] for part in parts]) for first in range(0, dealt[0].steps, 3)
    ]
    expected = model.fit(
        ((X[rows], Y[rows]) for rows in itertools.cycle(joined)), steps_per_epoch=len(joined), epochs=3, verbose=0
    )
    trained = from_bytes(plan.workspace.read(result.model_file))
    same_weights(trained, model, 1e-5)
    assert int(trained.optimizer.iterations.numpy()) == 3 * len(joined)
    assert result.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-1)


def test_accumulation_goes_on_where_a_checkpoint_stands(tmp_path: Path) -> None:
    options = {"batch_size": 4, "epochs": 2, "gradient_accumulation": 2, "checkpoint_steps": 4}
    model = a_model(optimizer=keras.optimizers.Adam(0.01))
    whole, expected = run(a_plan(tmp_path / "whole", model, **options))
    broken = a_plan(tmp_path / "broken", model, callbacks=[Crash(1, 6)], **options)
    with pytest.raises(ZeroDivisionError):
        run(broken)
    start, content = latest(broken.checkpoints) or pytest.fail("no checkpoint")
    assert (start.epoch, start.step) == (1, 4)
    broken.workspace.write("start.keras", content)
    again, trained = run(
        replace(broken, initial_model="start.keras", start=start, attempt=2, callbacks=cloudpickle.dumps([]))
    )
    same_weights(trained, expected, 1e-6)
    same_history(again.history, whole.history)


def test_float16_on_the_wire_costs_little_accuracy(tmp_path: Path) -> None:
    model = a_model(lambda: keras.layers.Dense(6, activation="tanh"))
    weights = []
    for name in ("none", "fp16"):
        plan = a_plan(tmp_path / name, model, compression=name)
        result = on_ranks(2, lambda rank, plan=plan: train(plan, rank, lambda content: None).result)[0]
        weights.append(from_bytes(plan.workspace.read(result.model_file)))
    same_weights(*weights, tolerance=5e-3)
    differences = [np.abs(a - b).max() for a, b in zip(*(m.get_weights() for m in weights), strict=True)]
    assert max(differences) > 0


class Rates(keras.callbacks.Callback):
    """Notes the learning rate of each step."""

    seen: ClassVar[list[float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(float(self.model.optimizer.learning_rate.numpy()))


def test_the_learning_rate_warms_up_step_by_step_and_then_stays(tmp_path: Path) -> None:
    rate = LearningRate(target=0.4, first=0.1, warmup_epochs=1.5)
    model = a_model(optimizer=keras.optimizers.SGD(0.4))
    Rates.seen.clear()
    plan = a_plan(tmp_path, model, batch_size=13, epochs=2, learning_rate=rate)  # four steps
    # Callbacks are copied by pickle, classes of this module by name.
    run(replace(plan, callbacks=cloudpickle.dumps([Rates()])))
    assert Rates.seen == pytest.approx([0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.4, 0.4])


def test_after_the_warm_up_a_resumed_training_keeps_its_own_rate(tmp_path: Path) -> None:
    rate = LearningRate(target=0.4, first=0.1, warmup_epochs=1.0)
    plan = a_plan(tmp_path, a_model(optimizer=keras.optimizers.SGD(0.02)), epochs=3, learning_rate=rate)
    start = Checkpoint(epoch=2, step=0, workers=1, attempt=1, seeds=[])
    _, trained = run(replace(plan, start=start))
    assert float(trained.optimizer.learning_rate) == pytest.approx(0.02)


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("together", [None, 8], ids=["batchSize", "globalBatchSize"])
def test_kept_rows_are_the_same_rows_and_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, together: int | None
) -> None:
    model = a_model()
    options = {"shuffle": True, "epochs": 4, "global_batch_size": together}
    read_anew, expected = run(a_plan(tmp_path / "anew", model, HELD_OUT, **options))
    plan = a_plan(tmp_path / "kept", model, HELD_OUT, cache_data=where, **options)
    gone = False

    class RemoveFiles(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            nonlocal gone
            if epoch == 1:
                plan.dataset.store.delete()
                gone = True

    monkeypatch.setattr(cloudpickle, "loads", lambda content: [RemoveFiles()] if content == b"removing" else {})
    kept, trained = run(replace(plan, callbacks=b"removing"))
    assert gone
    same_weights(trained, expected, 0)
    assert kept.history == read_anew.history


SLOWLY_READ: list[int] = []


def read(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[list[np.ndarray]]:
    """A reader that holds training up."""
    for segment, arrays in zip(segments, petastorm.read(dataset, segments), strict=True):
        time.sleep(1.1)
        SLOWLY_READ.append(segment.block.block_id)
        yield arrays


@pytest.mark.parametrize(("cache", "epochs"), [("auto", 9), ("none", 3)])
def test_rows_that_training_waits_for_are_kept_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, epochs: int
) -> None:
    monkeypatch.setitem(READERS, "slow", __name__)
    SLOWLY_READ.clear()
    model = a_model()
    told: list[TrainReport] = []
    plan = a_plan(tmp_path, model, reader="slow", epochs=epochs, cache_data=cache)
    _, trained = run(plan, told)
    said = [one.text for one in told if isinstance(one, WarningReport) and "cacheData='auto'" in one.text]
    if cache == "none":
        assert len(SLOWLY_READ) == epochs  # nothing is read ahead beyond the last epoch
        assert not said
    else:
        # The one block is read ahead for some epochs when the first of them ends.
        assert len(SLOWLY_READ) <= epochs - 3
        assert len(said) == 1
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    same_weights(trained, model, 1e-6)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_rows_that_do_not_fit_are_refused_before_training(tmp_path: Path, where: str) -> None:
    plan = a_plan(tmp_path, a_model(), cache_data=where)
    huge = replace(plan, dataset=replace(plan.dataset, bytes=1 << 60))
    with pytest.raises(ClusterError, match=rf"don't fit into cacheData='{where}'.*GB for each of 1 ranks"):
        run(huge)


@pytest.mark.parametrize(("batch_size", "epochs"), [(8, 1), (1, 2)])
def test_a_profile_is_written_to_the_workspace(tmp_path: Path, batch_size: int, epochs: int) -> None:
    plan = a_plan(tmp_path, a_model(), profile=True, batch_size=batch_size, epochs=epochs)
    run(plan)
    # A protocol buffer, with the names of the operations that ran.
    assert b"MatMul" in plan.workspace.read(PROFILE)


# --- augmentation ------------------------------------------------------------------------------------------------


class Doubled(keras.layers.Layer):
    """Doubles in training, with noise that is drawn anew in each step."""

    def __init__(self, noise: float = 0.0, **others: Any) -> None:
        super().__init__(**others)
        self.amount = noise
        self.noise = keras.layers.GaussianNoise(noise, seed=1)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.noise(inputs * 2.0, training=training) if training else inputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "noise": self.amount}


def augmenting(plan: TrainPlan, layers: Any) -> TrainPlan:
    return replace(plan, augment=cloudpickle.dumps(layers), custom_objects=cloudpickle.dumps({"Doubled": Doubled}))


@pytest.mark.parametrize("size", [1, 2])
def test_features_are_changed_in_training_alone(tmp_path: Path, size: int) -> None:
    # 40 rows: 5 steps, of which the second rank's last has fewer rows, or none.
    plan = augmenting(a_plan(tmp_path, a_model(), HELD_OUT, batch_size=8 // size, epochs=2), Doubled())
    result = on_ranks(size, lambda rank: train(plan, rank, lambda content: None).result)[0]
    trained = from_bytes(plan.workspace.read(result.model_file))
    if size == 1:
        model = a_model()
        model.fit(X[~HELD_OUT] * 2, Y[~HELD_OUT], batch_size=8, epochs=2, shuffle=False, verbose=0)
        same_weights(trained, model, 1e-6)
    # Validation saw the rows as they are.
    expected = trained.evaluate(X[HELD_OUT], Y[HELD_OUT], verbose=0, return_dict=True)
    assert result.history["val_loss"][-1] == pytest.approx(expected["loss"], rel=1e-5)


def test_each_rank_and_each_step_draws_its_own_numbers(tmp_path: Path) -> None:
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def note(rank: Any) -> None:
        model = a_model()
        layer = Doubled(noise=1.0)
        model.train_step = lambda data: seen[rank.world.rank].append(np.asarray(data[0]))
        augment_features(model, layer, rank.world.rank)
        for _ in range(2):
            model.train_step((np.zeros((4, 3), np.float32), None))

    on_ranks(2, note)
    drawn = {array.tobytes() for arrays in seen.values() for array in arrays}
    assert len(drawn) == 4


def test_only_the_inputs_that_are_named_are_changed() -> None:
    model = a_model()
    given = {"one": np.ones((2, 3), np.float32), "two": np.ones((2, 3), np.float32)}
    model.train_step = lambda data: data
    augment_features(model, {"two": Doubled()}, rank=0)
    features, label = model.train_step((given, "label"))
    assert (np.asarray(features["one"]) == 1).all()
    assert (np.asarray(features["two"]) == 2).all()
    assert label == "label"


HIDDEN: dict[str, list[Callable[[], Any]]] = {
    "dense": [lambda: keras.layers.Dense(6, activation="relu", kernel_regularizer="l2")],
    "statistics": [keras.layers.BatchNormalization, lambda: keras.layers.ActivityRegularization(0.1)],
}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_xla_compiles_trains_the_same(tmp_path: Path, hidden: str, size: int) -> None:
    """Among three ranks are some without rows in the last step."""
    model = a_model(*HIDDEN[hidden])
    plans = [a_plan(tmp_path / str(jit), model, jit_compile=jit, batch_size=4) for jit in (False, True)]

    def ranks_training(plan: TrainPlan, rank: Together) -> TrainResult:
        return train(plan, rank, lambda content: None).result

    plain, compiled = (on_ranks(size, functools.partial(ranks_training, plan))[0] for plan in plans)
    models = [from_bytes(plan.workspace.read(plain.model_file)) for plan in plans]
    same_weights(models[1], models[0], 1e-5)
    same_history(compiled.history, plain.history)


def test_sparse_gradients_come_out_of_a_compiled_step(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Embedding(20, 4), keras.layers.Flatten(), keras.layers.Dense(CLASSES, activation="softmax")]
    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Rescaling(0.0, 1.0), *layers])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    for together in (1, 2):
        plans = [
            a_plan(tmp_path / f"{jit}-{together}", model, jit_compile=jit, gradient_accumulation=together)
            for jit in (False, True)
        ]
        plain, compiled = (run(plan)[1] for plan in plans)
        same_weights(compiled, plain, 1e-6)


@keras.saving.register_keras_serializable("tests")
class Written(keras.layers.Layer):
    """Numbers that have been texts in between, which XLA knows nothing of."""

    def call(self, inputs: Any) -> Any:
        return tf.strings.to_number(tf.strings.as_string(inputs))


@pytest.mark.parametrize("jit", [False, True])
def test_it_is_xla_that_compiles(tmp_path: Path, jit: bool) -> None:
    custom = cloudpickle.dumps({"tests>Written": Written})
    plan = a_plan(tmp_path, a_model(Written), custom_objects=custom, jit_compile=jit, epochs=1)
    with pytest.raises(tf.errors.OpError, match=r"(?i)xla") if jit else contextlib.nullcontext():
        run(plan)


def test_features_are_augmented_before_they_are_compiled(tmp_path: Path) -> None:
    """Not every layer that augments is known to XLA."""
    custom = cloudpickle.dumps({"tests>Written": Written})
    plan = a_plan(tmp_path, a_model(), custom_objects=custom, jit_compile=True, epochs=1)
    run(augmenting(plan, Written()))


# --- the user's own functions and optimizers -----------------------------------------------------------------------


def powered(exponent: float) -> Callable[[Any], Any]:
    def act(x: Any) -> Any:
        return keras.ops.sign(x) * keras.ops.abs(x) ** exponent

    return act


def test_functions_of_one_name_stay_apart_in_a_resumed_training(tmp_path: Path) -> None:
    hidden = [functools.partial(keras.layers.Dense, 4, activation=powered(by)) for by in (1.5, 1.25)]
    model = a_model(*hidden, lambda: keras.layers.Lambda(lambda x: x * 0.5))
    objects = custom_objects(model)
    with keras.saving.custom_object_scope(objects):
        plan = a_plan(
            tmp_path, model, custom_objects=pickle_for_ranks("objects", objects, reduce=keras_reducer()).content
        )
    solo_rank = SoloCollectives(solo())
    with pytest.raises(ZeroDivisionError):
        train(replace(plan, callbacks=cloudpickle.dumps([Crash(2, 0)])), solo_rank, lambda content: None)
    start, content = latest(plan.checkpoints) or pytest.fail("no checkpoint")
    plan.workspace.write("start.keras", content)
    again = replace(plan, initial_model="start.keras", start=start, attempt=2)
    result = train(again, solo_rank, lambda content: None).result
    trained = from_bytes(plan.workspace.read(result.model_file), cloudpickle.loads(plan.custom_objects))
    expected = model.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    same_weights(trained, model, 1e-5)
    same_history(result.history, expected.history)


@pytest.mark.parametrize("how", ["eager", "accumulating"])
def test_two_ranks_train_as_keras_does_on_the_batches_joined(tmp_path: Path, how: str) -> None:
    together = {"gradient_accumulation_steps": 3} if how == "accumulating" else {}
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, **together)
    model = a_model()
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=how == "eager")
    plan = a_plan(tmp_path, model, batch_size=4, epochs=3)
    dealt = shards(plan.dataset.part(validation=False), 2, 4, None)
    result = on_ranks(2, lambda rank: train(plan, rank, lambda content: None).result)[0]
    starts = np.cumsum([0, *(shard.rows for shard in dealt)])
    parts = [np.arange(start, stop) for start, stop in itertools.pairwise(starts)]
    joined = [np.concatenate([part[step * 4 : (step + 1) * 4] for part in parts]) for step in range(dealt[0].steps)]
    batches = ((X[rows], Y[rows]) for rows in itertools.cycle(joined))
    expected = model.fit(batches, steps_per_epoch=len(joined), epochs=3, verbose=0)
    trained = from_bytes(plan.workspace.read(result.model_file))
    same_weights(trained, model, 1e-5)
    assert result.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-5)


def test_a_metric_with_a_value_for_each_class_trains_resumes_and_is_no_monitor(tmp_path: Path) -> None:
    def plan(place: str, **options: Any) -> TrainPlan:
        model = a_model()
        model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", metrics=[OfEachClass()])
        custom = cloudpickle.dumps({"OfEachClass": OfEachClass})
        return a_plan(tmp_path / place, model, HELD_OUT, custom_objects=custom, **options)

    told: list[TrainReport] = []
    result, trained = run(plan("whole", epochs=2), told)
    greatest = trained.predict(X[~HELD_OUT], verbose=0).max(axis=0)
    np.testing.assert_allclose(result.history["of_each_class"], [greatest, greatest], rtol=1e-5)
    assert [len(one) for one in result.history["val_of_each_class"]] == [CLASSES, CLASSES]
    logs = [one.logs for one in told if isinstance(one, EpochReport)]
    assert [one["of_each_class"] for one in logs] == result.history["of_each_class"]

    first = plan("parts", epochs=1, checkpoint_steps=2)
    run(first)
    found = latest(first.checkpoints)
    assert found is not None
    first.workspace.write("start.keras", found[1])
    resumed, _ = run(changed(first, epochs=2, start=found[0], initial_model="start.keras", attempt=2))
    np.testing.assert_allclose(resumed.history["of_each_class"], result.history["of_each_class"], rtol=1e-5)

    with pytest.raises(OptionError, match=r"monitor='of_each_class': it has a value for each class(.|\n)*3 values"):
        run(plan("best", epochs=1, monitor="of_each_class", restore_best_weights=True))
