"""Labels that are the features themselves, of models that reconstruct their input, and the error of that per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql.types import StructType

from spark_dl.data.columns import kind_of
from spark_dl.data.label_rules import OF_CLASS_INDICES, RULES, apply_loss
from spark_dl.data.specs import FeatureSpec, LabelSpec
from spark_dl.errors import DataError, OptionError, explain, shape_text
from spark_dl.fit.columns import InputFacts, OutputFacts, feature_specs, label_columns, label_specs
from spark_dl.options import ColumnOptions
from spark_dl.score.heads import Classification, Head, Tagging

__all__ = ["check_error_col", "features_and_labels"]

# The value of labelCol that means the feature columns, whatever their names, unless a column has this name.
FEATURES = "features"
# The greatest number of a byte, of which images and raw binary columns consist.
_BYTE = 255


def features_and_labels(
    schema: StructType, options: ColumnOptions, inputs: Sequence[InputFacts], outputs: Sequence[OutputFacts]
) -> tuple[tuple[FeatureSpec, ...], tuple[LabelSpec, ...]]:
    """Describe how columns are converted to the model's inputs and to the labels of its outputs.

    Args:
        schema: The schema of the DataFrame.
        options: The column options. labelCol may be "features" for the feature columns, or name a column of images.
        inputs: The model's inputs.
        outputs: The model's outputs.

    Returns:
        The specifications of the inputs, of which some may also be labels (`target`), and those of other labels.

    Raises:
        OptionError: An input or an output has no column, or a column is assigned to an unknown one.
        DataError: A column is missing, or its type or shape doesn't fit the model or the loss.
    """
    features = feature_specs(schema, options, inputs)
    if options.label_col == FEATURES and not options.label_cols and FEATURES not in schema.names:
        if len(inputs) > 1 or len(outputs) > 1:
            raise OptionError(
                explain(
                    "labelCol='features' is for a model with one input and one output.",
                    expected="labelCols, with a feature column for each output",
                    received=f"{len(inputs)} inputs and {len(outputs)} outputs",
                    fix=f"Set labelCols={{{outputs[0].name!r}: ...}}.",
                )
            )
        (spec,) = features
        if len(spec.columns) > 1:
            return features, (_joined(spec, outputs[0]),)
        options = replace(options, label_col=spec.columns[0].name)
    if options.label_col is None and not options.label_cols:
        return features, ()
    named, param = label_columns(options, [one.name for one in outputs])
    fed: dict[str, str] = {}
    for one in outputs:
        places = [place for place, spec in enumerate(features) if _is_label_of(spec, named[one.name])]
        if places:
            place = places[0]
            _check_target(features[place], one, param)
            target = one.name if len(outputs) > 1 else ""
            features = (*features[:place], replace(features[place], target=target), *features[place + 1 :])
            fed[one.name] = named[one.name]
    return features, label_specs(schema, options, outputs, fed)


def _is_label_of(spec: FeatureSpec, name: str) -> bool:
    """Return whether a label's column is the only one of an input, and of a kind that only features have."""
    return [column.name for column in spec.columns] == [name] and not kind_of(spec.columns[0]).is_label


def _check_target(spec: FeatureSpec, output: OutputFacts, param: str) -> None:
    """Check that an output can be compared with bytes that feed an input: an image, or raw numbers from 0 to 255.

    Raises:
        DataError: It can't.
    """
    name = spec.columns[0].name
    if spec.dtype == "string":
        raise DataError(
            explain(
                f"The column {name!r}, which {param} names, can't be a label: it feeds an input of strings.",
                expected="numbers, since no loss compares strings",
                received=f"{name}, of kind {spec.columns[0].kind}",
                fix="Make an array of the words' indices, and give that as feature and label.",
            )
        )
    if spec.target is not None:
        raise DataError(
            explain(
                f"The column {name!r}, which {param} names, is the label of several outputs.",
                expected="images or binary values that are the label of one output",
                received=f"{param} with {name!r} more than once",
                fix="Join these outputs, or give arrays of numbers.",
            )
        )
    shape = output.shape if output.classes is None else output.shape[:-1]
    if shape != spec.shape:
        raise _misfit(name, output, spec.shape)
    rule = RULES.get(output.loss)
    if (rule is not None and rule.high < _BYTE) or (output.classes is not None and output.classes <= _BYTE):
        raise DataError(
            explain(
                f"The loss doesn't take the column {name!r} as a label.",
                expected=rule.text if rule is not None else f"class indices from 0 to {(output.classes or 1) - 1}",
                received=f"numbers from 0 to {_BYTE} of {name!r}",
                fix="Use another loss, such as 'mse', or give arrays of scaled numbers as features and labels. A model "
                "may begin with Rescaling(1 / 255) and end with Rescaling(255).",
            )
        )


def _joined(spec: FeatureSpec, output: OutputFacts) -> LabelSpec:
    """Describe a label that is the joined columns of an input.

    Raises:
        DataError: The output has another number of values.
    """
    shape = output.shape if output.classes is None else output.shape[:-1]
    if math.prod(shape) != math.prod(spec.shape):
        raise _misfit(", ".join(column.name for column in spec.columns), output, spec.shape)
    dtype = "float32" if output.classes is None else "int32"
    first, *others = spec.columns
    label = LabelSpec(first, shape, dtype, output.classes, ignored=output.ignored, joined=tuple(others))
    return apply_loss(label, output.shape, output.loss)


def _misfit(name: str, output: OutputFacts, received: tuple[int, ...]) -> DataError:
    return DataError(
        explain(
            f"The label {name!r} doesn't fit the model's output {output.name!r}.",
            expected=f"an output with a value for each of the model's input, of shape {shape_text(received)}",
            received=f"an output of shape {shape_text(output.shape)}",
            fix="Give the model's output the shape of its input.",
        )
    )


def check_error_col(inputs: Sequence[InputFacts], outputs: Sequence[OutputFacts], head: Head) -> None:
    """Check that a model's output can be compared with its input, for errorCol.

    Args:
        inputs: The model's inputs.
        outputs: The model's outputs.
        head: The meaning of the model's output.

    Raises:
        OptionError: It can't.
    """
    fits = len(inputs) == len(outputs) == 1 and not isinstance(head, (Classification, Tagging))
    if fits:
        (given,), (made,) = inputs, outputs
        shape = made.shape[:-1] if made.loss in OF_CLASS_INDICES else made.shape
        fits = given.dtype != "string" and math.prod(shape) == math.prod(given.shape)
    if not fits:
        raise OptionError(
            explain(
                "errorCol is for models that reconstruct their input.",
                expected="one input of numbers, and one output with as many numbers",
                received=f"inputs {', '.join(f'{one.name} {one.shape} {one.dtype}' for one in inputs)}, and outputs "
                + ", ".join(f"{one.name} {one.shape}" for one in outputs),
                fix="Leave errorCol out, or give the model one output with the shape of its input.",
            )
        )
