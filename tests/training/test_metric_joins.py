"""Metrics of the user's own: their states join over ranks by the rule that gives what one process would have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from own_metrics import (
    Capped,
    Ever,
    FullBatches,
    Greatest,
    InPython,
    Last,
    Least,
    Merged,
    OfEachClass,
    Range,
    ResetToZero,
    RunningMean,
    Several,
    Smoothed,
    Smoothing,
    Subclass,
    TakesOtherThings,
    of_rows,
    rooted,
)
from rows import Together, on_ranks

from spark_dl.log_values import plain_history, scalar_history, scalars
from spark_dl.train.callbacks.sync import SyncMetrics
from spark_dl.train.metrics.joins import MetricJoin, is_summed, metric_joins, user_metrics
from spark_dl.train.model.examples import Example

LIKE = [Example("output", (3,), "float32", (3,))]


def still(*metrics: Any) -> keras.Model:
    """A model that doesn't learn, so that its metrics depend on the rows alone."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.0), "categorical_crossentropy", metrics=list(metrics), jit_compile=False)
    return model


def join_of(metric: Any) -> MetricJoin:
    (join,) = metric_joins(still(metric), lambda: LIKE)
    return join


@pytest.mark.parametrize(
    ("make", "rules"),
    [
        (Greatest, ("max",)),
        (lambda: Greatest, ("max",)),
        (lambda: Greatest(least=True), ("min",)),
        (Smoothed, ("sum", "sum")),
        (ResetToZero, ("sum", "sum")),
        (Least, ("min",)),
        (Range, ("min", "max")),
        (OfEachClass, ("max",)),
        (Several, ("sum", "sum", "max")),
        (Ever, ("max",)),
        (RunningMean, ("sum", "")),
        (Merged, ("merge_state",)),
        (Last, ("",)),
        (Smoothing, ("",)),
    ],
)
def test_the_rule_of_each_state_is_found(make: Callable[[], Any], rules: tuple[str, ...]) -> None:
    join = join_of(make())
    assert join.rules == rules
    assert join.joins is ("" not in rules)
    assert (join.tried, join.outside) == (True, False)


class GreatestWeight(Greatest):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        greatest = 0.0 if sample_weight is None else ops.max(sample_weight)
        self.kept.assign(ops.maximum(self.kept, greatest))


class WithoutWeights(Greatest):
    def update_state(self, y_true: Any, y_pred: Any) -> None:
        super().update_state(y_true, y_pred)


def test_weighted_metrics_are_tried_with_weights() -> None:
    model = still()
    metrics = [GreatestWeight(), WithoutWeights(name="without")]
    model.compile("sgd", "mse", weighted_metrics=metrics, metrics=[GreatestWeight(name="unweighted")])
    rules = {join.thing.name: join.rules for join in metric_joins(model, lambda: LIKE, weighted=True)}
    assert rules["greatest"] == rules["without"] == ("max",)


@pytest.mark.parametrize("limit", [10.0, 1e3, 1e5, 2e6])
@pytest.mark.parametrize("how", ["cap", "remainder", "first"])
def test_sums_that_change_after_many_rows_are_found(limit: float, how: str) -> None:
    assert join_of(Capped(limit=limit, how=how)).rules == ("",)


def test_a_metric_that_no_batch_changes_is_not_tried() -> None:
    join = join_of(FullBatches(rows=700))
    assert (join.tried, join.joins) == (False, True)


def test_metrics_that_skip_small_batches_are_said() -> None:
    join = join_of(FullBatches())
    assert (join.rules, join.per_batch) == (("max",), True)


def test_what_is_kept_outside_variables_is_found() -> None:
    join = join_of(InPython())
    assert join.outside
    assert not join.joins


def test_a_metric_that_can_not_be_tried_is_taken_for_a_sum() -> None:
    join = join_of(TakesOtherThings())
    assert not join.tried
    assert join.joins


@pytest.mark.parametrize(("function", "expected"), [(rooted, True), (of_rows, False)])
def test_a_function_that_joins_a_batch_is_told_from_one_of_rows(function: Any, expected: bool) -> None:
    assert join_of(function).per_batch is expected


def test_all_metrics_of_keras_are_sums_and_not_tried() -> None:
    made = [
        kind
        for kind in vars(keras.metrics).values()
        if isinstance(kind, type) and issubclass(kind, keras.metrics.Metric)
    ]
    arguments = {
        "num_classes": 3,
        "target_class_ids": [0],
        "recall": 0.5,
        "precision": 0.5,
        "fn": keras.losses.mean_squared_error,
    }
    arguments |= {"specificity": 0.5, "sensitivity": 0.5}
    for kind in made:
        names = kind.__init__.__code__.co_varnames[1 : kind.__init__.__code__.co_argcount]  # type: ignore[misc]
        required = len(names) - len(kind.__init__.__defaults__ or ())  # type: ignore[misc]
        assert is_summed(kind(**{name: arguments[name] for name in names[:required]})), kind
    assert metric_joins(still("accuracy", "mae", keras.metrics.AUC(), Subclass()), lambda: LIKE) == []


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 4)).astype("float32"), np.eye(3)[random.integers(0, 3, count)].astype("float32")


