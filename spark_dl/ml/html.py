"""What a notebook shows of an estimator, a fitted model and a training summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spark_dl.fit.initial_model import display_name
from spark_dl.log_values import scalar_history
from spark_dl.notebook.html import curve, heading, table

if TYPE_CHECKING:
    from spark_dl.ml.model import KerasModel
    from spark_dl.ml.params.option_params import OptionParams
    from spark_dl.ml.savable_estimator import SavableEstimator
    from spark_dl.ml.summary import TrainingSummary

__all__ = ["estimator_html", "model_html", "summary_html"]


def estimator_html(estimator: SavableEstimator) -> str:
    """Show an estimator: its params that differ from their defaults."""
    return heading(type(estimator).__name__, estimator.uid) + _params(estimator)


def model_html(model: KerasModel) -> str:
    """Show a fitted model: params that differ from their defaults, inputs and outputs, and the training summary."""
    inputs = {one.name: f"{one.dtype} {_shape(one.shape)}" for one in model._inputs}
    outputs = {one.name: _shape(one.shape) for one in model._outputs}
    tables = table(inputs, "Inputs") + table(outputs, "Outputs")
    return heading(type(model).__name__, model.uid) + _params(model) + tables + summary_html(model.summary)


def summary_html(summary: TrainingSummary) -> str:
    """Show a training summary: its numbers, the last values of the metrics, and the loss over the epochs."""
    history = scalar_history(summary.history)
    if not history:
        return ""
    epochs = summary.first_epoch + max(map(len, history.values()))
    facts: dict[str, object] = {
        "epochs": epochs,
        "best epoch": summary.best_epoch + 1 if summary.best_epoch >= 0 else "",
        "rows": f"{summary.rows:,}",
        "validation rows": f"{summary.validation_rows:,}",
        "seconds": f"{summary.seconds:.1f}",
        "rows per second": f"{summary.rows_per_second:,.0f}",
        "weights that aren't finite": summary.non_finite,
        "MLflow run": summary.run_id,
        "entries not logged": len(summary.unlogged) or "",
    }
    last = {name: f"{values[-1]:.4f}" for name, values in history.items() if values}
    losses: dict[str, list[float]] = {name: history[name] for name in ("loss", "val_loss") if name in history}
    shown = table({name: fact for name, fact in facts.items() if fact != ""}, "Training")
    return shown + table(last, "Last epoch") + curve(losses, "loss over the epochs")


def _params(params: OptionParams) -> str:
    return table(_changed(params), "Params that differ from their defaults")


def _changed(params: OptionParams) -> Mapping[str, object]:
    found: dict[str, object] = {}
    for option in params.options:
        value = params.getOrDefault(option.name)
        if value is not option.default and (not _plain(value) or value != option.default):
            found[option.name] = value if _plain(value) else display_name(value)
    return found


def _plain(value: Any) -> bool:
    """Tell whether a value reads well as it is, unlike Keras objects, functions and DataFrames."""
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))


def _shape(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join(str(size) if size is not None else 'any' for size in shape)})"
