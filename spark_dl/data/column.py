"""What is known of columns that are fed to a model: records, which know nothing of Spark."""

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
    """A column that can be fed.

    Attributes:
        name: its name.
        kind: "scalar", "array", "vector", "binary" (its bytes are numbers), or "bytes" (texts, encoded images). Before
            it is known what it feeds also "text" and "image".
        dtype: NumPy dtype of its numbers as Arrow delivers them.
        width: how many numbers each row has; 1 for a scalar, 0 for bytes.
        nested: how many arrays an array's numbers lie in, beyond the first.
        inner: how long the arrays within it are, from the outer to the inner ones; empty where that doesn't matter.
        image_struct: whether it is Spark's struct of an image, which becomes bytes.
        drop: whether rows without a value are left out of training, instead of being faults.
        fill: what stands for a missing value; None where nothing does.
        sparse: of a Vector that stays sparse until the batch, the dtype of the model's input; else "".
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
    """How columns become the model's input; kept with the fitted model, so that scoring does the same.

    Attributes:
        columns: the columns, joined in this order.
        shape: the shape of one row of the model's input.
        dtype: the dtype of the model's input; "string" for text.
        key: the input's name, where the model has several.
    """

    columns: tuple[Column, ...]
    shape: tuple[int, ...]
    dtype: str
    key: str = ""

    @property
    def coding(self) -> str:
        """What the rows are as bytes, a name of `coding.CODINGS`; "" where they are numbers."""
        if self.columns[0].sparse:
            return "sparse"
        if self.columns[0].kind == "bytes":
            return "text" if self.dtype == "string" else "image"
        return ""

    def tensor(self, name: str = FEATURES) -> Tensor:
        """The tensor as it is stored: in the columns' own dtype where that is smaller than the model's."""
        if self.coding:
            return Tensor(name, (), BYTES, self.dtype, self.shape, self.key, self.coding)
        kinds = {column.dtype for column in self.columns}
        own = kinds.pop() if len(kinds) == 1 else self.dtype
        own = "int8" if own == "bool" else own
        smaller = np.dtype(own).itemsize < np.dtype(self.dtype).itemsize and np.can_cast(own, self.dtype)
        return Tensor(name, self.shape, own if smaller else self.dtype, self.dtype, key=self.key)


@dataclass(frozen=True)
class LabelSpec:
    """How the label column becomes the target.

    Attributes:
        column: the column.
        shape: the shape of one row of the target, () for a number.
        dtype: the target's dtype.
        classes: number of classes where the label is a class index, else None.
        key: the output's name, where the model has several.
        loss: name of Keras's own loss whose rule (`label_rules.RULES`) the label is held to; "" for none.
    """

    column: Column
    shape: tuple[int, ...]
    dtype: str
    classes: int | None
    key: str = ""
    loss: str = ""

    def tensor(self, name: str = LABEL) -> Tensor:
        """The tensor as it is stored."""
        return Tensor(name, self.shape, self.dtype, self.dtype, key=self.key)


@dataclass(frozen=True)
class NullPolicy:
    """What is done about missing values.

    Attributes:
        default: "error" or "drop", of columns that aren't named.
        named: by column: "error", "drop", or {"fill": the value that stands for a missing one}.
    """

    default: str = "error"
    named: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(given: str | Mapping[str, Any]) -> NullPolicy:
        """From the option."""
        return NullPolicy(given) if isinstance(given, str) else NullPolicy(named=given)

    def column(self, column: Column) -> Column:
        """The column with what is done about its missing values.

        Raises:
            DataError: the value doesn't fit the column.
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
    """The tensor of sample weights as it is stored."""
    return Tensor(WEIGHT, (), "float32", "float32")
