"""Evaluation of fitted models and of fitted Pipelines that end with one."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame

from spark_dl.errors import ModelError, explain
from spark_dl.ml.model import KerasModel

__all__ = ["evaluate", "keras_stage", "rows_for"]


def evaluate(model: Any, dataset: DataFrame) -> dict[str, Any]:
    """Compute the loss and the metrics of a fitted model, also of a fitted Pipeline, on rows with labels.

    The stages of a Pipeline before its last KerasModel transform the rows; those after it have no effect.

    Args:
        model: A KerasModel, a PipelineModel with one among its stages, or the result of a search, whose best model is
            evaluated.
        dataset: The rows, with the columns that the model or Pipeline was fitted on, labels included.

    Returns:
        The values by the names of `keras.Model.evaluate`; lists for metrics with several values.

    Raises:
        ModelError: There is no KerasModel among the stages, or a metric can't be computed over the cluster.
        DataError: A column or a value can't be converted for the model, or there are no rows.
    """
    return keras_stage(model).evaluate(rows_for(model, dataset))


def rows_for(model: Any, dataset: DataFrame) -> DataFrame:
    """Return the rows that `keras_stage(model)` gets: those that the stages before it make."""
    last, rows = keras_stage(model), dataset
    for stage in _stages(model):
        if stage is last:
            break
        rows = stage.transform(rows)
    return rows


def keras_stage(model: Any) -> KerasModel:
    """Return the model itself, or the last KerasModel of a fitted Pipeline or of a search's best model.

    Raises:
        ModelError: There is none.
    """
    stages = _stages(model)
    found = [stage for stage in stages if isinstance(stage, KerasModel)]
    if not found:
        raise ModelError(
            explain(
                "There is no Keras model to use.",
                expected="a KerasModel, or a PipelineModel with one among its stages",
                received=", ".join(type(stage).__name__ for stage in stages) or type(model).__name__,
                fix="Give another model, without options of spark_dl where it has no Keras model.",
            )
        )
    return found[-1]


def _stages(model: Any) -> list[Any]:
    """Return the stages of a model in the order in which they transform rows; Pipelines in Pipelines are opened."""
    model = getattr(model, "bestModel", model)
    if not hasattr(model, "stages"):
        return [model]
    return [part for stage in model.stages for part in _stages(stage)]
