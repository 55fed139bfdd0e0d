"""The columns that say how rows are used: sample weights, and which rows are for validation."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql.types import StructType

from spark_dl.data.column import Column
from spark_dl.data.null_policy import NullPolicy
from spark_dl.data.schema import boolean_column, weight_column
from spark_dl.errors import OptionError, explain
from spark_dl.fit.columns import OutputFacts, position_rules
from spark_dl.options import ColumnOptions, DataOptions

__all__ = ["validation_column", "weight_and_shape"]


def weight_and_shape(
    schema: StructType, options: ColumnOptions, outputs: Sequence[OutputFacts]
) -> tuple[Column | None, tuple[int, ...]]:
    """Return the column of weightCol and the shape of one row's weights; None if the option isn't set.

    Args:
        schema: The schema of the DataFrame.
        options: The column options.
        outputs: The model's outputs. A loss has one value for each position, which is all axes but the last.

    Raises:
        DataError: The column is missing, or its type can't be used.
        OptionError: The outputs have different positions.
    """
    if not options.weight_col:
        return None, ()
    positions = {one.name: one.shape[:-1] for one in outputs}
    if len(set(positions.values())) > 1:
        raise OptionError(
            explain(
                "weightCol can't weigh outputs with different positions.",
                expected="outputs that have the same shape except for the last axis",
                received=", ".join(f"{one.name} of shape {one.shape}" for one in outputs),
                fix="Leave weightCol out, and apply the weights in the losses.",
            )
        )
    return weight_column(schema, options.weight_col, position_rules(options), next(iter(positions.values()), ()))


def validation_column(schema: StructType, options: DataOptions) -> Column | None:
    """Return the column of validationCol; None if the option isn't set.

    Raises:
        DataError: The column is missing, or its type can't be used.
    """
    held = options.validation_col
    return boolean_column(schema, held, NullPolicy.of(options.null_policy)) if held else None