# Of one model: what is joined depends on no other metric.
TOGETHER: dict[str, Callable[[], Any]] = {
    "f1": lambda: keras.metrics.F1Score(average=None, name="f1"),
    "r2": lambda: keras.metrics.R2Score(class_aggregation=None, name="r2"),
    "precision": lambda: keras.metrics.Precision(thresholds=[0.2, 0.4], name="precision"),
    "iou": lambda: keras.metrics.OneHotMeanIoU(3, name="iou"),
    "greatest": Greatest,
    "least": lambda: Greatest(name="least", least=True),
    "smoothed": Smoothed,
    "least_ever": Least,
    "range": Range,
    "reset_to_zero": lambda: ResetToZero(name="reset_to_zero"),
    "of_each_class": OfEachClass,
    "mean_distance": Several,
    "greatest_distance": Several,
    "ever": Ever,
    "merged": lambda: Merged(name="merged"),
    "subclass": lambda: Subclass(name="subclass"),
    "of_rows": lambda: of_rows,
}


@functools.cache
def histories() -> tuple[list[dict[str, list[Any]]], dict[str, list[Any]]]:
    """Three ranks' histories, and that of one process with all their rows: two epochs with validation."""
    sizes = ((9, 4), (2, 7), (5, 1))
    training = [rows(size, rank) for rank, (size, _) in enumerate(sizes)]
    held_out = [rows(size, 10 + rank) for rank, (_, size) in enumerate(sizes)]

    def model() -> keras.Model:
        return still(*[make() for make in dict.fromkeys(TOGETHER.values())])

    models = [model() for _ in sizes]
    joins = metric_joins(models[0], lambda: LIKE)

    def run(rank: Together) -> dict[str, list[Any]]:
        me = rank.world.rank
        own = [replace(join, thing=thing) for join, thing in zip(joins, unknown(models[me]), strict=True)]
        agreement = SyncMetrics(rank, joins=own)
        options = {"batch_size": 20, "epochs": 2, "verbose": 0, "validation_data": held_out[me]}
        return plain_history(models[me].fit(*training[me], callbacks=[agreement], **options).history)

    joined, validation_data = (
        tuple(np.concatenate(parts) for parts in zip(*given, strict=True)) for given in (training, held_out)
    )
    alone = model().fit(*joined, batch_size=20, epochs=2, verbose=0, validation_data=validation_data)
    return on_ranks(3, run), plain_history(alone.history)


def unknown(model: keras.Model) -> list[Any]:
    return [thing for thing in user_metrics(model) if not is_summed(thing)]


@pytest.mark.parametrize("name", TOGETHER)
def test_ranks_have_the_metric_of_one_process(name: str) -> None:
    ranks, alone = histories()
    for history in ranks:
        assert history.keys() == alone.keys()
        for key in (name, f"val_{name}"):
            np.testing.assert_allclose(history[key], alone[key], rtol=1e-5, err_msg=key)


def test_metric_states_within_an_epoch_go_on_as_one() -> None:
    """What a checkpoint keeps, put into one rank, and the rest of the rows: the same as without it."""
    parts = [rows(4, 1), rows(3, 2)]
    models = [still(Greatest(), Smoothed()) for _ in parts]
    joins = metric_joins(models[0], lambda: LIKE)

    def run(rank: Together) -> list[list[float]]:
        me = rank.world.rank
        agreement = SyncMetrics(rank, joins=metric_joins(models[me], lambda: LIKE))
        agreement.set_model(models[me])
        agreement.on_train_begin()
        agreement.on_epoch_begin(0)
        models[me].test_on_batch(*parts[me])
        return agreement.within_epoch()

    whole = still(Greatest(), Smoothed())
    whole.test_on_batch(*(np.concatenate(both) for both in zip(*parts, strict=True)))
    expected = [np.asarray(variable).ravel().tolist() for variable in whole.metrics_variables]
    assert len(joins) == 2
    for states in on_ranks(2, run):
        for mine, alone in zip(states, expected, strict=True):
            np.testing.assert_allclose(mine, alone, rtol=1e-5)


# --- values ----------------------------------------------------------------------------------------------------


def test_values_of_each_class_are_lists_in_histories_and_numbers_elsewhere() -> None:
    history = plain_history({"loss": [np.float32(1)], "f1_score": [np.array([0.25, 0.5])], "grid": [np.eye(2)]})
    assert history == {"loss": [1.0], "f1_score": [[0.25, 0.5]], "grid": [[[1.0, 0.0], [0.0, 1.0]]]}
    numbers = scalar_history(history)
    assert numbers["f1_score_0"] == [0.25]
    assert numbers["grid_1_0"] == [0.0]
    assert len(numbers) == 1 + 2 + 4


def test_names_that_keras_has_given_are_not_taken() -> None:
    assert scalars({"f1": [0.1, 0.2], "f1_1": 0.5}) == {"f1_0": 0.1, "f1/1": 0.2, "f1_1": 0.5}
