"""Check that a model has the labels that its loss takes, before any Spark job."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spark_dl.data.specs import ConversionSpec, LabelSpec
from spark_dl.errors import DataError, ModelError, OptionError, explain, shape_text
from spark_dl.options import ClassifierOptions, EstimatorOptions, TaggerOptions

if TYPE_CHECKING:
    import keras

    from spark_dl.train.model.examples import Example

__all__ = ["broadcast_notes", "check_broadcasts", "check_labels", "check_one_hot_metrics", "check_position_weights"]

# Keras metrics that take class indices.
_OF_CLASS_INDICES = (
    *("sparse_categorical_accuracy", "sparse_categorical_crossentropy", "sparse_top_k_categorical_accuracy"),
    *("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy", "SparseTopKCategoricalAccuracy"),
)


def check_broadcasts(losses: Mapping[str, Any], examples: Sequence[Example], labels: Sequence[LabelSpec]) -> None:
    """Check that no custom loss broadcasts a label of one number over several units.

    Args:
        losses: The loss of each output, by the output's name.
        examples: Shapes and dtypes of labels and outputs, in the order of the labels.
        labels: The labels' specifications.

    Raises:
        DataError: A loss takes such labels only in batches of as many rows as the output has units.
    """
    from spark_dl.train.model.batch_dependence import broadcasts_labels

    named = {label.key: label for label in labels}
    for example in examples:
        label = named.get(example.output) or named.get("")
        if label is not None and broadcasts_labels(losses.get(example.output), example):
            raise DataError(
                explain(
                    f"The label column {label.name!r} doesn't fit the model's output {example.output!r}.",
                    expected=f"an array in each row, for the output of shape {shape_text(example.output_shape)}",
                    received="one number a row, which the loss would compare with the units of other rows",
                    fix="Give the label as many numbers as the output has units, or reshape it in the loss.",
                )
            )


def broadcast_notes(losses: Mapping[str, Any], examples: Sequence[Example]) -> list[str]:
    """Return warnings about custom losses that compare the label of each row with the outputs of all rows.

    Args:
        losses: The loss of each output, by the output's name.
        examples: Shapes and dtypes of labels and outputs.
    """
    from spark_dl.train.model.batch_dependence import compares_rows

    return [
        f"The loss {getattr(loss, '__name__', type(loss).__name__)} of {example.output!r} compares the label of each "
        "row with the outputs of all rows of its batch, as labels have the shape (batch,) and outputs (batch, 1). "
        "Reshape one of them in the loss, or make the label an array of one number."
        for example in examples
        if compares_rows(loss := losses.get(example.output), example)
    ]


def check_labels(model: keras.Model, options: EstimatorOptions) -> None:
    """Check a model that is trained without labels.

    Args:
        model: The compiled Keras model.
        options: The estimator's options; nothing is checked if they name a label.

    Raises:
        OptionError: An option needs labels.
        ModelError: The compiled loss needs labels, or there is no loss.
    """
    import keras

    from spark_dl.train.model.batch_dependence import may_add_losses
    from spark_dl.train.model.step_trial import has_own_step

    if options.labelled:
        return
    if isinstance(options, (ClassifierOptions, TaggerOptions)) or options.weighted:
        thing = (
            "weightCol" if options.weighted else f"a {'tagger' if isinstance(options, TaggerOptions) else 'classifier'}"
        )
        raise OptionError(
            explain(
                f"There is no label, and {thing} needs one.",
                expected="a label column",
                received="labelCol=None",
                fix="Set labelCol, or train with KerasEstimator and without weights.",
            )
        )
    if type(model).train_step is keras.Model.train_step and (named := _metric_names(model)):
        raise ModelError(
            explain(
                "There is no label, and the model's metrics need one.",
                expected="a model without metrics",
                received=f"labelCol=None and metrics {', '.join(named)}",
                fix="Leave metrics out, or return values from a train_step of the model.",
            )
        )
    if has_own_step(model):
        return
    if model.loss is not None or not may_add_losses(model):
        raise ModelError(
            explain(
                "The model has no loss that does without labels.",
                expected="add_loss in a layer, or a train_step or compute_loss of its own",
                received=f"labelCol=None and loss={model.loss!r}",
                fix="Set labelCol, or leave the loss to the model and compile it without one.",
            )
        )


def check_position_weights(losses: Mapping[str, Any], conversion: ConversionSpec, options: EstimatorOptions) -> None:
    """Check that no loss that is one number for a whole row gets a weight for each position.

    Args:
        losses: The loss of each output, by the output's name.
        conversion: How rows are converted, with the weight column and its shape.
        options: The estimator's options, of which a tagger's classWeights weigh positions.

    Raises:
        DataError: One does.
    """
    weight, given = conversion.weight, []
    if weight is not None and math.prod(conversion.weight_shape) != 1:
        given.append(f"weightCol={weight.name!r}, an array in each row")
    if isinstance(options, TaggerOptions) and options.class_weights:
        given.append(f"classWeights={options.class_weights!r}")
    for output, loss in losses.items():
        if given and getattr(loss, "mean_over_rows", False):
            raise DataError(
                explain(
                    f"The loss {type(loss).__name__} of {output!r} has no weights for positions.",
                    expected="a weight column with one number a row, and no classWeights",
                    received="; ".join(given),
                    fix="Weigh whole rows; a label that is no tag (-1) leaves a position out.",
                )
            )


def check_one_hot_metrics(model: keras.Model, loss: str) -> None:
    """Check that no metric takes class indices where the loss receives one-hot labels: metrics get the loss's labels.

    Args:
        model: The compiled model.
        loss: The name of the loss.

    Raises:
        ModelError: A metric of Keras takes class indices.
    """
    kinds = [one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__) for one in _metrics(model)]
    if wrong := [kind for kind in kinds if kind in _OF_CLASS_INDICES]:
        raise ModelError(
            explain(
                f"Metrics of class indices can't be computed: with the loss {loss}, labels are one-hot rows.",
                expected="metrics of one-hot labels, such as 'accuracy' or 'top_k_categorical_accuracy'",
                received=", ".join(wrong),
                fix="Leave out 'sparse' in the metric's name, or set loss='sparse_categorical_crossentropy'.",
            )
        )


def _metrics(model: keras.Model) -> list[Any]:
    """Return the metrics that the model was compiled with: texts, functions and metrics."""
    from spark_dl._compat.keras import compile_metrics
    from spark_dl.train.model.parts import leaves

    return [one for one in leaves(compile_metrics(model)) if one is not None]


def _metric_names(model: keras.Model) -> list[str]:
    return [str(getattr(one, "name", getattr(one, "__name__", one))) for one in _metrics(model)]
