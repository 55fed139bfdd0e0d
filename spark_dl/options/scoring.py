"""Options of scoring: the output columns and the batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dl.options import checks
from spark_dl.options.fields import Options, option

__all__ = ["ClassScoringOptions", "ProbabilityOptions", "ScoringOptions", "TagScoringOptions"]


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(Options):
    """Options of scoring: the output columns and the batch size."""

    prediction_col: str = option(
        "The column that the prediction is written to.",
        checks.text,
        "prediction",
        on_resume="any",
    )
    output_cols: list[str] | dict[str, Any] | None = option(
        "The columns that several outputs are written to: a list, in the model's order, or a dict by output name, "
        "which omits other outputs; not set, predictionCol, _ and the output's name.",
        checks.named_columns(several=False),
        None,
        on_resume="any",
    )
    output_format: str = option(
        "The type of an output with several numbers per row (of a KerasModel, or of outputLayer): 'array', of "
        "floats, or 'vector', a Spark ML Vector for other stages of a Pipeline.",
        checks.choice("array", "vector"),
        "array",
        on_resume="any",
    )
    error_col: str | None = option(
        "The column of each row's reconstruction error, a double, of a model that reconstructs its input: the model's "
        "loss between input and output if that is one of Keras's, else the mean squared error; not set, none.",
        checks.text,
        None,
        on_resume="any",
    )
    score_batch_size: int = option(
        "Rows in a batch of the model in transform.",
        checks.integer(1),
        4096,
        on_resume="any",
    )

    score_engine: str = option(
        "The inference engine of transform, scoreParquet, streams, SQL functions and the served model: "
        "'keras', 'onnx' (ONNX Runtime, extra `onnx`) or 'litert' (LiteRT, extra `litert`). The latter two don't "
        "import TensorFlow, and take columns of numbers only.",
        checks.choice("keras", "onnx", "litert"),
        "keras",
        on_resume="any",
    )

    score_null_policy: str = option(
        "What transform does with a row that has a null, NaN or infinite number in a feature column, or bytes that "
        "can't be decoded: 'error'; 'null' for null outputs; or 'drop' to leave it out of the result.",
        checks.choice("error", "null", "drop"),
        "error",
        on_resume="any",
    )

    @property
    def columns_by_output(self) -> dict[str, str]:
        """The columns by the fields of a model with a single output; '' for a field that isn't written."""
        return {"prediction": self.prediction_col}


@dataclass(frozen=True, kw_only=True)
class ProbabilityOptions(ScoringOptions):
    """The column of the probabilities."""

    probability_col: str = option(
        "The column of the class probabilities: a Vector, or for a tagger an array for each position; '' for none.",
        checks.text,
        "probability",
        on_resume="any",
    )

    @property
    def columns_by_output(self) -> dict[str, str]:
        """The columns of the prediction and the probabilities; '' for a field that isn't written."""
        return {**super().columns_by_output, "probability": self.probability_col}


@dataclass(frozen=True, kw_only=True)
class ClassScoringOptions(ProbabilityOptions):
    """Options of a classifier's scoring: output columns, thresholds and class labels."""

    raw_prediction_col: str = option(
        "The column of the logits, as a Vector; '' for none.",
        checks.text,
        "rawPrediction",
        on_resume="any",
    )
    thresholds: list[float] | None = option(
        "A threshold for each class, at most one of them 0: the class of greatest probability / threshold is "
        "predicted.",
        checks.thresholds,
        None,
        on_resume="any",
    )
    top_k: int | None = option(
        "How many of the most probable classes transform writes to topKCol; not set, none.",
        checks.integer(1),
        None,
        on_resume="any",
    )
    top_k_col: str = option(
        "The column of the topK most probable classes, in descending order: an array of (label, probability).",
        checks.text,
        "topK",
        on_resume="any",
    )
    class_labels: list[str] | None = option(
        "The classes' names in the order of their indices, for topKCol; not set, the indices.",
        checks.names,
        None,
        on_resume="any",
    )

    @property
    def columns_by_output(self) -> dict[str, str]:
        """The columns of the prediction, the probabilities and the logits; '' for a field that isn't written."""
        return {**super().columns_by_output, "rawPrediction": self.raw_prediction_col}


@dataclass(frozen=True, kw_only=True)
class TagScoringOptions(ProbabilityOptions):
    """Options of a tagger's scoring: output columns and the tags' names."""

    tag_labels: list[str] | None = option(
        "The tags' names in the order of their indices: transform writes those of the predicted tags to tagsCol.",
        checks.names,
        None,
        on_resume="any",
    )
    tags_col: str = option(
        "The column of the predicted tags' names, an array of strings; written if tagLabels is set.",
        checks.text,
        "tags",
        on_resume="any",
    )
