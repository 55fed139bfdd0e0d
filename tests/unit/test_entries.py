"""Names and entries as a store accepts them: distinct stay distinct, and one that is refused costs no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from mlflow.utils.validation import _validate_metric

from spark_dl.track.entries import MetricNames, log_each, numbers_of

NAMES = [
    *(
        "loss",
        "val_loss",
        "recall@5",
        "recall_5",
        "recall%5",
        "recall<5",
        "recall@5_2",
        "",
        " ",
        ".",
        "..",
        "../a",
        "..a",
    ),
    *(
        "/a",
        "a/",
        "a//b",
        "a/./b",
        "a/../b",
        "a\n",
        "a\tb",
        "präzision",
        "损失",
        "🙂",
        "@",
        "%",
        "/",
        "a" * 250,
        "a" * 251,
    ),
    *("a" * 300, "a" * 300 + "@", "b/" * 200, "system/rank_0/x", "C:\\x", "a'b\"c", "x" * 249 + "/.", "a" * 248 + "_2"),
]


def test_every_name_is_accepted_and_distinct_ones_stay_so() -> None:
    found = MetricNames().accepted(NAMES)
    assert list(found) == NAMES
    for accepted in found.values():
        _validate_metric(accepted, 1.0, 0, 0)  # as the store does
        assert len(accepted) <= 250
    assert len(set(found.values())) == len(NAMES)
    for name in ("loss", "recall_5", "präzision", "损失", "system/rank_0/x", "a" * 250):
        assert found[name] == name


def test_a_name_keeps_what_it_got() -> None:
    names = MetricNames()
    assert names.accepted(["a@"]) == {"a@": "a_"}
    assert names.accepted(["a_", "a%", "a@"]) == {"a_": "a__2", "a%": "a__3", "a@": "a_"}
    assert MetricNames(names.changed).accepted(["a%", "a_", "a@"]) == {"a%": "a__3", "a_": "a__2", "a@": "a_"}


def test_a_vector_is_its_numbers() -> None:
    metrics = {"loss": 1.0, "recall": [0.5, float("nan")], "recall_1": 3, "deep": np.eye(2), "none": [], "text": "a"}
    assert [(name, part) for name, part, _ in numbers_of(metrics)] == [
        ("loss", "loss"),
        ("recall", "recall_0"),
        ("recall", "recall_1_"),
        ("recall_1", "recall_1"),
        *(("deep", f"deep_{row}_{column}") for row in range(2) for column in range(2)),
        ("text", "text"),
    ]


class Refuses:
    """A store that refuses calls with some entries, and counts calls."""

    def __init__(self, *entries: Any) -> None:
        self.refused = set(entries)
        self.written: list[Any] = []
        self.calls = 0

    def __call__(self, some: Sequence[Any]) -> None:
        self.calls += 1
        if found := self.refused & set(some):
            raise ValueError(f"no {min(found)}")
        self.written += some


@pytest.mark.parametrize("refused", [(), (0,), (99,), (3, 4, 50), tuple(range(0, 100, 10))])
def test_what_is_refused_costs_no_other(refused: tuple[int, ...]) -> None:
    store = Refuses(*refused)
    found = log_each(store, range(100), lambda error: True)
    assert sorted(store.written) == [one for one in range(100) if one not in refused]
    assert sorted((entry, str(error)) for entry, error in found) == [(one, f"no {one}") for one in refused]
    assert store.calls <= 1 + 20 * len(refused)


def test_a_store_that_refuses_all_or_fails_is_an_error() -> None:
    store = Refuses(*range(1000))
    with pytest.raises(ValueError, match="no"):
        log_each(store, range(1000), lambda error: True)
    assert store.calls < 50
    store = Refuses(3)
    with pytest.raises(ValueError, match="no 3"):
        log_each(store, range(10), lambda error: False)
    assert store.calls == 1
    assert log_each(store, [], lambda error: True) == []
