"""The meaning of a model's outputs for each task: general, classification, tagging and regression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.options import ClassifierOptions
from spark_dl.score.heads import Classification, Head, Regression, SeveralOutputs, Tagging, TensorOutput

if TYPE_CHECKING:
    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelShape

__all__ = [
    "check_classes",
    "check_for_each_class",
    "check_one_number",
    "check_positions",
    "class_head",
    "general_head",
    "tag_head",
]

# Descriptions of the output kinds, for the plan.
_MEANINGS = {
    "probability": "probabilities",
    "scores": "a score within [0, 1] of each class, probabilities once divided by their sum",
    "logits": "logits",
}


def general_head(shape: ModelShape) -> Head:
    """Return the head of a model with any outputs."""
    if len(shape.outputs) > 1:
        return SeveralOutputs.of({output.name: tuple(output.shape) for output in shape.outputs})
    (output,) = shape.outputs
    return Regression() if math.prod(output.shape) == 1 else TensorOutput.of(tuple(output.shape))


def check_one_number(shape: ModelShape) -> None:
    """Check that a model has the output of a regressor.

    Raises:
        ModelError: The model doesn't give one number in a row.
    """
    shapes = [output.shape for output in shape.outputs]
    if shapes not in ([(1,)], [()]):
        raise ModelError(
            explain(
                "The model's output isn't one of a regressor.",
                expected="one output, of shape (batch, 1)",
                received=", ".join(f"(batch, {', '.join(map(str, found))})" for found in shapes),
                fix="End the model with Dense(1), or use KerasEstimator.",
            )
        )


def check_classes(shape: ModelShape) -> None:
    """Check that a model has the output of a classifier.

    Raises:
        ModelError: The model doesn't have one output of one axis.
    """
    shapes = [output.shape for output in shape.outputs]
    if [len(found) for found in shapes] != [1]:
        raise ModelError(
            explain(
                "The model's output isn't one of a classifier.",
                expected="one output, of shape (batch, classes), or (batch, 1) for two classes",
                received=", ".join(f"(batch, {', '.join(map(str, found))})" for found in shapes),
                fix="End the model with Dense(classes, activation='softmax').",
            )
        )


def class_head(shape: ModelShape, loss: LossFacts | None, model: Any, options: ClassifierOptions) -> Classification:
    """Return the head of a classifier.

    Args:
        shape: The shape of the model, as `check_classes` checks it.
        loss: The facts of the loss; None for a model without a loss.
        model: The Keras model, to measure its output where nothing else decides; None if it can't be measured.
        options: The classifier's options.

    Raises:
        OptionError: An option doesn't have one value for each class.
        ModelError: It can't be decided whether the outputs are probabilities or logits.
    """
    from spark_dl.train.model.output_kind import LOGITS, SCORES, output_kind, undecided

    ((units,),) = [output.shape for output in shape.outputs]
    for param, given in (("thresholds", options.thresholds), ("classLabels", options.class_labels)):
        if given:
            check_for_each_class(param, given, max(units, 2))
    kind = output_kind(model, shape, options.output_kind, loss)
    if kind is None:
        raise undecided(getattr(model, "name", ""))
    return Classification(
        classes=max(units, 2),
        units=units,
        from_logits=kind.kind == LOGITS,
        normalize=kind.kind == SCORES,
        source=f"output {shape.outputs[0].name}: {_MEANINGS[kind.kind]} ({kind.source})",
    )


def check_positions(shape: ModelShape) -> None:
    """Check that a model has the output of a tagger.

    Raises:
        ModelError: The model doesn't have one output of two axes.
    """
    shapes = [output.shape for output in shape.outputs]
    if [len(found) for found in shapes] != [2]:
        raise ModelError(
            explain(
                "The model's output isn't one of a tagger.",
                expected="one output, of shape (batch, positions, classes)",
                received=", ".join(f"(batch, {', '.join(map(str, found))})" for found in shapes),
                fix="End the model with Dense(classes) on a sequence, or use KerasEstimator.",
            )
        )


def tag_head(shape: ModelShape, loss: LossFacts | None, model: Any, tag_labels: Sequence[str] | None) -> Tagging:
    """Return the head of a tagger.

    Args:
        shape: The shape of the model, as `check_positions` checks it.
        loss: The facts of the loss; None for a model without a loss.
        model: The Keras model, to measure its output where nothing else decides; None if it can't be measured.
        tag_labels: The names of the tags; None for none.

    Raises:
        OptionError: There isn't one name for each tag.
        ModelError: It can't be decided whether the outputs are probabilities or logits.
    """
    from spark_dl.train.model.output_kind import LOGITS, SCORES, output_kind, undecided

    (output,) = shape.outputs
    positions, classes = output.shape
    if tag_labels:
        check_for_each_class("tagLabels", tag_labels, classes)
    kind = output_kind(model, shape, None, loss)
    if kind is None:
        raise undecided(getattr(model, "name", ""))
    return Tagging(
        positions,
        classes,
        from_logits=kind.kind == LOGITS,
        normalize=kind.kind == SCORES,
        source=f"output {output.name}: {_MEANINGS[kind.kind]} ({kind.source})",
    )


def check_for_each_class(param: str, given: Sequence[Any], classes: int) -> None:
    """Check that an option has one value per class.

    Args:
        param: The option's name, for error messages.
        given: The option's value.
        classes: The number of classes.

    Raises:
        OptionError: The number of values differs from the number of classes.
    """
    if len(given) != classes:
        raise OptionError(
            explain(
                f"{param} isn't as long as there are classes.",
                expected=f"{classes} values",
                received=f"{len(given)}: {given}",
                fix=f"Give {param} one value for each class, in the order of the class indices.",
            )
        )
