"""The mapping between columns and the model: feature columns of inputs, label and output columns of outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql.types import BooleanType, NumericType, StructType

from spark_dl.data.label_rules import apply_loss
from spark_dl.data.null_policy import NullPolicy
from spark_dl.data.padding_policy import PaddingPolicy
from spark_dl.data.schema import ColumnRules, feature_spec, known_width, label_spec
from spark_dl.data.specs import FeatureSpec, LabelSpec
from spark_dl.errors import OptionError, explain, hint
from spark_dl.options import ColumnOptions, DataOptions, EstimatorOptions, ScoringOptions
from spark_dl.spark.session import is_case_sensitive

__all__ = [
    "InputFacts",
    "OutputFacts",
    "check_null_policy",
    "check_outputs",
    "feature_specs",
    "input_columns",
    "label_columns",
    "label_specs",
    "output_columns",
    "position_rules",
    "refuse_lists",
    "shapes_of_columns",
    "shapes_of_inputs",
]


@dataclass(frozen=True)
class InputFacts:
    """An input of the Keras model, as saved with the fitted model.

    Attributes:
        name: The input's name.
        shape: The shape of one row.
        dtype: The NumPy name of the dtype, or "string".
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @staticmethod
    def of(saved: Mapping[str, Any]) -> InputFacts:
        """Load an input from saved metadata."""
        return InputFacts(str(saved["name"]), tuple(map(int, saved["shape"])), str(saved["dtype"]))


@dataclass(frozen=True)
class OutputFacts:
    """An output of the Keras model, as saved with the fitted model.

    Attributes:
        name: The output's name.
        shape: The shape of one row.
        classes: The number of classes if the labels are class indices, else None.
        loss: The name of the output's loss, if it is one of Keras's with the classes along the last axis; else "".
        ignored: The class index that the loss ignores; None for none.
    """

    name: str
    shape: tuple[int, ...]
    classes: int | None
    loss: str = ""
    ignored: int | None = None

    @staticmethod
    def of(saved: Mapping[str, Any]) -> OutputFacts:
        """Load an output from saved metadata."""
        classes, ignored = saved["classes"], saved.get("ignored")
        return OutputFacts(
            str(saved["name"]),
            tuple(map(int, saved["shape"])),
            None if classes is None else int(classes),
            str(saved.get("loss", "")),  # earlier releases didn't save it
            None if ignored is None else int(ignored),
        )


