"""What the figures of a training show."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from spark_dl import figures
from spark_dl.figures import history_figure


def test_each_metric_has_a_plot_with_the_loss_first() -> None:
    history = {"accuracy": [0.5, 0.75], "loss": [1.0, 0.5], "val_loss": [2.0, 1.0], "val_accuracy": [0.25, 0.5]}
    plots = history_figure(history).axes
    assert [plot.get_ylabel() for plot in plots] == ["loss", "accuracy"]
    for plot in plots:
        drawn = {line.get_label(): line.get_xydata().tolist() for line in plot.lines}
        name = plot.get_ylabel()
        expected = {"training": history[name], "validation": history[f"val_{name}"]}
        assert drawn == {label: [[1, first], [2, last]] for label, (first, last) in expected.items()}


def test_a_history_that_begins_later_is_drawn_there() -> None:
    (plot,) = history_figure({"loss": [1.0, 0.5]}, first_epoch=3).axes
    assert plot.lines[0].get_xydata().tolist() == [[4, 1.0], [5, 0.5]]


@pytest.mark.parametrize("history", [{"loss": [1.0]}, {"val_loss": [0.5, 0.25]}])
def test_what_is_not_there_is_not_drawn(history: dict[str, list[float]]) -> None:
    (plot,) = history_figure(history).axes
    assert [line.get_ydata().tolist() for line in plot.lines] == list(history.values())


def lines(axes: object) -> dict[str, list[float]]:
    return {line.get_label(): line.get_ydata().tolist() for line in axes.lines}  # type: ignore[attr-defined]


def test_the_learning_rate_is_drawn_over_the_epochs_that_told_it() -> None:
    (plot,) = figures.learning_rate_figure({3: 0.1, 4: 0.05}).axes
    (line,) = plot.lines
    assert line.get_xydata().tolist() == [[4, 0.1], [5, 0.05]]


def test_each_rank_has_a_line_and_many_have_three() -> None:
    speeds = [[{"rows_per_second": 10.0 * rank + epoch, "working": 0.5} for rank in range(2)] for epoch in (1, 2)]
    rows, working = figures.ranks_figure([1, 2], speeds).axes
    assert lines(rows) == {"rank 0": [1, 2], "rank 1": [11, 12]}
    assert lines(working) == {"rank 0": [0.5, 0.5], "rank 1": [0.5, 0.5]}
    many = [[{"rows_per_second": float(rank), "working": 1.0} for rank in range(101)]]
    rows, _ = figures.ranks_figure([0], many).axes
    assert lines(rows) == {"fastest": [100], "median": [50], "slowest": [0]}


def test_a_confusion_matrix_has_its_numbers_and_names_unless_there_are_too_many() -> None:
    axes, _ = figures.confusion_figure(np.array([[3.0, 1.0], [0.0, 1200.0]]), ["cat", "dog"]).axes
    assert [text.get_text() for text in axes.texts] == ["3", "1", "1,200"]  # no number without rows
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cat", "dog"]
    assert axes.get_title() == "1,204 validation rows"
    axes, _ = figures.confusion_figure(np.eye(100), [str(one) for one in range(100)]).axes
    assert not axes.texts


def test_areas_under_curves_are_those_of_the_rows() -> None:
    random = np.random.default_rng(3)
    actual = random.random(4000) < 0.3
    bins = np.clip(random.normal(50 + 10 * actual, 15, 4000), 0, 99).astype(int)
    counts = np.stack([np.bincount(bins[actual == own], minlength=100) for own in (False, True)])[None].astype(float)
    areas, roc, precision_recall = figures.class_curves(counts, ["dog"], 4000)
    assert areas["dog"]["roc_auc"] == pytest.approx(roc_auc_score(actual, bins))
    assert areas["dog"]["average_precision"] == pytest.approx(average_precision_score(actual, bins))
    for draw, area in ((roc, areas["dog"]["roc_auc"]), (precision_recall, areas["dog"]["average_precision"])):
        (axes,) = draw().axes
        assert [line.get_label() for line in axes.lines] == [f"dog: {area:.4f}"]
        assert "4,000 validation rows, in 100 steps" in axes.get_title()


def test_a_class_that_is_not_there_has_no_curve() -> None:
    counts = np.array([[[5.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 4.0]]])
    areas, roc, _ = figures.class_curves(counts, ["a", "b"], 5)
    assert areas == {"b": {"roc_auc": 1.0, "average_precision": 1.0}}
    assert len(roc().axes[0].lines) == 1


def test_a_sample_says_that_it_is_one() -> None:
    sample = np.array([[1.0, 2.0], [3.0, 3.5]])
    (axes,) = figures.predicted_figure(sample, 100, "RMSE 1").axes
    assert axes.get_title() == "RMSE 1\n2 drawn of 100 validation rows"
    assert axes.collections[0].get_offsets().tolist() == sample.tolist()
    apart, often = figures.residuals_figure(sample, 2).axes
    assert apart.get_title() == "all 2 validation rows"
    assert apart.collections[0].get_offsets().tolist() == [[2.0, 1.0], [3.5, 0.5]]
    assert sum(bar.get_height() for bar in often.patches) == 2


def test_a_graph_has_a_box_for_each_layer_below_those_that_lead_to_it() -> None:
    nodes = {"a": "InputLayer", "b": "InputLayer", "joined": "Add", "out": "Dense"}
    edges = [("a", "joined"), ("b", "joined"), ("joined", "out"), ("a", "out")]
    (axes,) = figures.graph_figure(nodes, edges).axes
    boxes = {text.get_text().split("\n")[0]: text.get_position() for text in axes.texts if text.get_text()}
    assert {name: place[1] for name, place in boxes.items()} == {"a": 0, "b": 0, "joined": -1, "out": -2}
    assert boxes["a"][0] < boxes["b"][0]
    assert sum(not text.get_text() for text in axes.texts) == len(edges)


def test_a_figure_is_written_as_a_file() -> None:
    assert figures.written(lambda: history_figure({"loss": [1.0]})).startswith(b"\x89PNG")
    assert b"<svg" in figures.written(lambda: history_figure({"loss": [1.0]}), "svg")


SAMPLE = np.array([[-123456.25, 2e6], [3.0, -7e5], [1e5, 1e5]])
LONG = [f"a class with a rather long name: WWW {index}" for index in range(3)]
METRICS = [f"output_{index}_mean_absolute_percentage_error" for index in range(3)]
DRAWN: dict[str, Callable[[], Any]] = {
    "metrics": lambda: history_figure({name: [-123456.0, -123456.5] for name in METRICS}),
    "ranks": lambda: figures.ranks_figure([0, 1], [[{"rows_per_second": 1e7, "working": 0.5}] * 16] * 2),
    "confusion": lambda: figures.confusion_figure(np.full((3, 3), 1234567.0), LONG),
    "curves": figures.class_curves(np.ones((3, 2, 10)), LONG, 10**9)[1],
    "predicted": lambda: figures.predicted_figure(SAMPLE, 3, "RMSE 1.234e+06, MAE 1.234e+06, R -0.1234"),
    "residuals": lambda: figures.residuals_figure(SAMPLE, 3),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_has_all_labels_and_a_narrow_white_frame(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("matplotlib.transforms.inv")  # OpenBLAS's threads spin after it
    with Image.open(io.BytesIO(figures.written(DRAWN[name]))) as image:
        pixels = np.asarray(image)
    for sides in (pixels, pixels.swapaxes(0, 1)):  # a label that reaches the first or last row is cut
        inked = np.nonzero((sides != 255).any(axis=(1, 2)))[0]
        assert (inked[0], inked[-1]) == (8, len(sides) - 9)


@pytest.mark.parametrize("name", ["metrics", "ranks", "residuals"])
def test_plots_below_each_other_do_not_cover_their_labels(name: str) -> None:
    figure = DRAWN[name]()
    figures._place_plots(figure)
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(upper.y0 > lower.y1 for upper, lower in itertools.pairwise(boxes))
