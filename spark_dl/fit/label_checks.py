"""Check that a model has the labels that its loss takes, before any Spark job."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spark_dl.data.label_rules import OF_CLASS_INDICES, OWN_OF_ONE_HOT_ROWS
from spark_dl.data.specs import ConversionSpec, LabelSpec
from spark_dl.errors import DataError, ModelError, OptionError, explain, shape_text
from spark_dl.options import ClassifierOptions, EstimatorOptions, TaggerOptions

if TYPE_CHECKING:
    import keras

    from spark_dl.fit.worker_checks import Fitted
    from spark_dl.train.model.examples import Example
    from spark_dl.train.model.losses import LossFacts

__all__ = [
    "broadcast_notes",
    "check_broadcasts",
    "check_labels",
    "check_losses_take_labels",
    "check_metrics_take_labels",
    "check_position_weights",
    "class_count",
    "label_rule",
]


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
                    received="one number per row, which the loss would compare with the units of other rows",
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
    """Check that a model can be given its labels, or does without them.

    Args:
        model: The compiled Keras model.
        options: The estimator's options.

    Raises:
        OptionError: An option needs labels.
        ModelError: The compiled loss needs labels, or there is no loss; or labels can't be matched to outputs.
    """
    import keras

    from spark_dl.train.model.batch_dependence import may_add_losses
    from spark_dl.train.model.step_trial import has_own_step

    if options.labelled:
        _check_tuple(model)
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
                "The model has no loss that works without labels.",
                expected="add_loss in a layer, or a custom train_step or compute_loss",
                received=f"labelCol=None and loss={model.loss!r}",
                fix="Set labelCol, or leave the loss to the model and compile it without one.",
            )
        )


def _check_tuple(model: keras.Model) -> None:
    """Check that a model with several outputs names them: labels come by name, and Keras matches them to names."""
    from spark_dl.train.model.shape import shape_of

    shape = shape_of(model)
    if len(shape.outputs) > 1 and not shape.gives_dict and not getattr(model, "output_names", None):
        raise ModelError(
            explain(
                "The model's outputs have no names, by which labels could be matched.",
                expected="a dict of outputs by name, or a functional model",
                received=f"{type(model).__name__}, whose call returns {len(shape.outputs)} outputs in a list or tuple",
                fix="Return a dict from call.",
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
                    expected="a weight column with one number per row, and no classWeights",
                    received="; ".join(given),
                    fix="Weight whole rows; a label below 0 (-1) excludes a position.",
                )
            )


def class_count(output: tuple[int, ...], loss: LossFacts) -> int | None:
    """Return the number of classes where a loss takes class indices as an output's labels, else None.

    Args:
        output: The shape of one row of the output.
        loss: The facts of the output's loss.
    """
    certain = len(output) == 1 or (len(output) > 1 and loss.known and loss.last_axis)
    return output[-1] if certain and loss.name in OF_CLASS_INDICES else None


def label_rule(loss: LossFacts, of_classes: bool) -> str:
    """Return the name of a loss whose rule an output's labels obey, as in `data/label_rules.py`; "" for none.

    Args:
        loss: The facts of the output's loss.
        of_classes: Whether the labels are class indices.
    """
    if loss.known and loss.last_axis:
        return loss.name
    return OWN_OF_ONE_HOT_ROWS if of_classes and loss.one_hot else ""


def check_losses_take_labels(fitted: Fitted, conversion: ConversionSpec) -> None:
    """Check that the losses take labels of these shapes.

    Args:
        fitted: The compiled model, and the shapes and dtypes of labels and outputs.
        conversion: The specification of the conversion, with the labels and weights.

    Raises:
        ModelError: One doesn't.
    """
    from spark_dl.train.model.label_trial import refusal, refusal_in_model
    from spark_dl.train.model.step_trial import has_own_step

    if fitted.model.run_eagerly or has_own_step(fitted.model):  # which may convert labels before
        return
    named = {label.key: label.name for label in conversion.labels}
    weight = conversion.weight_shape if conversion.weight else None
    for example in fitted.examples:
        if (loss := fitted.losses.get(example.output)) is None or not refusal(loss, example):
            continue
        # A loss may take more of the model's outputs than their numbers, such as masks, and need weights.
        examples = {one.output: one for one in fitted.examples}
        if error := refusal_in_model(fitted.model, fitted.inputs, examples, weight):
            name = named.get(example.output) or named.get("") or example.output
            raise ModelError(
                explain(
                    f"The loss {getattr(loss, '__name__', type(loss).__name__)} of {example.output!r} doesn't take "
                    f"the label {name!r}.",
                    expected=f"a loss of labels of shape {shape_text(example.label_shape)} ({example.label_dtype}) and "
                    f"outputs of shape {shape_text(example.output_shape)}",
                    received=error,
                    fix=_fix_of_label(loss, example, name),
                )
            )


def check_metrics_take_labels(fitted: Fitted, conversion: ConversionSpec) -> None:
    """Check that the metrics of a model with one output take labels of this shape.

    Args:
        fitted: The compiled model, and the shapes and dtypes of labels and outputs.
        conversion: The specification of the conversion, with the labels and weights.

    Raises:
        ModelError: One doesn't, or its name is unknown.
    """
    import keras

    from spark_dl.train.metrics.label_trial import metrics_refusal
    from spark_dl.train.model.step_trial import has_own_step

    model = fitted.model
    own = has_own_step(model) or type(model).compute_metrics is not keras.Model.compute_metrics
    if model.run_eagerly or own or len(fitted.examples) != 1 or len(fitted.losses) != 1:
        return
    (example,) = fitted.examples
    weight = conversion.weight_shape if conversion.weight else None
    if not (error := metrics_refusal(model, example, fitted.inputs, fitted.copied, weight)):
        return
    of_indices = any(label.classes is not None and not label.one_hot for label in conversion.labels)
    fix = "Change the metrics, or leave them out."
    if of_indices and example.output_shape != (1,):
        fix += " For class indices, Keras has accuracy and sparse_..."
    one_number = replace(example, label_shape=(1,))
    if (example.label_shape, example.output_shape) == ((), (1,)) and not metrics_refusal(
        model, one_number, fitted.inputs, fitted.copied, weight
    ):
        fix += " These take labels of shape (batch, 1): KerasEstimator has them of a column of arrays of one number."
    raise ModelError(
        explain(
            "The metrics can't be computed.",
            expected=f"metrics of labels of shape {shape_text(example.label_shape)} ({example.label_dtype}) and "
            f"outputs of shape {shape_text(example.output_shape)}",
            received=f"metrics {', '.join(_metric_names(model))}; {error}",
            fix=fix,
        )
    )


def _fix_of_label(loss: Any, example: Example, name: str) -> str:
    """Return the fix for a label that a loss doesn't take: its shape, if the loss takes indices of classes."""
    from spark_dl.train.model.label_trial import refusal

    positions = example.output_shape[:-1]
    indices = replace(example, label_shape=positions, label_dtype="int32")
    if positions and example.label_shape != positions and not refusal(loss, indices):
        return f"Set labelShapes={{{name!r}: {list(positions)}}} for a class index at each position."
    return "Change the loss, or the label: a row that differs in shape from the output's takes labelShapes."


def _metric_names(model: keras.Model) -> list[str]:
    from spark_dl.train.model.one_hot_metrics import compiled_metrics

    return [str(getattr(one, "name", getattr(one, "__name__", one))) for one in compiled_metrics(model)]
