"""Where a rank's time goes, and what is advised."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf

from spark_dl.train.reports import Speed
from spark_dl.train.speed import RANK_CLOCKS, EpochSpeed, StepClock, StepTimes, measure_epoch
from spark_dl.train.usage import UsageMeter


def of_ranks(*ranks: tuple[float, float, float, float]) -> np.ndarray:
    """Each with a core and a half busy, 3 MB of memory, and 5 MB of a GPU's."""
    return np.array([(*rank, 1.5, 3e6, 5e6) for rank in ranks], RANK_CLOCKS)


def test_an_epochs_speed_is_that_of_its_slowest_rank() -> None:
    measured = measure_epoch(1000, 50, of_ranks((4.0, 0.1, 1.0, 800), (5.0, 0.4, 2.0, 800)), ["a", "b"])
    assert (measured.seconds, measured.advice) == (5.0, ())
    speed = measured.speed
    assert (speed.rows_per_second, speed.step_ms, speed.bytes_reduced) == (200.0, 100.0, 800)
    assert speed.input_wait == pytest.approx(0.08)
    assert speed.collective_wait == pytest.approx((1 / 4 + 2 / 5) / 2)


def test_what_each_rank_did_is_told_without_what_it_waited() -> None:
    ranks = of_ranks((5.0, 0.1, 0.9, 800), (5.0, 0.0, 3.0, 800))
    one, other = measure_epoch(1000, 50, ranks, ["a", "b"]).speed.ranks
    assert (one.rows_per_second, one.working) == (pytest.approx(125), pytest.approx(0.8))
    assert (other.rows_per_second, other.working) == (pytest.approx(250), pytest.approx(0.4))
    assert (one.cpu_percent, one.memory_mb, one.gpu_memory_mb) == (150, 3, 5)


def test_a_process_tells_what_it_takes() -> None:
    usage = UsageMeter()
    usage.take()
    ballast = np.ones(20_000_000)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        ballast += 1
    cores, memory, gpu_memory = usage.take()
    assert 0.2 < cores < 8
    assert ballast.nbytes < memory
    assert gpu_memory >= 0


def test_a_rank_that_waits_for_rows_is_named() -> None:
    (said,) = measure_epoch(10, 5, of_ranks((10.0, 0.1, 4.0, 8), (10.0, 3.1, 1.0, 8)), ["east", "west"]).advice
    assert "Rank 1 on host west waits 31% of its time for rows" in said
    assert "cacheData" in said


def test_a_rank_that_computes_longer_is_named() -> None:
    (said,) = measure_epoch(10, 5, of_ranks((10.0, 0.0, 5.0, 8), (10.0, 0.0, 0.5, 8)), ["east", "west"]).advice
    assert "Rank 1 on host west computes 9.5 s in an epoch where rank 0 on host east needs 5.0 s" in said


@pytest.mark.parametrize(
    "ranks",
    [
        [(10.0, 1.9, 1.0, 8), (10.0, 1.0, 1.0, 8)],  # neither is much
        [(0.5, 0.4, 0.0, 8), (0.5, 0.0, 0.0, 8)],  # too short to tell
        [(10.0, 0.0, 9.9, 8), (10.0, 0.0, 9.7, 8)],  # three times as long, of next to nothing
        [(10.0, 0.0, 0.0, 0)],
    ],
)
def test_small_differences_are_not_told(ranks: list[tuple[float, float, float, float]]) -> None:
    assert measure_epoch(10, 5, of_ranks(*ranks), ["east", "west"]).advice == ()


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 0), (0.0, 3), (1.0, 0)])
def test_an_epoch_without_steps_has_no_speed(seconds: float, steps: int) -> None:
    assert measure_epoch(0, steps, of_ranks((seconds, 0.0, 0.0, 0.0)), ["a"]) == EpochSpeed(seconds, Speed())


def test_a_batch_that_was_made_late_was_waited_for() -> None:
    clock = StepClock()
    step = tf.function(clock.begin)
    now = float(tf.timestamp())
    clock.restart()
    step(tf.constant(now + 100, tf.float64))
    assert clock.take().input_seconds == 0  # the first batch of all
    clock.end([])
    clock.restart()
    step(tf.constant(now - 100, tf.float64))
    assert clock.take().input_seconds == 0
    step(tf.constant(now + 7, tf.float64))
    assert clock.take().input_seconds == pytest.approx(7, abs=1)
    assert clock.take() == StepTimes(0, 0, 0)


def test_the_wait_counts_from_the_end_of_the_step_before() -> None:
    clock = StepClock()
    clock.end([])
    late = tf.constant(float(tf.timestamp()) + 50, tf.float64)
    clock._idle_since.assign_sub(1000.0)
    clock.end([late])
    clock.begin(late)
    assert clock.take().input_seconds == pytest.approx(50, abs=5)


def test_collectives_are_timed_and_their_bytes_counted() -> None:
    clock = StepClock()

    @tf.function
    def step(values: tf.Tensor) -> None:
        since = clock.reducing([values, tf.cast(values, tf.float16)])
        clock.reduced(since - 3.0, [values + 1])

    step(tf.zeros(10))
    step(tf.zeros(10))
    waited, reducing, size = clock.take()
    assert (waited, size) == (0.0, 2 * (10 * 4 + 10 * 2))
    assert reducing == pytest.approx(6, abs=1)
