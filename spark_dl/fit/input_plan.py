"""Which column feeds what, as a table to look at before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyspark.sql.types import StructType

from spark_dl.data.column import Column, FeatureSpec, LabelSpec
from spark_dl.data.convert import ConversionSpec
from spark_dl.fit.columns import InputFacts, OutputFacts

__all__ = ["FedColumn", "InputPlan", "input_plan"]

# What is said of an input that is made of bytes in the batch.
_MADE_OF_BYTES = {"image": "decoded", "sparse": "sparse until the batch"}
_HEAD = ("column", "type", "becomes", "feeds", "missing values")


@dataclass(frozen=True)
class FedColumn:
    """A column and its way into the model.

    Attributes:
        column: its name.
        type: its type in Spark.
        becomes: what it is in a batch: dtype and shape of a row.
        feeds: the model's input or output, or what else the column is for.
        missing: what is done about missing values.
    """

    column: str
    type: str
    becomes: str
    feeds: str
    missing: str


@dataclass(frozen=True)
class InputPlan:
    """How a DataFrame's columns feed a model: `print` shows a table.

    Attributes:
        columns: in the order of the model's inputs, then its outputs, then the others.
        notes: what else was decided, such as what the outputs are taken to be.
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
    """The plan of a checked fit.

    Args:
        schema: the DataFrame's.
        conversion: how rows become blocks.
        inputs: the model's.
        outputs: the model's.
        notes: what else was decided; empty ones are left out.
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
            yield fed(column, _feature(column, spec), f"input {given.name} {spec.shape}")
    for label, output in zip(conversion.labels, outputs, strict=True):
        yield fed(label.column, _label(label), f"label of output {output.name} {output.shape}")
    if conversion.weight:
        yield fed(conversion.weight, "float32 ()", "weight of the row")
    if conversion.validation_col:
        yield fed(conversion.validation_col, "bool ()", "true for validation")


def _feature(column: Column, spec: FeatureSpec) -> str:
    if spec.coding in _MADE_OF_BYTES:
        return f"{spec.dtype} {spec.shape}, {_MADE_OF_BYTES[spec.coding]}"
    if len(spec.columns) == 1:
        return f"{spec.dtype} {spec.shape}"
    return f"{spec.dtype} ({column.width},), joined"


def _label(label: LabelSpec) -> str:
    classes = f", classes 0 to {label.classes - 1}" if label.classes else ""
    return f"{label.dtype} {label.shape}{classes}"
