"""The options records of the public classes, composed of the groups."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dl.options import checks
from spark_dl.options.cluster import ClusterOptions
from spark_dl.options.data import ColumnOptions, DataOptions
from spark_dl.options.fields import option
from spark_dl.options.model import ModelOptions
from spark_dl.options.scoring import ClassScoringOptions, ScoringOptions, TagScoringOptions
from spark_dl.options.storage import FileSystemOptions
from spark_dl.options.tracking import TrackingOptions
from spark_dl.options.training import TrainingOptions

__all__ = [
    "ClassWeightOptions",
    "ClassifierOptions",
    "EstimatorOptions",
    "FittedClassifierOptions",
    "FittedOptions",
    "FittedTaggerOptions",
    "TaggerOptions",
]


# Dataclasses list the fields of their last base first; signatures and documentation follow that order.
@dataclass(frozen=True, kw_only=True)
class EstimatorOptions(ScoringOptions, TrackingOptions, ClusterOptions, TrainingOptions, DataOptions, ModelOptions):
    """The options of `KerasEstimator` and `KerasRegressor`."""

    @property
    def labelled(self) -> bool:
        """Whether there is a label column."""
        return self.label_col is not None or bool(self.label_cols)

    @property
    def weighted(self) -> bool:
        """Whether training rows have sample weights."""
        return bool(self.weight_col)


@dataclass(frozen=True, kw_only=True)
class ClassWeightOptions(EstimatorOptions):
    """The option of classifiers and taggers that weighs classes."""

    class_weights: str | dict[int, float] | None = option(
        "Class weights in training, by class index ({1: 5.0}; others are 1), or 'balanced': rows / (classes x rows of "
        "the class), for a tagger positions. They multiply the sample weights, and aren't applied in validation, as "
        "in Keras.",
        checks.class_weights,
        None,
        on_resume="same",
    )

    @property
    def weighted(self) -> bool:
        """Whether training rows have sample weights or class weights."""
        return bool(super().weighted or self.class_weights)


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(ClassScoringOptions, ClassWeightOptions):
    """The options of `KerasClassifier`."""

    output_kind: str | None = option(
        "What the classifier's output units hold: 'logits' or 'probability'; not set, it is derived from the last "
        "activation or the loss, or measured on synthetic rows before training (`plan` shows the result).",
        checks.choice("logits", "probability"),
        None,
        on_resume="model",
    )
    stratified: bool = option(
        "Whether validationFraction is sampled per class, so that all classes have the same fraction.",
        checks.boolean,
        False,
        on_resume="rows",
    )
    balance: str = option(
        "Balance the classes of the training rows: 'oversample' repeats rows of rare classes, 'undersample' leaves "
        "out rows of frequent ones, by the seed; validation rows are unchanged.",
        checks.choice("none", "oversample", "undersample"),
        "none",
        on_resume="same",
    )


@dataclass(frozen=True, kw_only=True)
class FittedOptions(ScoringOptions, FileSystemOptions, ColumnOptions):
    """The options of `KerasModel` and `KerasRegressorModel`."""

    output_layer: str | None = option(
        "The layer whose output transform writes to predictionCol (see outputFormat) in place of the model's output, "
        "such as an embedding.",
        checks.text,
        None,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class FittedClassifierOptions(ClassScoringOptions, FittedOptions):
    """The options of `KerasClassifierModel`."""


@dataclass(frozen=True, kw_only=True)
class TaggerOptions(TagScoringOptions, ClassWeightOptions):
    """The options of `KerasTagger`."""


@dataclass(frozen=True, kw_only=True)
class FittedTaggerOptions(TagScoringOptions, FittedOptions):
    """The options of `KerasTaggerModel`."""
