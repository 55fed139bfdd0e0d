"""The mapping of columns to the model's inputs and outputs as a table that users can print before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyspark.sql.types import StructType

from spark_dl.data.column import Column
from spark_dl.data.columns import OPEN, kind_of
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.fit.columns import InputFacts, OutputFacts

__all__ = ["FedColumn", "InputPlan", "input_plan"]

_HEAD = ("column", "type", "becomes", "feeds", "missing values")


@dataclass(frozen=True)
class FedColumn:
    """A column and its use in training.

    Attributes:
        column: The column's name.
        type: The column's Spark type.
        becomes: The dtype and the shape of one row in a batch.
        feeds: The model's input or output, or another use: weight or validation.
        missing: The treatment of missing values.
    """

    column: str
    type: str
    becomes: str
    feeds: str
    missing: str


@dataclass(frozen=True)
class InputPlan:
    """The mapping of a DataFrame's columns to a model; `print` shows it as a table.

    Attributes:
        columns: The columns of the model's inputs, then of its outputs, then the others.
        notes: Further decisions, such as whether a classifier's outputs are logits or probabilities.
    """

    columns: tuple[FedColumn, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [_HEAD, *((c.column, c.type, c.becomes, c.feeds, c.missing) for c in self.columns)]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *self.notes])

    __repr__ = __str__


def input_plan(
    schema: StructType,
    conversion: ConversionSpec,
    inputs: Sequence[InputFacts],
    outputs: Sequence[OutputFacts],
    notes: Sequence[str] = (),
) -> InputPlan:
    """Make the input plan of a fit.

    Args:
        schema: The schema of the DataFrame.
        conversion: How rows are converted.
        inputs: The model's inputs.
        outputs: The model's outputs.
        notes: Further decisions; empty ones are left out.
    """
    return InputPlan(tuple(_columns(schema, conversion, inputs, outputs)), tuple(filter(None, notes)))


def _columns(
    schema: StructType, conversion: ConversionSpec, inputs: Sequence[InputFacts], outputs: Sequence[OutputFacts]
) -> Iterator[FedColumn]:
    def fed(column: Column, becomes: str, feeds: str) -> FedColumn:
        missing = "dropped" if column.drop else "an error" if column.fill is None else f"{column.fill!r} for each"
        return FedColumn(column.name, schema[column.name].dataType.simpleString(), becomes, feeds, missing)

    for spec, given in zip(conversion.features, inputs, strict=True):
        for column in spec.columns:
            also = "" if spec.target is None else f", label of output {spec.target or outputs[0].name}"
            yield fed(column, _feature(column, spec), f"input {given.name} {_shown(spec.shape)}{also}")
    for label in conversion.labels:
        output = next((one for one in outputs if one.name == label.key), outputs[0])
        for column in label.columns:
            yield fed(column, _label(label), f"label of output {output.name} {output.shape}")
    if conversion.weight:
        each = kind_of(conversion.weight).is_scalar
        yield fed(
            conversion.weight,
            f"float32 {conversion.weight_shape}",
            "weight of the row" if each else "weight of each position",
        )
    if conversion.validation_col:
        yield fed(conversion.validation_col, "bool ()", "true for validation")


def _shown(shape: tuple[int, ...]) -> str:
    """Return a shape with None, as in Keras, for a length that differs between batches."""
    return str(tuple(None if size == OPEN else size for size in shape))


def _feature(column: Column, spec: FeatureSpec) -> str:
    if note := kind_of(column).plan_note:
        return f"{spec.dtype} {_shown(spec.shape)}, {note}"
    if len(spec.columns) == 1:
        return f"{spec.dtype} {_shown(spec.shape)}"
    return f"{spec.dtype} ({column.width},), joined"


def _label(label: LabelSpec) -> str:
    classes = f", classes 0 to {label.classes - 1}" if label.classes else ""
    return f"{label.dtype} {label.shape}{classes}"
