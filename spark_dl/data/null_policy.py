"""The policy for missing values, from the option nullPolicy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from spark_dl.data.column import Column
from spark_dl.data.columns import kind_of
from spark_dl.errors import DataError, explain

__all__ = ["NullPolicy"]


@dataclass(frozen=True)
class NullPolicy:
    """Policy for missing values, from the option nullPolicy.

    Attributes:
        default: "error" or "drop", for columns that `named` doesn't list.
        named: The policy by column: "error", "drop" or {"fill": replacement}.
    """

    default: str = "error"
    named: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(given: str | Mapping[str, Any]) -> NullPolicy:
        """Create the policy from the value of the option nullPolicy."""
        return NullPolicy(given) if isinstance(given, str) else NullPolicy(named=given)

    def column(self, column: Column) -> Column:
        """Return the column with its `drop` or `fill` set.

        Raises:
            DataError: The fill value doesn't fit the column's type.
        """
        policy = self.named.get(column.name, self.default)
        if isinstance(policy, str):
            return replace(column, drop=policy == "drop")
        kind, fill = kind_of(column), kind_of(column).fill_value(column, policy["fill"])
        if fill is not None:
            return replace(column, fill=fill)
        raise DataError(
            explain(
                f"nullPolicy can't fill the column {column.name!r} with this value.",
                expected="a value of the column's own type, and a column of numbers or strings",
                received=f"{policy['fill']!r} for a column of {column.dtype if kind.is_scalar else kind.name}",
                fix="Use 'error' or 'drop', or Spark ML's Imputer before fit.",
            )
        )
