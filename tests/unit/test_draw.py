"""Which rows are drawn for validation, and how often one for training is written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_dl.data.sampler import RowSampler


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.sampled_from([0.1, 0.25, 0.5, 0.9]),
    st.integers(0, 5),
)
def test_a_draw_by_class_keeps_the_part_of_each_class_to_a_row(
    classes: list[int], cuts: list[int], fraction: float, seed: int
) -> None:
    rows = np.array(classes, np.int32)
    draw, again = (RowSampler(seed, 1, fraction, by_class=True) for _ in range(2))
    batches = np.split(rows, sorted(cut for cut in cuts if cut < len(rows)))
    chosen = np.concatenate([draw.validation(batch) for batch in batches])
    for index in range(4):
        expected = fraction * (rows == index).sum()
        assert abs(chosen[rows == index].sum() - expected) < 1 + 1e-9
    np.testing.assert_array_equal(chosen, np.concatenate([again.validation(batch) for batch in batches]))


def test_draws_differ_by_seed_and_partition_and_within_a_class() -> None:
    rows = np.zeros(100, np.int32)
    draws = [RowSampler(*key, 0.3, by_class=True).validation(rows) for key in ((1, 1), (1, 2), (2, 1))]
    assert len({draw.tobytes() for draw in draws}) == 3
    gaps = np.diff(np.flatnonzero(draws[0]))
    assert len(set(gaps.tolist())) > 2  # at random places, not every third row


def test_a_draw_of_all_rows_doesn_t_look_at_classes() -> None:
    one, other = (RowSampler(3, 0, 0.4).validation(np.full(1000, index)) for index in (0, 1))
    np.testing.assert_array_equal(one, other)
    assert one.mean() == pytest.approx(0.4, abs=0.05)


def test_rows_are_written_as_often_as_their_class_asks_and_for_validation_once() -> None:
    random = np.random.default_rng(0)
    classes, validation = random.integers(0, 3, 3000), random.random(3000) < 0.2
    places = RowSampler(0, 0, factors=(1.0, 2.5, 0.3)).resample(classes, validation)
    assert places is not None
    times = np.bincount(places, minlength=3000)
    assert (times[validation] == 1).all()
    for index, factor in enumerate((1.0, 2.5, 0.3)):
        own = times[(classes == index) & ~validation]
        assert set(own.tolist()) <= {int(np.floor(factor)), int(np.ceil(factor))}
        assert own.mean() == pytest.approx(factor, abs=0.05)
    assert (np.diff(places) >= 0).all()


def test_rows_are_written_once_where_nothing_is_asked_for() -> None:
    assert RowSampler(0, 0).resample(np.zeros(3, np.int32), np.zeros(3, bool)) is None


def test_what_is_written_more_often_changes_nothing_about_validation() -> None:
    plain, balanced = RowSampler(4, 2, 0.5), RowSampler(4, 2, 0.5, factors=(3.0,))
    for _ in range(3):
        rows = np.zeros(20, np.int32)
        one, other = plain.validation(rows), balanced.validation(rows)
        balanced.resample(rows, other)
        np.testing.assert_array_equal(one, other)
