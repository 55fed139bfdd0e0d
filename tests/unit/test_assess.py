"""What ranks add up of a fitted model's predictions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, mean_absolute_error, r2_score, root_mean_squared_error

from spark_dl.score import assess
from spark_dl.score.assess import Classes, Numbers, can_assess
from spark_dl.score.heads import Classification, Head, Regression, TensorOutput

RANDOM = np.random.default_rng(5)


def assessed(head: Head, labels: np.ndarray, outputs: np.ndarray, ranks: int = 3) -> Classes | Numbers | None:
    """By several ranks, each of whose rows come in two batches; the last has none."""
    tallies = [assess._Tally.of(head, rank, ranks) for rank in range(ranks)]
    for tally, rows in zip(tallies[:-1], np.array_split(np.arange(len(labels)), ranks - 1), strict=True):
        for some in np.array_split(rows, 2):
            if len(some):
                tally.add(labels[some], head.columns([outputs[some]]))
    totals = sum(tally.totals.view(np.float64) for tally in tallies)
    return tallies[0].whole(totals.view(tallies[0].totals.dtype))  # type: ignore[union-attr]


def test_classes_are_counted_over_all_ranks() -> None:
    labels = RANDOM.integers(0, 4, 500)
    chances = RANDOM.dirichlet(np.ones(4), 500).astype(np.float32)
    found = assessed(Classification(4, 4, from_logits=False), labels.astype(np.float32), chances)
    assert isinstance(found, Classes)
    assert found.rows == 500
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, chances.argmax(1)))
    assert found.curves == (0, 1, 2, 3)
    np.testing.assert_array_equal(found.counts.sum(axis=2)[:, 1], np.bincount(labels))
    np.testing.assert_array_equal(found.counts.sum(axis=(1, 2)), 500)


@pytest.mark.parametrize("logits", [False, True])
def test_of_two_classes_one_has_a_curve(logits: bool) -> None:
    labels = np.array([0.0, 1.0, 1.0, 0.0])
    outputs = np.array([[-1.0], [2.0], [-3.0], [-50.0]])
    outputs = outputs if logits else 1 / (1 + np.exp(-outputs))
    found = assessed(Classification(2, 1, from_logits=logits), labels, outputs)
    assert isinstance(found, Classes)
    assert found.curves == (1,)
    assert found.confusion.tolist() == [[2, 0], [1, 1]]
    bins = np.argwhere(found.counts[0])
    told = [(int(own), round(float(assess.LOG_ODDS[one]), 1)) for own, one in bins]
    # What lies beyond the last bin is in it.
    assert [own for own, _ in told] == [0, 0, 1, 1]
    np.testing.assert_allclose([odds for _, odds in told], [-20, -1, -3, 2], atol=0.05)


def test_probabilities_of_0_and_1_are_in_the_outermost_bins() -> None:
    found = assessed(Classification(3, 3, from_logits=False), np.array([0.0, 1.0]), np.eye(3, dtype=np.float32)[:2])
    assert isinstance(found, Classes)
    assert found.counts[:, 0, 0].tolist() == [1, 1, 2]
    assert found.counts[:, 1, -1].tolist() == [1, 1, 0]


def test_many_classes_have_a_curve_together() -> None:
    labels = np.arange(30.0)
    found = assessed(Classification(30, 30, from_logits=True), labels, np.eye(30) * 9)
    assert isinstance(found, Classes)
    assert found.curves == (-1,)
    assert found.counts.sum() == 900
    assert found.counts[0, 1].sum() == 30


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_numbers_are_summed_over_all_ranks(shift: float) -> None:
    labels = RANDOM.normal(shift, 1.0, 400)
    predicted = labels + RANDOM.normal(0.25, 0.5, 400)
    found = assessed(Regression(), labels, predicted[:, None])
    assert isinstance(found, Numbers)
    assert (found.rows, len(found.sample)) == (400, 400)
    assert found.error == pytest.approx(np.mean(predicted - labels))
    assert found.mae == pytest.approx(mean_absolute_error(labels, predicted))
    assert found.rmse == pytest.approx(root_mean_squared_error(labels, predicted))
    assert found.r2 == pytest.approx(r2_score(labels, predicted))
    assert {tuple(row) for row in found.sample.tolist()} == set(zip(labels.tolist(), predicted.tolist(), strict=True))


def test_of_many_rows_a_sample_is_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assess, "SAMPLE", 300)
    labels = np.arange(10_000.0)
    found = assessed(Regression(), labels, labels[:, None], ranks=4)
    assert isinstance(found, Numbers)
    # The fourth rank has no rows: its part isn't drawn.
    assert len(found.sample) == len(np.unique(found.sample[:, 0])) == 225
    assert abs(found.sample[:, 0].mean() - labels.mean()) < 800


def test_no_rows_have_no_assessment() -> None:
    for head in (Regression(), Classification(3, 3, from_logits=False)):
        assert assessed(head, np.zeros(0), np.zeros((0, 3))) is None


def test_labels_that_do_not_vary_explain_nothing() -> None:
    found = assessed(Regression(), np.ones(10), np.zeros((10, 1)))
    assert isinstance(found, Numbers)
    assert np.isnan(found.r2)


def test_what_can_be_assessed() -> None:
    assert can_assess(Regression())
    assert can_assess(Classification(1000, 1000, from_logits=False))
    assert not can_assess(Classification(1001, 1001, from_logits=False))
    assert not can_assess(TensorOutput(3))
