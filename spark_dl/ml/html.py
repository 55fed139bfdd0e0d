"""How an estimator and a fitted model are shown: as text, and as HTML in notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spark_dl.data.columns import OPEN
from spark_dl.fit.initial_model import display_name
from spark_dl.ml.params.option_params import OptionParams
from spark_dl.ml.summary import TrainingSummary, summary_html
from spark_dl.notebook.html import heading, table
from spark_dl.redaction import redact

if TYPE_CHECKING:
    from spark_dl.fit.columns import InputFacts, OutputFacts

__all__ = ["as_text", "estimator_html", "model_html", "model_text"]

_LONGEST = 60


def as_text(params: OptionParams, facts: Mapping[str, object] | None = None) -> str:
    """Show an instance in one line, as Spark ML shows models: its uid, the params that differ from their defaults.

    Args:
        params: The estimator or the fitted model.
        facts: What else there is to tell.
    """
    parts = {"uid": params.uid, **_changed(params), **(facts or {})}
    return f"{type(params).__name__}: " + ", ".join(f"{name}={_short(value)}" for name, value in parts.items())


def estimator_html(estimator: OptionParams) -> str:
    """Show an estimator: its params that differ from their defaults."""
    return heading(type(estimator).__name__, estimator.uid) + _params(estimator)


def model_html(
    model: OptionParams, inputs: Sequence[InputFacts], outputs: Sequence[OutputFacts], summary: TrainingSummary
) -> str:
    """Show a fitted model: params that differ from their defaults, inputs and outputs, and the training summary."""
    tables = table(_input_texts(inputs), "Inputs") + table(_output_texts(outputs), "Outputs")
    return heading(type(model).__name__, model.uid) + _params(model) + tables + summary_html(summary)


def model_text(model: OptionParams, inputs: Sequence[InputFacts], outputs: Sequence[OutputFacts]) -> str:
    """Show a fitted model in one line, with its inputs and outputs."""
    facts: dict[str, object] = {"inputs": _joined(_input_texts(inputs)), "outputs": _joined(_output_texts(outputs))}
    return as_text(model, {name: text for name, text in facts.items() if text})


def _input_texts(inputs: Sequence[InputFacts]) -> dict[str, str]:
    return {one.name: f"{one.dtype} {_shape(one.shape)}" for one in inputs}


def _output_texts(outputs: Sequence[OutputFacts]) -> dict[str, str]:
    return {one.name: _shape(one.shape) for one in outputs}


def _joined(texts: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {text}" for name, text in texts.items())


def _short(value: object) -> str:
    text = redact(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


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
    """Return whether a value reads well as it is, unlike Keras objects, functions and DataFrames."""
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))


def _shape(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if size in (None, OPEN) else str(size) for size in shape)})"
