"""Specifications of model inputs and training targets: which columns feed them, in which shape and dtype."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spark_dl.data.column import Column
from spark_dl.data.columns import kind_of
from spark_dl.data.dataset import FEATURES, LABEL, ONE_HOT, WEIGHT, Tensor
from spark_dl.data.ragged import BYTES

__all__ = ["FeatureSpec", "LabelSpec", "weight_tensor"]


@dataclass(frozen=True)
class FeatureSpec:
    """Specification of one model input: its columns, shape and dtype; saved with the fitted model for scoring.

    Attributes:
        columns: The columns, concatenated in this order.
        shape: The shape of one row of the model's input.
        dtype: The dtype of the model's input; "string" for text.
        key: The input's name, where the model has several inputs; else "".
        target: The key of the output whose label the input's rows also are, "" for the only output; None for none. They
            are stored once.
    """

    columns: tuple[Column, ...]
    shape: tuple[int, ...]
    dtype: str
    key: str = ""
    target: str | None = None

    @property
    def coding(self) -> str:
        """Coding of rows that are stored as bytes until the batch; "" for numbers."""
        return kind_of(self.columns[0]).coding

    def tensor(self, name: str = FEATURES) -> Tensor:
        """Return the stored tensor, in the columns' common dtype if it is smaller than the input's and casts safely."""
        if self.coding:
            return Tensor(name, (), BYTES, self.dtype, self.shape, self.key, self.coding, self.target)
        kinds = {column.dtype for column in self.columns}
        own = kinds.pop() if len(kinds) == 1 else self.dtype
        own = "int8" if own == "bool" else own
        smaller = np.dtype(own).itemsize < np.dtype(self.dtype).itemsize and np.can_cast(own, self.dtype)
        return Tensor(name, self.shape, own if smaller else self.dtype, self.dtype, key=self.key, target=self.target)


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
        ignored: The class index outside of `classes` that the loss ignores; None for none.
        one_hot: Whether the loss takes class indices as one-hot rows.
        joined: Further columns whose values follow those of `column`, of a label that is a model input's columns.
    """

    column: Column
    shape: tuple[int, ...]
    dtype: str
    classes: int | None
    key: str = ""
    loss: str = ""
    ignored: int | None = None
    one_hot: bool = False
    joined: tuple[Column, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns of the label, in their order."""
        return (self.column, *self.joined)

    @property
    def name(self) -> str:
        """The columns' names, for messages."""
        return ", ".join(column.name for column in self.columns)

    def tensor(self, name: str = LABEL) -> Tensor:
        """Return the stored tensor."""
        if self.one_hot:
            return Tensor(name, self.shape, self.dtype, "float32", (*self.shape, self.classes or 0), self.key, ONE_HOT)
        return Tensor(name, self.shape, self.dtype, self.dtype, key=self.key)


def weight_tensor(shape: tuple[int, ...] = ()) -> Tensor:
    """Return the stored tensor of sample weights.

    Args:
        shape: The shape of one row's weights.
    """
    return Tensor(WEIGHT, shape, "float32", "float32")
