"""Specifications of feature, label and weight columns, as records that are independent of Spark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spark_dl.data.dataset import FEATURES, LABEL, WEIGHT, Tensor
from spark_dl.data.ragged import BYTES
from spark_dl.errors import DataError, explain

__all__ = ["Column", "FeatureSpec", "LabelSpec", "NullPolicy", "weight_tensor"]


@dataclass(frozen=True)
class Column:
    """DataFrame column that can feed a model.

    Attributes:
        name: The column's name.
        kind: "scalar", "array", "vector", "binary" (bytes that are uint8 numbers) or "bytes" (texts, encoded images);
            also "text" and "image" until the column is matched with a model input.
        dtype: The NumPy dtype of the column's numbers in Arrow batches.
        width: The number of values in a row; 1 for a scalar, 0 for bytes.
        nested: The nesting depth of an array beyond the first level; 0 for an array of numbers.
        inner: The required lengths of the inner arrays, from outer to inner; empty for no requirement.
        image_struct: Whether the column is a struct of Spark's image data source, which is converted to bytes.
        drop: Whether rows without a value are left out of training instead of being errors.
        fill: The replacement for a missing value; None for no replacement.
        sparse: For a Vector that stays sparse until the batch, the dtype of the model's input; else "".
    """

    name: str
    kind: str
    dtype: str
    width: int
    nested: int = 0
    inner: tuple[int, ...] = ()
    image_struct: bool = False
    drop: bool = False
    fill: float | str | None = None
    sparse: str = ""


@dataclass(frozen=True)
class FeatureSpec:
    """Specification of one model input: its columns, shape and dtype; saved with the fitted model for scoring.

    Attributes:
        columns: The columns, concatenated in this order.
        shape: The shape of one row of the model's input.
        dtype: The dtype of the model's input; "string" for text.
        key: The input's name, where the model has several inputs; else "".
    """

    columns: tuple[Column, ...]
    shape: tuple[int, ...]
    dtype: str
    key: str = ""

    @property
    def coding(self) -> str:
        """Coding of byte rows, a name of `coding.CODINGS`; "" for numbers."""
        if self.columns[0].sparse:
            return "sparse"
        if self.columns[0].kind == "bytes":
            return "text" if self.dtype == "string" else "image"
        return ""

    def tensor(self, name: str = FEATURES) -> Tensor:
        """Return the stored tensor, in the columns' common dtype if it is smaller than the input's and casts safely."""
        if self.coding:
            return Tensor(name, (), BYTES, self.dtype, self.shape, self.key, self.coding)
        kinds = {column.dtype for column in self.columns}
        own = kinds.pop() if len(kinds) == 1 else self.dtype
        own = "int8" if own == "bool" else own
        smaller = np.dtype(own).itemsize < np.dtype(self.dtype).itemsize and np.can_cast(own, self.dtype)
        return Tensor(name, self.shape, own if smaller else self.dtype, self.dtype, key=self.key)


@dataclass(frozen=True)
class LabelSpec:
    """Specification of one training target: its label column, shape and dtype.

    Attributes:
        column: The label column.
        shape: The shape of one row of the target, () for a number.
        dtype: The target's dtype.
        classes: The number of classes where the label is a class index, else None.
        key: The output's name, where the model has several outputs; else "".
        loss: The name of the Keras loss whose rule in `label_rules.RULES` the labels must obey; "" for none.
    """

    column: Column
    shape: tuple[int, ...]
    dtype: str
    classes: int | None
    key: str = ""
    loss: str = ""

    def tensor(self, name: str = LABEL) -> Tensor:
        """Return the stored tensor."""
        return Tensor(name, self.shape, self.dtype, self.dtype, key=self.key)


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
        fill = policy["fill"]
        if column.kind == "scalar" and isinstance(fill, (int, float)) and math.isfinite(fill):
            whole = np.dtype(column.dtype).kind != "f"
            kind = np.dtype(column.dtype)
            low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max) if whole else (0, 0)
            if not whole or (float(fill).is_integer() and low <= fill <= high):
                return replace(column, fill=int(fill) if whole else float(fill))
        if column.kind == "text" and isinstance(fill, str):
            return replace(column, fill=fill)
        raise DataError(
            explain(
                f"nullPolicy can't fill the column {column.name!r} with this value.",
                expected="a value of the column's own type, and a column of numbers or strings",
                received=f"{fill!r} for a column of {column.kind if column.kind != 'scalar' else column.dtype}",
                fix="Use 'error' or 'drop', or Spark ML's Imputer before fit.",
            )
        )


def weight_tensor() -> Tensor:
    """Return the stored tensor of sample weights."""
    return Tensor(WEIGHT, (), "float32", "float32")
