"""The artifacts of a fit by their paths: figures, summaries, and the estimator. Each is made when it is written."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from spark_dl import figures
from spark_dl.fit.initial_model import display_name
from spark_dl.fit.trained import Trained
from spark_dl.installed import pinned_packages
from spark_dl.log_values import scalar_history
from spark_dl.ml.persistence import described
from spark_dl.ml.savable_estimator import SavableEstimator
from spark_dl.notebook.kernel import no_display
from spark_dl.score.assess import Assessment, Classes
from spark_dl.train.model.archive import config_text

__all__ = [
    "ESTIMATOR_MODEL",
    "ESTIMATOR_STAGE",
    "LEFT_OUT",
    "Files",
    "of_assessment",
    "of_estimator",
    "of_model",
    "of_training",
]

Files = Mapping[str, Callable[[], bytes]]

ESTIMATOR_STAGE, ESTIMATOR_MODEL = "estimator/stage.json", "estimator/model.keras"
# The key in the stage's JSON that lists params which could not be saved.
LEFT_OUT = "leftOut"


def of_estimator(estimator: SavableEstimator) -> Files:
    """Make the artifacts of an estimator: its metadata, its Keras model, and the installed packages.

    Callbacks, onEpoch, validationData, and objects that can't be saved are left out and listed in the metadata.

    Args:
        estimator: The estimator.
    """
    copy = estimator.copy()
    code = ("callbacks", "onEpoch", "validationData")
    left_out = {name: display_name(copy.getOrDefault(name)) for name in code if copy.getOrDefault(name)}
    left_out.update(copy._unsavable())
    for name in left_out:
        copy.clear(copy.getParam(name))
    once = functools.cache(functools.partial(described, copy))

    def stage() -> bytes:
        metadata, _ = once()
        return json.dumps({**metadata, LEFT_OUT: left_out}, indent=1).encode()

    return {ESTIMATOR_STAGE: stage, ESTIMATOR_MODEL: lambda: once()[1] or b"", "requirements.txt": _packages}


def of_model(model: Any, content: bytes) -> Files:
    """Make the artifacts of a Keras model: its summary, and its graph unless it is subclassed.

    Args:
        model: The compiled Keras model.
        content: The model's `.keras` bytes.
    """
    nodes, edges = _graph(json.loads(config_text(content)))
    summary = _summary(model)  # here, since a notebook's displays belong to the thread of its cell
    files: dict[str, Callable[[], bytes]] = {"model_summary.txt": lambda: summary}
    if nodes:
        draw = functools.partial(figures.graph_figure, nodes, edges)
        files["model_graph.svg"] = functools.partial(figures.written, draw, "svg")
    return files


def of_training(trained: Trained, first_epoch: int) -> Files:
    """Make the artifacts of a training: curves of the metrics, the ranks' speeds, and a learning rate that changes.

    Args:
        trained: The result of the training.
        first_epoch: The first epoch of its history, from 0.
    """
    files = {}
    if trained.result.history:
        files["history.png"] = _drawn(figures.history_figure, scalar_history(trained.result.history), first_epoch)
    rates = {report.epoch: report.learning_rate for report in trained.epochs if report.learning_rate is not None}
    if len(set(rates.values())) > 1:
        files["learning_rate.png"] = _drawn(figures.learning_rate_figure, rates)
    workers = len(trained.epochs[-1].speed.ranks) if trained.epochs else 0
    # Earlier epochs may have had more workers.
    same = [report for report in trained.epochs if len(report.speed.ranks) == workers]
    if workers:
        speeds = [[asdict(rank) for rank in report.speed.ranks] for report in same]
        files["ranks.png"] = _drawn(figures.ranks_figure, [report.epoch for report in same], speeds)
    return files


def of_assessment(found: Assessment, class_labels: Sequence[str]) -> Files:
    """Make the artifacts of the evaluation on the validation rows: metrics as JSON, and figures.

    Args:
        found: The evaluation.
        class_labels: The names of the classes; empty for their indices.
    """
    if not isinstance(found, Classes):
        numbers = {name: getattr(found, name) for name in ("rows", "error", "mae", "rmse", "r2")}
        facts: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        title = f"RMSE {found.rmse:.4g}, MAE {found.mae:.4g}, R² {found.r2:.4f}"
        return {
            "validation/validation.json": functools.partial(_json, facts),
            "validation/predicted.png": _drawn(figures.predicted_figure, found.sample, found.rows, title),
            "validation/residuals.png": _drawn(figures.residuals_figure, found.sample, found.rows),
        }
    labels = list(class_labels) or [str(one) for one in range(len(found.confusion))]
    of_curves = ["all classes" if one < 0 else labels[one] for one in found.curves]
    areas, roc, precision_recall = figures.class_curves(found.counts, of_curves, found.rows)
    facts = {
        "rows": found.rows,
        "accuracy": float(found.confusion.trace() / found.rows),
        "labels": labels,
        "confusion": found.confusion.astype(int).tolist(),
        "curves": areas,
    }
    return {
        "validation/validation.json": functools.partial(_json, facts),
        "validation/confusion_matrix.png": _drawn(figures.confusion_figure, found.confusion, labels),
        "validation/roc.png": functools.partial(figures.written, roc),
        "validation/precision_recall.png": functools.partial(figures.written, precision_recall),
    }


def _drawn(draw: Callable[..., Any], *values: Any) -> Callable[[], bytes]:
    return functools.partial(figures.written, functools.partial(draw, *values))


def _json(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1) + "\n").encode()


def _summary(model: Any) -> bytes:
    lines: list[str] = []
    with no_display():  # Keras's table leaves an empty output in a notebook
        model.summary(line_length=110, print_fn=lambda text, **_: lines.append(text), show_trainable=True)
    return ("\n".join(lines) + "\n").encode()


def _packages() -> bytes:
    return ("\n".join(pinned_packages()) + "\n").encode()


def _graph(config: Mapping[str, Any]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the classes of a model's layers by name, and its edges; both empty for a subclassed model."""
    listed = config["config"].get("layers")  # a subclassed model's config may use the key for anything
    layers = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    if not all("class_name" in one and isinstance(one.get("config"), dict) for one in layers):
        return {}, []
    if config["class_name"] == "Sequential":
        nodes = {one["config"]["name"]: one["class_name"] for one in layers}
        return nodes, list(zip(list(nodes), list(nodes)[1:], strict=False))
    if not all({"inbound_nodes", "name"} <= one.keys() for one in layers):
        return {}, []
    nodes = {one["name"]: one["class_name"] for one in layers}
    edges = [(one, layer["name"]) for layer in layers for one in dict.fromkeys(_origins(layer["inbound_nodes"]))]
    return nodes, [edge for edge in edges if edge[0] in nodes]


def _origins(part: Any) -> Iterator[str]:
    """Yield the names of the layers whose output tensors occur in a part of a config."""
    if isinstance(part, dict):
        if part.get("class_name") == "__keras_tensor__":
            yield part["config"]["keras_history"][0]
        else:
            for value in part.values():
                yield from _origins(value)
    elif isinstance(part, list):
        for value in part:
            yield from _origins(value)
