"""Options of tracking and of the progress display."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dl.options import checks
from spark_dl.options.fields import Options, option

__all__ = ["TrackingOptions"]


@dataclass(frozen=True, kw_only=True)
class TrackingOptions(Options):
    """Options of tracking and of the progress display."""

    tracking: str | None = option(
        "Where the fit is logged: 'mlflow'; 'optional' for MLflow if it can be reached; None disables tracking.",
        checks.text_or_none,
        "mlflow",
        on_resume="any",
    )
    experiment_name: str | None = option(
        "The MLflow experiment; not set, the active one.",
        checks.text,
        None,
        on_resume="any",
    )
    run_name: str | None = option(
        "The name of the MLflow run that the fit opens.",
        checks.text,
        None,
        on_resume="any",
    )
    registered_model_name: str | None = option(
        "The registered model of MLflow that the fitted model becomes a new version of, without the other stages of a "
        "Pipeline: register a PipelineModel with spark_dl.mlflow.log_model(pipelineModel, registered_model_name=...).",
        checks.text,
        None,
        on_resume="any",
    )
    verbose: int = option(
        "0: silent, 1: a progress bar, 2: one line for each epoch.",
        checks.integer(0, 2),
        1,
        on_resume="any",
    )
