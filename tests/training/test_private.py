"""Private steps on real blocks: against NumPy, the noise's size, and ranks that add it once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from plans import written_plan
from rows import changed, on_ranks, packed_arrays

from spark_dl.collectives import SoloCollectives
from spark_dl.train.feed import Feed
from spark_dl.train.loop import train
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.plan import PrivateSteps, TrainPlan, TrainResult
from spark_dl.train.private import PoissonFeed
from spark_dl.world import solo, worlds

ROWS, WIDTH = 60, 5
RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(ROWS, WIDTH)).astype("float32")
Y = RANDOM.integers(0, 3, ROWS).astype("int32")
PRIVATE = PrivateSteps(clip=0.5, noise=1.0, batch=20.0, chance=1 / 3, steps=3, seed=7, epsilons=(1.5, 2.5))


def linear(*hidden: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((WIDTH,)), *hidden, keras.layers.Dense(3, activation="softmax")])
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy", loss])
    return model


def a_plan(directory: Path, model: keras.Model, privacy: PrivateSteps, **others: Any) -> TrainPlan:
    dataset = packed_arrays(directory / "data", X, Y, rows=10)
    return written_plan(directory, model, dataset, **{"batch_size": 20, "epochs": 2, "privacy": privacy, **others})


def trained(plan: TrainPlan, collectives: Any) -> tuple[TrainResult, list[np.ndarray]]:
    result = train(plan, collectives, lambda report: None).result
    weights = from_bytes(plan.workspace.read(result.model_file)).get_weights() if collectives.world.rank == 0 else []
    return result, weights


def alone(plan: TrainPlan) -> list[np.ndarray]:
    return trained(plan, SoloCollectives(solo()))[1]


def test_gradients_are_clipped_row_by_row(tmp_path: Path) -> None:
    """One step on all rows, without noise, against the gradients of softmax regression; metrics are those before it."""
    model = linear()
    kernel, bias = model.get_weights()
    settings = PrivateSteps(clip=0.5, noise=0.0, batch=ROWS, chance=1.0, steps=1, seed=1, epsilons=(0.0,))
    result, found = trained(a_plan(tmp_path, model, settings, epochs=1, batch_size=ROWS), SoloCollectives(solo()))
    logits = X @ kernel + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    before = -np.log(probabilities[np.arange(ROWS), Y]).mean()
    assert result.history["sparse_categorical_crossentropy"] == [pytest.approx(before, rel=1e-5)]
    errors = probabilities - np.eye(3)[Y]
    by_row = np.concatenate([X[:, :, None] * errors[:, None, :], errors[:, None, :]], axis=1)  # kernel, bias
    norms = np.sqrt((by_row**2).sum(axis=(1, 2)))
    assert (norms > 0.5).any()
    assert (norms < 0.5).any()
    expected = np.concatenate([kernel, bias[None]]) - 0.1 * (by_row * np.minimum(1, 0.5 / norms)[:, None, None]).mean(
        axis=0
    )
    np.testing.assert_allclose(np.concatenate([found[0], found[1][None]]), expected, atol=1e-6)


def test_the_noise_has_its_size_and_is_new_in_each_step(tmp_path: Path) -> None:
    """With gradients clipped to next to nothing, weights move by the noise alone."""
    model = linear(keras.layers.Dense(2000))
    before = model.get_weights()[0]
    settings = replace(PRIVATE, clip=1e-6, noise=2e6, batch=20.0, epsilons=(0.0,))
    moved = (alone(a_plan(tmp_path, model, settings, epochs=1))[0] - before).ravel()
    assert moved.std() == pytest.approx(0.1 * 2.0 / 20 * np.sqrt(3), rel=0.03)
    assert abs(moved.mean()) < 4 * moved.std() / np.sqrt(moved.size)


@pytest.mark.parametrize("rate", [0.0, 1e-9])
def test_ranks_take_the_steps_of_one_to_the_last_bit(tmp_path: Path, rate: float) -> None:
    """The global batches, the sums and the noise of two ranks are those of one.

    With dropout, here of next to nothing, gradients are computed row by row.
    """

    def model() -> keras.Model:
        keras.utils.set_random_seed(3)  # layers draw the seeds of their initial values
        return linear(keras.layers.Dense(16, "relu"), *[keras.layers.Dropout(rate)] * (rate > 0))

    settings = replace(PRIVATE, batch=50.0, chance=5 / 6)  # parts of 32 rows that ranks share otherwise
    one = alone(a_plan(tmp_path / "one", model(), settings))
    plan = a_plan(tmp_path / "two", model(), settings, batch_size=10)
    results = on_ranks(2, lambda collectives: trained(plan, collectives))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one, results[0][1], strict=True))
    assert results[0][0].history["epsilon"] == [1.5, 2.5]
    if not rate:
        other = alone(a_plan(tmp_path / "other", model(), replace(settings, seed=8)))
        assert np.abs(one[0] - other[0]).max() > 1e-3


def test_a_gradient_that_is_not_finite_counts_as_zero(tmp_path: Path) -> None:
    """It can't be clipped, and would tell of its row."""
    settings = PrivateSteps(clip=0.5, noise=0.0, batch=ROWS, chance=1.0, steps=1, seed=1, epsilons=(0.0,))
    x = np.concatenate([X, np.full((1, WIDTH), 3e38, "float32")])
    dataset = packed_arrays(tmp_path / "more", x, np.append(Y, 0).astype("int32"), rows=10)
    without = alone(a_plan(tmp_path / "without", linear(), settings, epochs=1, batch_size=ROWS))
    plan = replace(a_plan(tmp_path / "with", linear(), settings, epochs=1, batch_size=ROWS + 1), dataset=dataset)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(alone(plan), without, strict=True))


def test_each_row_is_sampled_by_itself_whichever_rank_has_it(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, linear(), replace(PRIVATE, steps=200), batch_size=10)
    sizes = []
    taken: list[list[np.ndarray]] = []
    for world in worlds(["host"] * 2):
        feed = PoissonFeed.over(Feed.of(plan, world), plan.privacy or PRIVATE)
        batches = [np.asarray(x) for x, _, _ in feed.training(epochs=1)]
        assert len(batches) == 200
        taken.append(batches)
    whole = PoissonFeed.over(Feed.of(changed(plan, batch_size=20), solo()), plan.privacy or PRIVATE)
    for step, (x, _, _) in enumerate(whole.training(epochs=1)):
        joined = np.concatenate([taken[0][step], taken[1][step]])
        assert sorted(joined.tolist()) == sorted(np.asarray(x).tolist())
        sizes.append(len(joined))
    assert np.mean(sizes) == pytest.approx(ROWS / 3, abs=1.1)  # four standard errors
    assert np.var(sizes) == pytest.approx(ROWS * 2 / 9, rel=0.4)  # of a binomial distribution
