"""What a notebook shows of an estimator and a fitted model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spark_dl.data.columns import OPEN
from spark_dl.fit.initial_model import display_name
from spark_dl.ml.params.option_params import OptionParams
from spark_dl.ml.summary import TrainingSummary, summary_html
from spark_dl.notebook.html import heading, table

if TYPE_CHECKING:
    from spark_dl.fit.columns import InputFacts, OutputFacts

__all__ = ["estimator_html", "model_html"]


def estimator_html(estimator: OptionParams) -> str:
    """Show an estimator: its params that differ from their defaults."""
    return heading(type(estimator).__name__, estimator.uid) + _params(estimator)


def model_html(
    model: OptionParams, inputs: Sequence[InputFacts], outputs: Sequence[OutputFacts], summary: TrainingSummary
) -> str:
    """Show a fitted model: params that differ from their defaults, inputs and outputs, and the training summary."""
    shown_inputs = {one.name: f"{one.dtype} {_shape(one.shape)}" for one in inputs}
    shown_outputs = {one.name: _shape(one.shape) for one in outputs}
    tables = table(shown_inputs, "Inputs") + table(shown_outputs, "Outputs")
    return heading(type(model).__name__, model.uid) + _params(model) + tables + summary_html(summary)


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
    return f"({', '.join('any' if size in (None, OPEN) else str(size) for size in shape)})"
