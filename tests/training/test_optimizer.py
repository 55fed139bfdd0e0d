"""The distributed optimizer: ranks' gradients become the gradient of the global batch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from rows import Together, on_ranks

from spark_dl.collectives import SoloCollectives
from spark_dl.train.optimizer import GradientReducer, distribute
from spark_dl.train.speed import StepClock
from spark_dl.world import solo


def reduced(ranks_gradients: list[list[Any]], rows: list[int], fp16: bool = False) -> list[list[Any]]:
    """What each rank gets for its gradients."""

    def run(rank: Together) -> list[Any]:
        reducer = GradientReducer(rank, StepClock(), fp16=fp16)
        reducer.rows = tf.constant(float(rows[rank.world.rank]))
        return reducer.reduce(ranks_gradients[rank.world.rank], "gradients")

    return on_ranks(len(rows), run)


def test_the_mean_over_ranks_is_the_gradient_of_the_joined_batch() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(10, 3)).astype("float32"), random.normal(size=(10, 1)).astype("float32")
    weight = tf.Variable(random.normal(size=(3, 1)).astype("float32"))
    bias = tf.Variable([0.5])

    def gradients(rows: slice) -> list[Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x[rows] @ weight + bias - y[rows]) ** 2)
        return tape.gradient(loss, [weight, bias])

    joined = gradients(slice(0, 10))
    parts = [gradients(slice(0, 7)), gradients(slice(7, 9)), gradients(slice(9, 10))]
    for got in reduced(parts, [7, 2, 1]):
        for mine, expected in zip(got, joined, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_gradients_keep_their_dtypes_shapes_and_places(dtype: str) -> None:
    first = [tf.ones((2, 2), dtype), tf.constant([1.0, 2.0]), tf.constant(3.0, dtype), tf.zeros((0,))]
    second = [5 * tf.ones((2, 2), dtype), tf.constant([5.0, 6.0]), tf.constant(7.0, dtype), tf.zeros((0,))]
    for got in reduced([first, second], [1, 3]):
        assert [g.dtype.name for g in got] == [dtype, "float32", dtype, "float32"]
        assert [tuple(g.shape) for g in got] == [(2, 2), (2,), (), (0,)]
        assert tf.cast(got[0], tf.float32).numpy().tolist() == [[4, 4], [4, 4]]
        assert got[1].numpy().tolist() == [4, 5]
        assert float(got[2]) == 6


def test_all_gradients_of_another_dtype_than_float32() -> None:
    for (got,) in reduced([[tf.constant([2.0], tf.float64)], [tf.constant([4.0], tf.float64)]], [1, 1]):
        assert got.numpy().tolist() == [3]


@pytest.mark.parametrize("size", [1e-35, 1e-12, 1e-7, 1.0, 7e4, 1e8, 1e36])
def test_gradients_of_any_size_travel_as_float16(size: float) -> None:
    random = np.random.default_rng(0)
    # Variables of very different sizes; ranks whose gradients cancel out, or of which one alone has any.
    parts = [[size * random.normal(size=50), random.normal(size=(3, 2)), np.array(size)] for _ in range(3)]
    parts[1][0][:10] = -parts[0][0][:10]
    parts[2][2] = np.zeros(())
    rows = [8, 8, 3]
    gradients = [[tf.constant(part, tf.float32) for part in own] for own in parts]
    results = reduced(gradients, rows, fp16=True)
    for index in range(3):
        expected = sum(np.asarray(own[index]) * n for own, n in zip(parts, rows, strict=True)) / sum(rows)
        scale = np.abs(expected).max()
        for got in results:
            assert got[index].dtype == tf.float32
            np.testing.assert_allclose(got[index] / scale, expected / scale, atol=2e-3)
            np.testing.assert_array_equal(got[index], results[0][index])


def test_small_parts_of_a_gradient_are_not_lost_beside_great_ones() -> None:
    for (got,) in reduced([[tf.constant([3e4, 3e-4])], [tf.constant([1e4, 1e-4])]], [2, 2], fp16=True):
        np.testing.assert_allclose(got, [2e4, 2e-4], rtol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_none_for_all_ranks_as_float16_too(bad: float) -> None:
    good, broken = tf.constant([1.0, 2.0]), tf.constant([bad, 2.0])
    for got in reduced([[good, good], [good, broken]], [2, 2], fp16=True):
        assert got[0].numpy().tolist() == [1, 2]
        assert not np.isfinite(got[1][0])
    for got in reduced([[good], [broken]], [2, 0], fp16=True):
        assert got[0].numpy().tolist() == [1, 2]


@pytest.mark.parametrize("fp16", [False, True])
def test_gradients_of_float16_variables_survive_large_batches(fp16: bool) -> None:
    gradients = [[tf.constant([100.0, 0.001], tf.float16)], [tf.constant([300.0, 0.003], tf.float16)]]
    for (got,) in reduced(gradients, [4096, 4096], fp16=fp16):
        assert got.dtype == tf.float16
        np.testing.assert_allclose(tf.cast(got, tf.float32), [200, 0.002], rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_added_up_gradients_are_those_of_the_joined_batch_whatever_their_dtype(dtype: str) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    reducer = GradientReducer(SoloCollectives(solo()), StepClock(), accumulate=2, steps=4)
    distribute(model, reducer)
    variable = keras.Variable([0.0], dtype=dtype)
    for value, rows in ((100.0, 3000), (200.0, 1000)):
        reducer.begin(tf.constant(rows))
        model.optimizer.apply([tf.constant([value], dtype)], [variable])
    assert float(variable[0]) == pytest.approx(-125, rel=1e-3)


def test_no_gradient_stays_none() -> None:
    for got in reduced([[None, tf.constant([1.0])], [None, tf.constant([3.0])]], [1, 1]):
        assert got[0] is None
        assert got[1].numpy().tolist() == [2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_rank_without_rows_adds_nothing_whatever_its_gradients(bad: float) -> None:
    slices = tf.IndexedSlices(tf.constant([[bad]]), tf.constant([0]), tf.constant([4, 1]))
    good = tf.IndexedSlices(tf.constant([[3.0]]), tf.constant([2]), tf.constant([4, 1]))
    for dense, sparse in reduced([[tf.constant([1.0, 2.0]), good], [tf.constant([bad, bad]), slices]], [4, 0]):
        assert dense.numpy().tolist() == [1, 2]
        assert tf.convert_to_tensor(sparse).numpy().tolist() == [[0], [0], [3], [0]]


def test_embedding_gradients_stay_sparse_and_are_weighted_by_rows() -> None:
    table = tf.Variable(np.arange(10, dtype="float32").reshape(5, 2))

    def gradient(ids: list[int]) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.reduce_sum(tf.gather(table, ids) ** 2, axis=1))
        return tape.gradient(loss, table)

    expected = tf.convert_to_tensor(gradient([0, 1, 1, 4]))
    for (got,) in reduced([[gradient([0, 1, 1])], [gradient([4])]], [3, 1]):
        assert isinstance(got, tf.IndexedSlices)
        np.testing.assert_allclose(tf.convert_to_tensor(got), expected, rtol=1e-6)


def test_a_wish_to_stop_travels_with_the_gradients() -> None:
    def run(rank: Together) -> float:
        reducer = GradientReducer(rank, StepClock())
        reducer.rows = tf.constant(2.0)
        reducer.wants_stop.assign(float(rank.world.rank == 1))
        reducer.reduce([tf.constant([1.0])], "gradients")
        return float(reducer.stop_votes.numpy())

    assert on_ranks(3, run) == [1, 1, 1]


def test_the_reducer_works_inside_a_tf_function() -> None:
    reducer = GradientReducer(SoloCollectives(solo()), StepClock())

    @tf.function
    def step(gradient: Any, rows: Any) -> Any:
        reducer.rows = rows
        return reducer.reduce([gradient], "gradients")[0]

    for rows in (1.0, 4.0):
        assert step(tf.constant([1.0, 3.0]), tf.constant(rows)).numpy().tolist() == [1, 3]


@pytest.mark.parametrize("clip", [{}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.1}])
def test_ranks_take_the_step_of_one_process_with_the_joined_batch(clip: dict[str, float]) -> None:
    gradients = [[tf.constant([3.0, 0.0])], [tf.constant([0.0, 4.0])]]

    def run(rank: Together) -> list[float]:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9, **clip), "mse")
        reducer = GradientReducer(rank, StepClock())
        reducer.rows = tf.constant([1.0, 3.0][rank.world.rank])
        distribute(model, reducer)
        variable = keras.Variable([1.0, 1.0])
        for _ in range(2):
            model.optimizer.apply(gradients[rank.world.rank], [variable])
        return np.asarray(variable).tolist()

    plain = keras.optimizers.SGD(0.1, momentum=0.9, **clip)
    variable = keras.Variable([1.0, 1.0])
    for _ in range(2):
        plain.apply([tf.constant([0.75, 3.0])], [variable])
    first, second = on_ranks(2, run)
    assert first == second == pytest.approx(np.asarray(variable).tolist(), rel=1e-6)


def test_every_optimizer_that_a_model_holds_is_distributed() -> None:
    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.other_optimizer = keras.optimizers.SGD(1.0)

    names: list[str] = []

    class Noting(SoloCollectives):
        def sum_tensors(self, tensors: list[Any], name: str) -> list[Any]:
            names.append(name)
            return tensors

    model = Two()
    model.compile(keras.optimizers.SGD(1.0), "mse")
    distribute(model, GradientReducer(Noting(solo()), StepClock()))
    for optimizer in (model.optimizer, model.other_optimizer):
        optimizer.apply([tf.constant([1.0])], [keras.Variable([1.0])])
    assert len(set(names)) == 2
