"""Inputs of open length that columns in padding feed: rows are padded to the longest of each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql.types import ArrayType, StructType

from spark_dl.data.columns import OPEN
from spark_dl.errors import ModelError, explain
from spark_dl.fit.worker_checks import Fitted
from spark_dl.options import EstimatorOptions

if TYPE_CHECKING:
    import keras

    from spark_dl.train.model.shape import ModelInput, ModelShape

__all__ = ["check_masked", "check_open_outputs", "open_inputs", "opened"]


def open_inputs(
    inputs: Sequence[ModelInput], columns: Mapping[str, list[str]], schema: StructType | None, options: EstimatorOptions
) -> dict[str, str]:
    """Return the columns of the inputs whose rows are padded to the longest of a batch, by the inputs' names.

    These are inputs whose first length the model leaves open, fed by one array column that padding names and for which
    columnShapes has no length.

    Args:
        inputs: The model's inputs.
        columns: The feature columns of each input, by its name.
        schema: The schema of the DataFrame; None if it isn't known, for arrays.
        options: The estimator's options.
    """
    found = {}
    for one in inputs:
        (column, *others) = columns[one.name]
        fixed = column in (options.column_shapes or {}) or column not in (options.padding or {})
        is_open = one.shape[:1] == (None,) and None not in one.shape[1:]
        is_array = schema is None or (column in schema.names and isinstance(schema[column].dataType, ArrayType))
        if is_open and is_array and not fixed and not others:
            found[one.name] = column
    return found


def opened(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one row with an open length in place of the first one."""
    return (OPEN, *shape[1:])


def check_open_outputs(
    model: keras.Model,
    shape: ModelShape,
    tried: Mapping[str, tuple[int, ...]],
    fixed: ModelShape,
    columns: Mapping[str, str],
) -> None:
    """Check that the shapes of the outputs don't follow from open lengths.

    Args:
        model: The model.
        shape: Its shape, with open lengths.
        tried: The shape of one row by the input's name, with a length for open ones.
        fixed: The model's shape with these.
        columns: The columns that feed the open inputs, by the inputs' names.

    Raises:
        ModelError: They do.
    """
    from spark_dl.train.model.shape import fixed_shapes

    longer = {name: (2 * own[0], *own[1:]) if name in columns else own for name, own in tried.items()}
    pairs = zip(fixed.outputs, fixed_shapes(model, shape, longer).outputs, strict=True)
    if different := [one.name for one, other in pairs if one.shape != other.shape]:
        column = next(iter(columns.values()))
        raise ModelError(
            explain(
                f"The length of the output {different[0]!r} follows from that of the rows, which isn't fixed.",
                expected="outputs of one shape",
                received=f"padding without a length for {', '.join(columns.values())}",
                fix=f"Set the length of a row: columnShapes={{{column!r}: [...]}}.",
            )
        )


def check_masked(fitted: Fitted, columns: Mapping[str, str], options: EstimatorOptions) -> None:
    """Check that outputs don't depend on the padding, which differs between batches.

    Args:
        fitted: The compiled model and what it is tried with.
        columns: The columns that feed the open inputs, by the inputs' names; empty for no check.
        options: The estimator's options.

    Raises:
        ModelError: They do.
    """
    if columns:
        from spark_dl.train.model.open_lengths import check_padding_is_masked

        pads = {name: (options.padding or {})[column] for name, column in columns.items()}
        check_padding_is_masked(fitted.model, fitted.inputs, pads, columns)
