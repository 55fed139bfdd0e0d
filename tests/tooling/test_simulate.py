"""The simulator of many ranks against closed forms."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture(scope="module")
def simulate() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module("simulate")
    finally:
        sys.path.remove(str(BENCH))


def test_without_failures_a_training_takes_its_steps_and_checkpoints(simulate: ModuleType) -> None:
    steps = np.full(1003, 0.25)
    segments = simulate.segments_of(steps, 100, 2.0)
    assert segments.tolist() == [*[27.0] * 10, 2.75]
    outcome = simulate.train(np.random.default_rng(0), segments, 0.0, 60.0)
    assert outcome == simulate.Outcome(272.75, 0)


def test_one_rank_has_the_measured_times_and_many_wait_for_the_slowest(simulate: ModuleType) -> None:
    generator = np.random.default_rng(0)
    alone, many = (simulate.slowest(generator, 1, ranks, 20_000) for ranks in (1, 4096))
    wanted = np.array(simulate.STEP_TIMES)
    assert np.quantile(alone, simulate.QUANTILES[2:8]) == pytest.approx(wanted[2:8] / wanted[4], rel=0.05)
    assert np.quantile(many, 0.5) > np.quantile(alone, 0.99)
    assert many.max() <= wanted[-1] / wanted[4] * 1.05


@pytest.mark.parametrize(
    ("rate", "segment", "restart"), [(1e-4, 600.0, 90.0), (2e-3, 600.0, 90.0), (1e-3, 30.0, 600.0)]
)
def test_failures_cost_what_dalys_complete_model_says(
    simulate: ModuleType, rate: float, segment: float, restart: float
) -> None:
    outcome = simulate.train(np.random.default_rng(1), np.full(50_000, segment), rate, restart)
    assert outcome.seconds / 50_000 == pytest.approx(simulate.expected(segment, rate, restart), rel=0.03)
    assert outcome.restarts / 50_000 == pytest.approx(np.expm1(rate * segment) * np.exp(rate * restart), rel=0.1)


def test_the_simulated_optimum_is_near_those_of_young_and_daly(simulate: ModuleType) -> None:
    rate, checkpoint, restart, steps = 1 / 3600, 5.0, 60.0, np.full(400_000, 0.5)
    taken = {}
    for between in np.unique(np.geomspace(40, 4000, 15).astype(int)).tolist():
        segments = simulate.segments_of(steps, between, checkpoint)
        runs = [simulate.train(np.random.default_rng(run), segments, rate, restart).seconds for run in range(20)]
        taken[between / 2] = float(np.mean(runs))
    best = min(taken, key=taken.__getitem__)
    young, daly = simulate.young(checkpoint, rate), simulate.daly(checkpoint, rate)
    assert young == pytest.approx(189.7, rel=0.001)
    assert daly == pytest.approx(young, rel=0.05)
    assert daly / 2 < best < daly * 2
    near = min(taken, key=lambda seconds: abs(seconds - daly))
    assert taken[near] == pytest.approx(taken[best], rel=0.005)
