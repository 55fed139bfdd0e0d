"""What Keras's own losses take as labels: other numbers give a wrong loss without an error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from spark_dl.data.column import LabelSpec
from spark_dl.errors import DataError, explain

__all__ = ["OF_CLASS_INDICES", "RULES", "LabelRule", "apply_loss"]

# Probabilities that a model gave are off by so much.
_ROUNDING = 1e-6
# Shares with two digits don't sum to 1; no labels at all, or two of them, are farther off.
_SUM_TOLERANCE = 0.05


@dataclass(frozen=True)
class LabelRule:
    """What a loss takes.

    Attributes:
        text: the same in words, for messages.
        low: the least number.
        high: the greatest number.
        whole: whether only whole numbers make sense.
        sums: whether the numbers of a row, along the last axis, sum to 1.
        fix: what to do about other labels.
    """

    text: str
    low: float
    high: float = math.inf
    whole: bool = False
    sums: bool = False
    fix: str = ""

    def breaches(self, values: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows that the loss doesn't take.

        Args:
            values: numbers of the label, shape (rows, width).
            last: the length of the label's last axis.

        Returns:
            boolean, shape (rows,); and of each row that is marked what is wrong: a number, or the sum of its numbers.
        """
        wrong = (values < self.low - _ROUNDING) | (values > self.high + _ROUNDING)
        if self.whole:
            wrong |= values != np.round(values)
        marks: np.ndarray = wrong.any(axis=1)
        found = np.take_along_axis(values, wrong.argmax(axis=1)[:, None], axis=1)[:, 0]
        if self.sums and len(values):
            totals = values.reshape(len(values), -1, last).sum(axis=-1)
            off = np.abs(totals - 1) > _SUM_TOLERANCE
            by_sum = off.any(axis=1) & ~marks
            sums = np.take_along_axis(totals, off.argmax(axis=1)[:, None], axis=1)[:, 0]
            marks, found = marks | by_sum, np.where(by_sum, sums, found)
        return marks, found[marks]


_FRACTION = LabelRule(
    "numbers from 0 to 1", 0.0, 1.0, fix="Turn the labels into 0 and 1: of -1 and 1 by (label + 1) / 2."
)
_SHARES = LabelRule(
    "numbers from 0 to 1 that sum to 1 in each row",
    0.0,
    1.0,
    sums=True,
    fix="Give one-hot rows; class indices take sparse_categorical_crossentropy, several classes in one row "
    "binary_crossentropy.",
)
_COUNT = LabelRule("numbers of at least 0", 0.0, fix="Use another loss for numbers below 0, for example 'mse'.")
_SIGN = LabelRule("-1 and 1, or 0 and 1", -1.0, 1.0, whole=True, fix="Turn the labels into -1 and 1.")

# By the name of Keras's loss, its function's or its class's in snake case; losses that take any number aren't here.
RULES = {
    "binary_crossentropy": _FRACTION,
    "binary_focal_crossentropy": _FRACTION,
    "categorical_crossentropy": _SHARES,
    "categorical_focal_crossentropy": _SHARES,
    "categorical_hinge": LabelRule("one-hot rows of 0 and 1, or of -1 and 1", -1.0, 1.0, whole=True),
    "dice": _FRACTION,
    "hinge": _SIGN,
    "kl_divergence": _FRACTION,
    "kldivergence": _FRACTION,
    "mean_squared_logarithmic_error": _COUNT,
    "poisson": _COUNT,
    "squared_hinge": _SIGN,
    "tversky": _FRACTION,
}


# Keras's losses that take class indices, and others whose labels don't have the output's shape.
OF_CLASS_INDICES = ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy")
_OF_OTHER_SHAPES = ("circle", "ctc")


def apply_loss(spec: LabelSpec, output: tuple[int, ...], loss: str, known_width: int | None = None) -> LabelSpec:
    """Match a label with the loss that it teaches the output by.

    Args:
        spec: how the column becomes the label.
        output: the shape of one row of the model's output.
        loss: name of Keras's own loss; "" for one of the user's own, which takes labels of any shape and range.
        known_width: how many numbers each row of the column is known to have; None where that isn't known.

    Returns:
        the spec with the rule that rows are held to, and in the output's shape where that is one number.

    Raises:
        DataError: The label's shape doesn't fit the output.
    """
    width, name = math.prod(output), spec.column.name
    if known_width not in (None, width) and spec.column.kind != "scalar":
        raise _misfit(name, f"{width} numbers a row", f"{known_width} numbers a row", output)
    if not loss or loss in _OF_OTHER_SHAPES or spec.classes is not None:
        return spec
    if loss in OF_CLASS_INDICES:
        raise DataError(
            explain(
                f"{loss} can't be used with the label column {name!r}.",
                expected="an output of shape (batch, classes)",
                received=f"an output of shape {_shape(output)}",
                fix="Give one-hot rows of the output's shape, with categorical_crossentropy.",
            )
        )
    if spec.column.kind == "scalar" and width != 1:
        raise _misfit(name, f"an array or a Vector of {width} numbers in each row", "one number a row", output)
    if spec.column.kind == "scalar" and len(output) > 1:
        spec = replace(spec, shape=output)  # Keras would compare each row with each
    return replace(spec, loss=loss if loss in RULES else "")


def _misfit(name: str, expected: str, received: str, output: tuple[int, ...]) -> DataError:
    return DataError(
        explain(
            f"The label column {name!r} doesn't fit the model's output.",
            expected=f"{expected}, for the output of shape {_shape(output)}",
            received=received,
            fix="End the model with as many units as the label has numbers, or change the label.",
        )
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["batch", *map(str, shape)]) + ")"
