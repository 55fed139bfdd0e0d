"""The padding of rows of varying length, from the options padding and truncate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from spark_dl.data.column import Column
from spark_dl.data.columns import kind_of
from spark_dl.data.limits import beyond
from spark_dl.errors import DataError, explain

__all__ = ["PaddingPolicy"]


@dataclass(frozen=True)
class PaddingPolicy:
    """Padding of rows of varying length, from the options padding and truncate.

    Attributes:
        named: The padding value by column; rows of other columns aren't padded.
        truncate: What a row that is too long loses: "end" or "start"; "error" to refuse such rows.
    """

    named: Mapping[str, float | str] = field(default_factory=dict)
    truncate: str = "error"

    @staticmethod
    def of(padding: Mapping[str, float | str] | None, truncate: str) -> PaddingPolicy:
        """Create the policy from the values of the options padding and truncate."""
        return PaddingPolicy(padding or {}, truncate)

    def column(self, column: Column, dtype: str) -> Column:
        """Return the column with its `pad` and `truncate` set, if the policy names it.

        Args:
            column: The column, of the kind as which it feeds the model.
            dtype: The dtype of the model's input, or of the label.

        Raises:
            DataError: Rows of this kind aren't padded, or the value fits neither the column nor the input.
        """
        if column.name not in self.named:
            return column
        given = self.named[column.name]
        pad = kind_of(column).pad_value(column, given)
        if pad is None or not (isinstance(pad, str) or _fits(pad, dtype)):
            raise DataError(
                explain(
                    f"padding can't pad the column {column.name!r} with this value.",
                    expected="an array of numbers or of strings, or raw bytes, and a value of its elements' type that "
                    f"the model's input can hold ({dtype})",
                    received=f"{given!r} for a column of {kind_of(column).name} ({column.dtype})",
                    fix="Leave the column out of padding, or set a value such as 0, or '' for strings.",
                )
            )
        return replace(column, pad=pad, truncate=self.truncate)


def _fits(pad: float, dtype: str) -> bool:
    """Return whether an input of this dtype can hold a number."""
    whole = float(pad).is_integer() or np.dtype(dtype).kind not in "iu"
    return whole and not beyond(np.array([[float(pad)]]), dtype).any()
