"""Matplotlib figures of a training run and its validation, drawn without a display."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "class_curves",
    "confusion_figure",
    "graph_figure",
    "history_figure",
    "importance_figure",
    "learning_rate_figure",
    "predicted_figure",
    "ranks_figure",
    "residuals_figure",
    "written",
]

_WIDTH, _HEIGHT = 7.0, 3.0
# Inches of a figure that are labels and ticks, beside and below its plots; and those between two plots.
_LABELS, _GAP = (0.8, 0.6), 0.6
# Inches around the plots in a file, ample for ticks, labels and titles; and white pixels that stay around the picture.
_MARGIN, _PADDING = 1.3, 8
# The most letters along a plot's height; and the width of a letter of a class's name, in inches.
_LETTERS_A_LINE, _LETTER = 28, 0.14
# The most steps of an axis. Without a number, matplotlib inverts a matrix to find one, for which OpenBLAS wakes its
# threads, and these spin for longer than the figure takes.
_STEPS = 6
# Confusion matrices with more classes have no numbers and labels.
_MOST_NUMBERS = 25
# With more ranks than this, only the fastest, median and slowest have a line.
_MOST_LINES = 16


def written(draw: Callable[[], Figure], kind: str = "png") -> bytes:
    """Render a figure to the content of a file.

    Args:
        draw: The function that draws the figure.
        kind: The file format, as matplotlib names it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late imports: load matplotlib
    from PIL import Image, ImageChops

    figure, stream = draw(), io.BytesIO()
    if kind != "png":
        figure.savefig(stream, format=kind)
        return stream.getvalue()
    _place_plots(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    image = pixels.convert("RGB")
    left, top, right, bottom = ImageChops.invert(image).getbbox() or (0, 0, *image.size)
    image = image.crop((left - _PADDING, top - _PADDING, right + _PADDING, bottom + _PADDING))
    # Level 1 takes a quarter of the time of the default 6, for files that are a seventh larger.
    image.save(stream, "PNG", compress_level=1, dpi=(figure.dpi, figure.dpi))
    return stream.getvalue()


def _place_plots(figure: Figure) -> None:
    """Place the plots amid a larger figure, where no label is cut; a layout engine would measure all labels, twice."""
    figure.set_layout_engine("none")
    first = figure.axes[0]
    grid = first.get_gridspec()
    rows = grid.nrows if grid else 1
    width, height = figure.get_size_inches() - np.array(_LABELS)
    # Class names are longer than other labels.
    names = [text.get_text() for text in first.get_yticklabels()] if first.images else []
    margin = _MARGIN + _LETTER * max(map(len, names), default=0)
    figure.set_size_inches(width + 2 * margin, height + 2 * margin)
    across, up = margin / figure.get_size_inches()
    of_one = (height - (rows - 1) * _GAP) / rows
    figure.subplotpars.update(across, up, 1 - across, 1 - up, hspace=_GAP / of_one)
    for axes in figure.axes:
        if (place := axes.get_subplotspec()) is not None:
            axes.set_position(place.get_position(figure))


def history_figure(history: Mapping[str, Sequence[float]], first_epoch: int = 0) -> Figure:
    """Plot each metric over the epochs, with training and validation in one plot.

    Args:
        history: The metrics: name -> value after each epoch; the names of validation metrics begin with `val_`.
        first_epoch: The epoch of the first values, counted from 0; the plot counts from 1.
    """
    names = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    names.sort(key=lambda name: name != "loss")
    figure = _figure(_HEIGHT * max(1, len(names)))
    for index, name in enumerate(names, start=1):
        axes = figure.add_subplot(len(names), 1, index)
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in history:
                epochs = range(first_epoch + 1, first_epoch + len(history[key]) + 1)
                axes.plot(epochs, history[key], marker="o", markersize=3, label=label)
        _over_epochs(axes, name)
        axes.legend()
    return figure


def learning_rate_figure(rates: Mapping[int, float]) -> Figure:
    """Plot the learning rate over the epochs.

    Args:
        rates: The learning rates: epoch, counted from 0 -> rate at its end.
    """
    figure = _figure()
    axes = figure.add_subplot()
    axes.plot([epoch + 1 for epoch in rates], list(rates.values()), marker="o", markersize=3)
    _over_epochs(axes, "learning rate")
    return figure


def ranks_figure(epochs: Sequence[int], speeds: Sequence[Sequence[Mapping[str, float]]]) -> Figure:
    """Plot the throughput of each rank, and the fraction of time in which it computes, over the epochs.

    With more than 16 ranks, only the fastest, median and slowest are plotted.

    Args:
        epochs: The epochs, counted from 0.
        speeds: For each epoch, for each rank: "rows_per_second" and "working", the fraction of time.
    """
    figure = _figure(2 * _HEIGHT)
    named = (("rows_per_second", "rows/s of a rank at work"), ("working", "part of its time at work"))
    for index, (key, label) in enumerate(named, start=1):
        axes = figure.add_subplot(2, 1, index)
        table = np.array([[rank[key] for rank in epoch] for epoch in speeds])
        if table.shape[1] <= _MOST_LINES:
            lines = {f"rank {rank}": table[:, rank] for rank in range(table.shape[1])}
        else:
            lines = {"fastest": table.max(axis=1), "median": np.median(table, axis=1), "slowest": table.min(axis=1)}
        for name, values in lines.items():
            axes.plot([epoch + 1 for epoch in epochs], values, marker="o", markersize=3, label=name)
        _over_epochs(axes, label)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, ncols=1 + (len(lines) - 1) // 8)
    return figure


def confusion_figure(confusion: np.ndarray, labels: Sequence[str]) -> Figure:
    """Plot a confusion matrix, coloured by the fraction of the actual class; empty cells have no validation rows.

    Args:
        confusion: The numbers of rows, actual by predicted class: float64 of shape (classes, classes).
        labels: The labels of the classes.
    """
    classes = len(confusion)
    side = max(4.0, min(0.6 * classes, 12.0))
    figure = _figure(side, 1.15 * side)
    # The colour bar in a column of its own, so that matrix and bar are placed in the same way.
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 0.05), wspace=0.1)
    axes = figure.add_subplot(grid[0])
    parts = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    bar = figure.add_subplot(grid[1])
    figure.colorbar(image, bar, ticks=np.linspace(0, 1, 6), label="part of the actual class")
    if classes > _MOST_NUMBERS:
        axes.locator_params(nbins=2 * _STEPS)
    else:
        axes.set_xticks(range(classes), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
        axes.set_yticks(range(classes), labels)
        for actual, predicted in np.argwhere(confusion):  # an empty cell has no rows
            colour = "white" if parts[actual, predicted] > 0.5 else "black"
            text = f"{confusion[actual, predicted]:,.0f}"
            axes.text(predicted, actual, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title(f"{confusion.sum():,.0f} validation rows", y=1)
    return figure


def class_curves(
    counts: np.ndarray, labels: Sequence[str], rows: int
) -> tuple[dict[str, dict[str, float]], Callable[[], Figure], Callable[[], Figure]]:
    """Compute the areas under ROC and precision-recall curves, and prepare their plots.

    The curves are exact except for the order of rows within a bin.

    Args:
        counts: For each curve, the numbers of rows of other classes and of its own class, by increasing score: float64
            of shape (curves, 2, bins).
        labels: The labels of the curves.
        rows: The number of validation rows.

    Returns:
        The areas, label -> "roc_auc" and "average_precision", without curves that lack rows of either kind; the
        function that plots the ROC curves; and the one that plots the precision-recall curves.
    """
    areas: dict[str, dict[str, float]] = {}
    rocs, precisions = {}, {}
    for label, (others, own) in zip(labels, counts[:, :, ::-1].cumsum(axis=2), strict=True):
        if not own[-1] or not others[-1]:
            continue  # the curve is undefined
        hit, wrong = np.append(0.0, own / own[-1]), np.append(0.0, others / others[-1])
        precision = own / np.maximum(own + others, 1)
        area = float(np.sum(np.diff(wrong) * (hit[1:] + hit[:-1]) / 2))
        average = float(np.sum(np.diff(hit) * precision))
        areas[label] = {"roc_auc": area, "average_precision": average}
        rocs[f"{label}: {area:.4f}"] = (wrong, hit)
        shown = own + others > 0
        precisions[f"{label}: {average:.4f}"] = (hit[1:][shown], precision[shown])
    title = f"{rows:,} validation rows, in {counts.shape[2]:,} steps of the probability"

    # The corners that good curves leave free; to find the best place takes longer than to draw the curves.
    def roc() -> Figure:
        text = f"{title}\narea under each curve"
        return _curves(rocs, "false positive rate", "true positive rate", text, "lower right")

    def precision_recall() -> Figure:
        return _curves(precisions, "recall", "precision", f"{title}\naverage precision", "lower left")

    return areas, roc, precision_recall


def predicted_figure(sample: np.ndarray, rows: int, title: str) -> Figure:
    """Plot predicted against actual values.

    Args:
        sample: The actual and predicted values of sampled rows: float64 of shape (sampled, 2).
        rows: The number of all validation rows.
        title: The title's first line, about all rows.
    """
    figure = _figure(5.5)
    axes = figure.add_subplot()
    axes.scatter(sample[:, 0], sample[:, 1], s=_dot(sample), alpha=0.4, linewidths=0)
    ends = [sample.min(), sample.max()]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.locator_params(nbins=_STEPS)
    axes.set_xlabel("actual")
    axes.set_ylabel("predicted")
    axes.set_title(f"{title}\n{_drawn(sample, rows)}", y=1)
    axes.grid(alpha=0.3)
    return figure


def residuals_figure(sample: np.ndarray, rows: int) -> Figure:
    """Plot the residuals (predicted - actual) against the predicted values, and their histogram.

    Args:
        sample: The actual and predicted values of sampled rows: float64 of shape (sampled, 2).
        rows: The number of all validation rows.
    """
    figure = _figure(2 * _HEIGHT)
    apart = sample[:, 1] - sample[:, 0]
    axes = figure.add_subplot(2, 1, 1)
    axes.scatter(sample[:, 1], apart, s=_dot(sample), alpha=0.4, linewidths=0)
    axes.plot([sample[:, 1].min(), sample[:, 1].max()], [0, 0], color="black", linewidth=0.8)
    axes.locator_params(nbins=_STEPS)
    axes.set_xlabel("predicted")
    axes.set_ylabel("predicted - actual")
    axes.set_title(_drawn(sample, rows), y=1)
    axes = figure.add_subplot(2, 1, 2)
    axes.hist(apart, bins=min(60, max(5, len(apart) // 10)))
    axes.locator_params(nbins=_STEPS)
    axes.set_xlabel("predicted - actual")
    axes.set_ylabel("rows")
    return figure


def importance_figure(importances: Mapping[str, tuple[float, float]], metric: str, baseline: float) -> Figure:
    """Plot how much worse a metric gets when a column is shuffled.

    Args:
        importances: The mean and its standard error (NaN for unknown) by column, the most important one first.
        metric: The name of the metric.
        baseline: The metric on the rows as they are.
    """
    figure = _figure(0.3 * len(importances) + 1.0)
    axes = figure.add_subplot()
    names = list(importances)[::-1]
    means, errors = zip(*(importances[name] for name in names), strict=True)
    axes.barh(names, means, xerr=np.nan_to_num(errors), color="#4a7ebb", ecolor="#555555")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"how much worse {metric} is with the column shuffled")
    axes.set_title(f"{metric} on the rows as they are: {baseline:.4g}", fontsize=10)
    return figure


def graph_figure(nodes: Mapping[str, str], edges: Sequence[tuple[str, str]]) -> Figure:
    """Draw a directed graph from top to bottom.

    Args:
        nodes: The nodes in topological order: name -> second line of the node's box.
        edges: The edges as (from, to) names.
    """
    depth = dict.fromkeys(nodes, 0)
    for name in nodes:
        depth[name] = max((depth[one] + 1 for one, other in edges if other == name), default=0)
    rows: dict[int, list[str]] = {}
    for name in nodes:
        rows.setdefault(depth[name], []).append(name)
    positions = {
        name: (index - (len(row) - 1) / 2, -level) for level, row in rows.items() for index, name in enumerate(row)
    }
    widest, longest = max(map(len, rows.values())), max(len(text) for pair in nodes.items() for text in pair)
    figure = _figure(0.8 * len(rows) + 0.4, max(3.0, widest * (0.09 * longest + 0.6)))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-widest / 2, widest / 2)
    axes.set_ylim(0.6 - len(rows), 0.6)
    for one, other in edges:
        arrow = {"arrowstyle": "-|>", "shrinkA": 14, "shrinkB": 14, "color": "#555555"}
        axes.annotate("", positions[other], positions[one], arrowprops=arrow)
    for name, kind in nodes.items():
        box = {"boxstyle": "round", "facecolor": "#eaf2fb", "edgecolor": "#4a7ebb"}
        axes.text(*positions[name], f"{name}\n{kind}", ha="center", va="center", fontsize=8, bbox=box)
    return figure


def _dot(sample: np.ndarray) -> float:
    """Choose the area of a dot in square points: 6 for more than 1000 dots, else 20."""
    return 6.0 if len(sample) > 1000 else 20.0


def _drawn(sample: np.ndarray, rows: int) -> str:
    some = f"{len(sample):,} drawn of {rows:,}" if len(sample) < rows else f"all {rows:,}"
    return f"{some} validation rows"


def _curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], x: str, y: str, title: str, legend: str) -> Figure:
    figure = _figure(5.5)
    axes = figure.add_subplot()
    for label, (along, up) in curves.items():
        axes.plot(along, up, label=label)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.locator_params(nbins=_STEPS)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_title(title, fontsize=10, y=1)  # to find its height takes as long as the ticks
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(fontsize=8, loc=legend)
    return figure


def _figure(height: float = _HEIGHT, width: float = _WIDTH) -> Figure:
    from spark_dl.notebook.figure import NotebookFigure  # late import: loads matplotlib

    return NotebookFigure(figsize=(width, height), layout="constrained")


def _over_epochs(axes: Any, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_ylabel(textwrap.fill(label, _LETTERS_A_LINE))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.locator_params("y", nbins=_STEPS)
    axes.grid(alpha=0.3)
