"""What the figures of a training show."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize("history", [{"loss": [1.0]}, {"val_loss": [0.5, 0.25]}])
def test_what_is_not_there_is_not_drawn(history: dict[str, list[float]]) -> None:
    (plot,) = history_figure(history).axes
    assert [line.get_ydata().tolist() for line in plot.lines] == list(history.values())
