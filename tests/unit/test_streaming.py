"""Stream training without Spark: the drift detector's guarantees, the balanced buffer, the committed state, options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import models
import numpy as np
import pytest
from pyspark.sql.types import DoubleType, StructField, StructType

from spark_dl import KerasClassifier, KerasEstimator, KerasModel
from spark_dl.data.column import Column
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import DataError, OptionError, StoreError
from spark_dl.io.store import Store
from spark_dl.score.heads import Classification, Regression, SeveralOutputs
from spark_dl.streaming import Adwin, Champion, ReplayBuffer, StreamTrainer
from spark_dl.streaming.champion import beats, check_metric, comparable_content, metric_of_champion
from spark_dl.streaming.replay import Sample
from spark_dl.streaming.rows import check_columns, check_fed, fed_columns, prediction_errors
from spark_dl.streaming.session import Session, load_sample
from spark_dl.streaming.state import StreamState, commit, read_file, read_state


def bernoulli(rate: float, values: int, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(values) < rate).astype(float).tolist()


def test_adwin_rarely_finds_a_change_where_there_is_none() -> None:
    """At most a share delta of the comparisons, as theorem 3.1 of the paper bounds it."""
    seeds, values, delta = 12, 2048, 0.01
    cuts = 0
    for seed in range(seeds):
        window = Adwin(delta=delta)
        cuts += sum(window.update(part) for part in np.split(np.array(bernoulli(0.3, values, seed)), values // 32))
    assert cuts <= delta * seeds * values / 32


def test_adwin_finds_a_change_and_forgets_what_was_before_it() -> None:
    window = Adwin()
    assert not window.update(bernoulli(0.2, 1000, 1))
    assert window.width == 1000
    restored = window.restored(json.loads(json.dumps(window.state())))
    for one in (window, restored):
        assert one.update(bernoulli(0.8, 500, 2))
        assert one.width < 700
        assert abs(one.mean - 0.8) < 0.1
    assert restored.state() == window.state()


def test_the_window_of_adwin_is_small_and_exact() -> None:
    window = Adwin(delta=1e-9)
    values = np.random.default_rng(3).random(5000)
    window.update(values)
    assert window.width == 5000
    assert window.mean == pytest.approx(values.mean())
    assert sum(map(len, window.state()["rows"])) <= 5 * 14


def test_a_full_buffer_is_balanced_and_each_row_of_a_class_is_as_likely() -> None:
    random = np.random.default_rng(0)
    classes = (random.random(6000) < 0.05).astype(np.int64)
    kept = np.zeros(6000)
    for seed in range(20):
        sample, random = Sample(200), np.random.default_rng(seed)
        for start in range(0, 6000, 1000):
            part = slice(start, start + 1000)
            sample.add([np.arange(6000)[part]], classes[part], random)
        assert np.bincount(sample.classes).tolist() == [100, 100]
        assert np.array_equal(classes[sample.arrays[0]], sample.classes)
        assert len(set(sample.arrays[0])) == 200
        kept[sample.arrays[0]] += 1
    thirds = [kept[start : start + 2000][classes[start : start + 2000] == 0].sum() for start in (0, 2000, 4000)]
    assert sum(thirds) == 2000
    assert all(abs(one - 2000 / 3) < 100 for one in thirds)  # four standard deviations


def test_a_buffer_survives_as_bytes() -> None:
    texts = np.array([b"one", b"", b"three"], object)
    sample = Sample(10)
    sample.add([np.arange(6.0).reshape(3, 2), texts], np.array([0, 1, 1]), np.random.default_rng(0))
    loaded = Sample.of_bytes(10, sample.to_bytes())
    assert [part.tolist() for part in loaded.arrays] == [part.tolist() for part in sample.arrays]
    assert (loaded.seen, loaded.full, loaded.classes.tolist()) == (sample.seen, sample.full, [0, 1, 1])
    assert len(Sample.of_bytes(2, sample.to_bytes())) == 2


def test_a_smaller_buffer_stays_balanced() -> None:
    sample = Sample(100)
    classes = np.repeat([0, 1, 2], [500, 3, 500])
    sample.add([np.arange(1003)], classes, np.random.default_rng(0))
    smaller = Sample.of_bytes(20, sample.to_bytes())
    assert np.bincount(smaller.classes).tolist() == [9, 3, 8]
    assert np.array_equal(classes[smaller.arrays[0]], smaller.classes)
    assert smaller.full == {0, 2}


def test_rows_of_before_and_after_a_buffer_is_enlarged_are_as_likely() -> None:
    kept, random = np.zeros(4), np.random.default_rng(0)
    for _ in range(20):
        sample = Sample(100)
        sample.add([np.arange(1000)], np.zeros(1000, np.int64), random)
        larger = Sample.of_bytes(150, sample.to_bytes())
        larger.add([np.arange(1000, 2000)], np.zeros(1000, np.int64), random)
        assert len(larger) == 150
        kept += np.bincount(larger.arrays[0] // 500, minlength=4)
    assert np.abs(kept - 20 * 150 / 4).max() < 4 * np.sqrt(750 * 0.75)


def test_a_commit_replaces_the_state_as_a_whole(tmp_path: Path) -> None:
    store = Store.at(str(tmp_path / "state"))
    store.make()
    state = read_state(store)
    assert (state.batch, read_file(store, state, "model")) == (-1, None)
    state.batch = 0
    commit(store, state, {"model": b"one", "champion": b"first"})
    store.write("model-1-crashed", b"a crash before the commit")
    assert read_file(store, read_state(store), "model") == b"one"
    state = read_state(store)
    state.batch = 1
    commit(store, state, {"model": b"two"})
    found = read_state(store)
    assert (found.batch, read_file(store, found, "model"), read_file(store, found, "champion")) == (1, b"two", b"first")
    assert len(store.names()) == 3
    store.write("state.json", b'{"format": 9}')
    with pytest.raises(StoreError, match=r"state in .* can't be read"):
        read_state(store)


def test_the_champion_is_beaten_by_the_better_mean_over_rows() -> None:
    contest = [[100.0, 0.5, 0.4], [300.0, 0.3, 0.4]]
    assert beats(contest, larger_is_better=False)
    assert not beats(contest, larger_is_better=True)
    assert not beats([[1.0, 0.4, 0.4]], larger_is_better=False)
    assert not beats([[1.0, float("nan"), 0.4]], larger_is_better=False)
    with pytest.raises(OptionError, match="Did you mean 'accuracy'"):
        check_metric("acuracy", {"accuracy": 0.5, "loss": 1.0}, True)
    assert metric_of_champion("loss", {"loss": 1.0}, "3") == 1.0
    with pytest.raises(OptionError, match=r"version 3 has no metric 'accuracy'"):
        metric_of_champion("accuracy", {"loss": 1.0}, "3")


def test_a_version_that_cannot_be_tested_is_no_champion() -> None:
    compiled = models.classifier()
    compiled.compile("sgd", "sparse_categorical_crossentropy")
    usable, uncompiled = KerasModel.fromKeras(compiled), KerasModel.fromKeras(models.classifier())
    assert comparable_content(usable, usable._inputs, "3") == usable._fitted_content()
    for found, inputs, message in (
        (uncompiled, usable._inputs, "a model that isn't compiled"),
        (usable, KerasModel.fromKeras(models.classifier(width=5))._inputs, r"shapes \[\(5,\)\].*shapes \[\(4,\)\]"),
        ("a Pipeline", usable._inputs, "a str"),
    ):
        with pytest.raises(OptionError, match=rf"(?s)names version 3, which can't be tested.*{message}"):
            comparable_content(found, inputs, "3")


def test_batches_count_by_query_and_calls_outside_of_one_by_themselves() -> None:
    state = StreamState(query="first", batch=7, run="run", metrics={"loss": 1.0})
    state.enter("")
    assert (state.batch, state.run, state.metrics) == (-1, "", {})
    state.batch = 0
    state.enter("first")
    assert (state.batch, state.run) == (7, "run")
    state.enter("")
    assert state.batch == 0


def test_columns_that_have_changed_are_named() -> None:
    from pyspark.sql.types import DoubleType, LongType, StructType

    before = StructType().add("a", LongType()).add("b", DoubleType()).jsonValue()
    check_columns(StructType().add("b", DoubleType()).add("a", LongType()).add("c", LongType()), before, "there")
    with pytest.raises(DataError, match=r"have changed.*'a' was bigint and is double; 'b' was double and is missing"):
        check_columns(StructType().add("a", DoubleType()), before, "there")
    twice = StructType().add("a", LongType()).add("b", DoubleType()).add("b", DoubleType())
    with pytest.raises(DataError, match="'b' was double and is double and double, twice"):
        check_columns(twice, before, "there")


def test_columns_that_feed_other_positions_are_named() -> None:
    one, other = Column("a", "number", "float32", 1), Column("b", "number", "float32", 1)
    fed = fed_columns(conversion_of((one, other)))
    check_fed(fed, [], True, "there")  # a state of a release that didn't keep them
    check_fed(fed, json.loads(json.dumps(fed)), True, "there")
    with pytest.raises(DataError, match=r"in another order.*a, b; .*there.*Received: b, a;"):
        check_fed(fed_columns(conversion_of((other, one))), fed, False, "there")
    weighted = fed_columns(replace(conversion_of((one, other)), weight=Column("w", "number", "float32", 1)))
    check_fed(weighted, fed, False, "there")
    with pytest.raises(DataError, match=r"in another order.*Received: a, b; y; w"):  # the rows kept have no weights
        check_fed(weighted, fed, True, "there")


def conversion_of(columns: tuple[Column, ...]) -> ConversionSpec:
    features = (FeatureSpec(columns, (2,), "float32"),)
    labels = (LabelSpec(Column("y", "number", "float32", 1), (), "float32", None),)
    return ConversionSpec(Store.at("/nowhere"), features, labels)


def test_a_damaged_buffer_is_named(tmp_path: Path) -> None:
    for content in (b"", b"no archive", Sample(3).to_bytes()[:-30]):
        with pytest.raises(StoreError, match=r"replay buffer in .* can't be read"):
            load_sample(3, content, Store.at(str(tmp_path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer": 100}, r"buffer can't be used.*ReplayBuffer"),
        ({"driverRows": 0}, "driverRows can't be used"),
        ({"champion": Champion("fraud")}, r"registered from the query's MLflow run.*tracking"),
        ({"epochs": 2, "validationFraction": 0.1}, r"can't have validationFraction: each batch is tested"),
        ({"balance": "oversample"}, "can't have balance: the replay buffer balances"),
    ],
)
def test_what_a_stream_cannot_have_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    own = {name: value for name, value in settings.items() if name in ("buffer", "driverRows", "champion")}
    others = {name: value for name, value in settings.items() if name not in own}
    with pytest.raises(OptionError, match=message):
        StreamTrainer(KerasClassifier(model=models.classifier(), tracking=None, **others), str(tmp_path), **own)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReplayBuffer(rows=0),
        lambda: ReplayBuffer(ratio=-1),
        lambda: Adwin(delta=0),
        lambda: Champion("name", window=0),
        lambda: Champion(""),
        lambda: StreamTrainer("a model", "/tmp"),
    ],
)
def test_bad_settings_are_refused(make: Any) -> None:
    with pytest.raises(OptionError, match="can't be"):
        make()


def test_a_trainer_stays_in_its_driver(tmp_path: Path) -> None:
    trainer = StreamTrainer(KerasClassifier(model=models.classifier(), tracking=None), str(tmp_path))
    with pytest.raises(OptionError, match="Spark Connect"):
        cloudpickle.dumps(trainer)


def test_a_new_state_is_empty() -> None:
    assert StreamState().files == {}


REGRESSION = Regression()
SEVERAL = SeveralOutputs((("price", 1), ("kind", 3)))
TWO_LABELS = (
    LabelSpec(Column("price", "number", "float32", 1), (), "float32", None, "price"),
    LabelSpec(Column("kind", "number", "int32", 1), (), "int32", 3, "kind"),
)
KINDS = np.array([[0.1, 0.8, 0.1], [0.9, 0.1, 0.0]])


@pytest.mark.parametrize(
    ("head", "labels", "fields", "rows", "expected"),
    [
        (Classification(3, 3, False), TWO_LABELS[1:], {"prediction": [1.0, 2.0]}, [[1, 0]], [0, 1]),
        (Classification(2, 1, False), (), {"prediction": [1.0, 0.0]}, [], None),
        (REGRESSION, TWO_LABELS[:1], {"prediction": [1.0, np.nan]}, [[3.0, 3.0]], [2, 1]),
        (REGRESSION, TWO_LABELS[:1], {}, [[3.0, 3.0]], None),
        (REGRESSION, TWO_LABELS[:1], {"prediction": [[1.0, 2.0], [3.0, 4.0]]}, [[[1.0] * 3] * 2], None),
        (SEVERAL, TWO_LABELS, {"price": [1.0, 2.0], "kind": KINDS}, [[1.0, 4.0], [1, 2]], [0, 1.5]),
        (SEVERAL, TWO_LABELS[:1], {"price": [1.0, 2.0], "kind": KINDS}, [[1.0, 4.0]], None),
    ],
)
def test_the_error_of_a_prediction_is_that_of_its_label(
    head: Any, labels: Any, fields: dict[str, Any], rows: list[Any], expected: list[float] | None
) -> None:
    feature = FeatureSpec((Column("x", "number", "float32", 1),), (1,), "float32")
    conversion = ConversionSpec(Store("memory://"), (feature,), labels)
    given = [np.zeros((2, 1), np.float32), *map(np.array, rows)]
    found = prediction_errors(head, conversion, {name: np.array(field) for name, field in fields.items()}, given)
    assert (found if found is None else found.tolist()) == expected


def test_a_session_restarts_only_with_the_columns_in_their_order(tmp_path: Path) -> None:
    def opened(*columns: str) -> Session:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        estimator = KerasEstimator(model=model, loss="mse", inputCols=list(columns), labelCol="y", tracking=None)
        schema = StructType([StructField(name, DoubleType()) for name in "aby"])
        return Session.open(estimator, Store.at(str(tmp_path)), schema, None, None)

    opened("a", "b").commit()
    opened("a", "b")
    with pytest.raises(DataError, match=r"other columns to the model than before, or in another order"):
        opened("b", "a")