def input_columns(options: ColumnOptions, inputs: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """Assign feature columns to the model's inputs.

    Args:
        options: The column options; featuresCol and inputCols are read.
        inputs: The names of the inputs, in the model's order.

    Returns:
        The columns of each input by its name, and the name of the option that sets them.

    Raises:
        OptionError: An input has no column, or a column is assigned to an unknown input.
    """
    given = options.input_cols
    if not given:
        if len(inputs) > 1:
            raise OptionError(
                explain(
                    "The model has several inputs.",
                    expected=f"inputCols, with a column for each of {', '.join(inputs)}",
                    received=f"featuresCol={options.features_col!r}",
                    fix=f"Set inputCols={{{inputs[0]!r}: ..., {inputs[1]!r}: ...}}.",
                )
            )
        return {inputs[0]: [options.features_col]}, "featuresCol"
    if isinstance(given, dict):
        named = _by_name(given, inputs, "inputCols", "input")
        return {name: [named[name]] if isinstance(named[name], str) else named[name] for name in inputs}, "inputCols"
    if len(inputs) == 1:
        return {inputs[0]: given}, "inputCols"
    return {name: [column] for name, column in _by_name(given, inputs, "inputCols", "input").items()}, "inputCols"


def refuse_lists(options: EstimatorOptions, takes_dict: bool, gives_dict: bool) -> None:
    """Check that a model built on dicts, which have no order, gets its columns as dicts.

    Args:
        options: The estimator's options.
        takes_dict: Whether the model was built on a dict of inputs.
        gives_dict: Whether the model was built on a dict of outputs.

    Raises:
        OptionError: inputCols, labelCols or outputCols is a list.
    """
    for param, given, is_dict in (
        ("inputCols", options.input_cols, takes_dict),
        ("labelCols", options.label_cols, gives_dict),
        ("outputCols", options.output_cols, gives_dict),
    ):
        if is_dict and isinstance(given, list):
            raise OptionError(
                explain(
                    f"{param} is a list, but the model was built on a dict, which has no order.",
                    expected=f"a dict from the {'input' if param == 'inputCols' else 'output'}'s name to the column",
                    received=f"{param}={given}",
                    fix=f"Give {param} as a dict.",
                )
            )


def output_columns(options: ScoringOptions, outputs: Sequence[str]) -> dict[str, str]:
    """Assign output columns to the outputs of a model with several outputs.

    Args:
        options: The scoring options; outputCols and predictionCol are read.
        outputs: The names of the outputs, in the model's order.

    Returns:
        The output columns by the outputs' names, without the outputs that aren't written.

    Raises:
        OptionError: A column is assigned to an unknown output, or a list has another length than the outputs.
    """
    given = options.output_cols
    if not given:
        return {name: f"{options.prediction_col}_{name}" for name in outputs}
    return _by_name(given, outputs, "outputCols", "output", partly=isinstance(given, dict))


def check_outputs(names: Mapping[str, str], features: Sequence[str]) -> None:
    """Check that `transform` can write the output columns.

    Args:
        names: The output columns by the fields that are written to them.
        features: The names of the feature columns.

    Raises:
        OptionError: There is no output column, two outputs share a column, or an output column is a feature column.
    """
    columns = list(names.values())
    taken = [_compared(name) for name in (*columns, *dict.fromkeys(features))]
    wrong = [name for name in columns if taken.count(_compared(name)) > 1]
    if columns and not wrong:
        return
    raise OptionError(
        explain(
            "No output column is named." if not columns else f"The output column {wrong[0]!r} is taken.",
            expected="at least one output column, each with a unique name that no feature column has",
            received=", ".join(f"{field} to {name!r}" for field, name in names.items()) or "'' for each",
            fix="Set predictionCol, or outputCols for several outputs.",
        )
    )


def _compared(name: str) -> str:
    """Return a column name as names are compared: in lower case unless Spark is case-sensitive."""
    return name if is_case_sensitive() else name.lower()


def shapes_of_columns(schema: StructType, options: EstimatorOptions) -> dict[str, tuple[int, ...] | None]:
    """Return the shape of one row of each feature column, as far as it is known before the model is.

    Known are numbers, columns in columnShapes, and Vectors whose metadata has their width, as Spark ML's stages write
    it; others are None.

    Args:
        schema: The schema of the DataFrame.
        options: The estimator's options.
    """
    given = options.input_cols or [options.features_col]
    parts: Iterable[str | list[str]] = given.values() if isinstance(given, dict) else given
    names = [name for part in parts for name in ([part] if isinstance(part, str) else part)]
    return {name: _known_shape(schema, name, options) for name in names}


def _known_shape(schema: StructType, name: str, options: DataOptions) -> tuple[int, ...] | None:
    if name in (options.column_shapes or {}):
        return tuple((options.column_shapes or {})[name])
    if name not in schema.names:  # an error of its own later
        return None
    width = known_width(schema, name)
    if width is not None:
        return (width,)
    return (1,) if isinstance(schema[name].dataType, (NumericType, BooleanType)) else None


def shapes_of_inputs(options: DataOptions, columns: Mapping[str, list[str]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of inputs that columnShapes sets.

    Args:
        options: The data options.
        columns: The feature columns of each input, by its name.

    Returns:
        The shapes of one row, by the inputs' names.

    Raises:
        OptionError: A column of columnShapes feeds no input, or shares its input with other columns.
    """
    alone = {names[0]: name for name, names in columns.items() if len(names) == 1}
    given = options.column_shapes or {}
    unknown = [column for column in given if column not in alone]
    if unknown:
        raise OptionError(
            explain(
                f"columnShapes gives a shape for {unknown[0]!r}, which isn't the one column of an input.",
                expected=f"columns among {', '.join(alone) or 'none'}",
                received=f"columnShapes={given}",
                fix=hint(unknown[0], alone) or "Leave it out.",
            )
        )
    return {alone[column]: tuple(shape) for column, shape in given.items()}


def feature_specs(schema: StructType, options: ColumnOptions, inputs: Sequence[InputFacts]) -> tuple[FeatureSpec, ...]:
    """Describe how columns are converted to each of the model's inputs.

    Args:
        schema: The schema of the DataFrame.
        options: The column options.
        inputs: The model's inputs.

    Raises:
        OptionError: An input has no column, or a column is assigned to an unknown input.
        DataError: A column is missing, or its type or shape doesn't fit the input.
    """
    columns, param = input_columns(options, [one.name for one in inputs])
    nulls = NullPolicy.of(options.null_policy)
    padding = PaddingPolicy.of(options.padding, options.truncate)
    validate = isinstance(options, DataOptions) and options.validate_images  # fitted models lack the option
    return tuple(
        feature_spec(
            schema,
            columns[one.name],
            param,
            one.shape,
            one.dtype,
            ColumnRules(options.binary_format, options.sparse_vectors, validate, nulls, padding),
            one.name if len(inputs) > 1 else "",
        )
        for one in inputs
    )


def label_specs(
    schema: StructType, options: ColumnOptions, outputs: Sequence[OutputFacts], fed: Collection[str] = ()
) -> tuple[LabelSpec, ...]:
    """Describe how columns are converted to the labels of each of the model's outputs.

    Args:
        schema: The schema of the DataFrame.
        options: The column options.
        outputs: The model's outputs.
        fed: The names of the outputs whose labels are features, which have no label of their own here.

    Raises:
        OptionError: An output has no label column, or a column is assigned to an unknown output.
        DataError: A column is missing, or its type or shape doesn't fit the output or its loss.
    """
    if options.label_col is None and not options.label_cols:
        return ()
    named, param = label_columns(options, [one.name for one in outputs])
    rules, given = position_rules(options), options.label_shapes or {}
    _check_names("labelShapes", given, list(named.values()), "which is no label")
    specs = []
    for one in outputs:
        if one.name in fed:
            continue
        name, key = named[one.name], one.name if len(outputs) > 1 else ""
        shape = one.shape if one.classes is None else one.shape[:-1]
        spec = label_spec(schema, name, tuple(given.get(name, shape)), one.classes, rules, param, key)
        if name in given and one.classes is None and spec.column.dtype.startswith(("int", "uint")):
            spec = replace(spec, dtype=spec.column.dtype)
        spec = replace(spec, ignored=None if one.classes is None else one.ignored)
        specs.append(apply_loss(spec, one.shape, one.loss, known_width(schema, name)))
    return tuple(specs)


def position_rules(options: ColumnOptions) -> ColumnRules:
    """Return how labels and weights are read: missing values, and the padding of arrays."""
    padding = PaddingPolicy.of(options.padding, options.truncate)
    return ColumnRules(nulls=NullPolicy.of(options.null_policy), padding=padding)


def check_null_policy(options: ColumnOptions, columns: Sequence[str]) -> None:
    """Check that nullPolicy names only columns that are read.

    Args:
        options: The column options.
        columns: The columns that are read.

    Raises:
        OptionError: nullPolicy names another column.
    """
    policy = options.null_policy
    named = policy if isinstance(policy, dict) else {}
    _check_names("nullPolicy", named, columns, "which isn't a column of the model")


def _check_names(param: str, given: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    """Check that an option names only columns among `names`.

    Raises:
        OptionError: It names another column.
    """
    for name in given:
        if name not in names:
            raise OptionError(
                explain(
                    f"{param} names {name!r}, {why}.",
                    expected=f"columns among {', '.join(names)}",
                    received=f"{param}={dict(given)}",
                    fix=hint(name, names),
                )
            )


def label_columns(options: ColumnOptions, outputs: Sequence[str]) -> tuple[dict[str, str], str]:
    """Assign label columns to the model's outputs, by their names; also return the name of the option that sets them.

    Raises:
        OptionError: An output has no label column, or a column is assigned to an unknown output.
    """
    if options.label_cols:
        return _by_name(options.label_cols, outputs, "labelCols", "output"), "labelCols"
    if len(outputs) > 1:
        raise OptionError(
            explain(
                "The model has several outputs.",
                expected=f"labelCols, with a column for each of {', '.join(outputs)}",
                received=f"labelCol={options.label_col!r}",
                fix=f"Set labelCols={{{outputs[0]!r}: ..., {outputs[1]!r}: ...}}.",
            )
        )
    return {outputs[0]: options.label_col or ""}, "labelCol"


def _by_name(given: Any, names: Sequence[str], param: str, kind: str, partly: bool = False) -> dict[str, Any]:
    """Convert a list in the model's order, or a dict by name, to a dict by name in the model's order."""
    found = dict(given) if isinstance(given, dict) else dict(zip(names, given, strict=False))
    fits = isinstance(given, dict) or len(given) == len(names)
    fix = f"Give a list in the model's order, or a dict from {kind} to column."
    if param == "labelCols" and len(given) > len(names) == 1:
        fix = "Set labelCol to one column of arrays: F.array of these columns, or VectorAssembler."
    if not fits or set(found) - set(names) or (not partly and set(names) - set(found)):
        raise OptionError(
            explain(
                f"{param} doesn't match the model's {kind}s.",
                expected=f"a column for {'any' if partly else 'each'} of {', '.join(names)}",
                received=f"{param}={given}",
                fix=fix,
            )
        )
    return {name: found[name] for name in names if name in found}
