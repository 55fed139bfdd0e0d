"""Specifications of model inputs, training targets and conversions: their columns, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spark_dl.data.column import Column
from spark_dl.data.columns import kind_of
from spark_dl.data.dataset import FEATURES, LABEL, ONE_HOT, WEIGHT, Tensor
from spark_dl.data.ragged import BYTES, Values
from spark_dl.io.store import Store

__all__ = ["ConversionSpec", "FeatureSpec", "LabelSpec", "weight_tensor"]


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


@dataclass(frozen=True)
class ConversionSpec:
    """Specification of a conversion, which the driver sends to every Spark task.

    Attributes:
        store: The directory for the blocks.
        features: The specification of each model input.
        labels: The specification of each model output's label.
        weight: The column of sample weights, or None.
        weight_shape: The shape of one row's weights: () for one number.
        validation_col: The boolean column that marks validation rows, or None.
        validation_fraction: The fraction of rows drawn for validation.
        stratified: Whether to draw that fraction from each class of the only label.
        balance: "oversample" or "undersample" to balance the classes in training, else "none".
        factors: How often a training row is written on average, by class index, which follows from `balance`; empty
            where each row is written once.
        seed: The seed of the random draws.
        counts_positions: Whether the classes of labels with several positions are counted, too.
    """

    store: Store
    features: tuple[FeatureSpec, ...]
    labels: tuple[LabelSpec, ...]
    weight: Column | None = None
    weight_shape: tuple[int, ...] = ()
    validation_col: Column | None = None
    validation_fraction: float = 0.0
    stratified: bool = False
    balance: str = "none"
    factors: tuple[float, ...] = ()
    seed: int = 0
    counts_positions: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of a block: features, labels and, if there is a weight column, weights."""
        features = [spec.tensor(_numbered(FEATURES, index, self.features)) for index, spec in enumerate(self.features)]
        labels = [spec.tensor(_numbered(LABEL, index, self.labels)) for index, spec in enumerate(self.labels)]
        return (*features, *labels, *([weight_tensor(self.weight_shape)] if self.weight else []))

    @property
    def columns(self) -> list[Column]:
        """Columns that the conversion reads, without duplicates."""
        fed = [column for spec in self.features for column in spec.columns]
        named = [*fed, *(one for spec in self.labels for one in spec.columns), self.weight, self.validation_col]
        return list(dict.fromkeys(column for column in named if column))

    def first_label(self, tensors: Sequence[Values]) -> Values:
        """Return the first label of these tensors; without labels, a tensor with as many rows."""
        return tensors[len(self.features) if self.labels else 0]


def _numbered(name: str, index: int, specs: Sequence[object]) -> str:
    return f"{name}_{index}" if len(specs) > 1 else name
