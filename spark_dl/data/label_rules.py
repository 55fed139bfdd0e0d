"""Label values that Keras's built-in losses accept; Keras computes a wrong loss for others, without an error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from spark_dl.data.columns import kind_of
from spark_dl.data.specs import LabelSpec
from spark_dl.errors import DataError, explain, shape_text

__all__ = ["OF_CLASS_INDICES", "OF_ONE_HOT_ROWS", "OWN_OF_ONE_HOT_ROWS", "RULES", "LabelRule", "apply_loss"]

# Tolerance for the rounding errors of probabilities that a model computed.
_ROUNDING = 1e-6
# Tolerance for the sum of probabilities with two digits; a row of zeros or with two labels exceeds it.
_SUM_TOLERANCE = 0.05


@dataclass(frozen=True)
class LabelRule:
    """Label values that a loss accepts.

    Attributes:
        text: The rule in words, for messages.
        low: The minimum.
        high: The maximum.
        whole: Whether only whole numbers are valid.
        sums: Whether the numbers along the last axis must sum to 1.
        one_hot: Whether exactly one number along the last axis must be positive.
        exclusive: Two values that may not both occur; () for none.
        fix: The remedy for other labels, for messages.
    """

    text: str
    low: float
    high: float = math.inf
    whole: bool = False
    sums: bool = False
    one_hot: bool = False
    exclusive: tuple[float, ...] = ()
    fix: str = ""

    def breaches(self, values: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows whose labels break the rule.

        Args:
            values: The label's numbers, shape (rows, width).
            last: The length of the label's last axis.

        Returns:
            A boolean mask of shape (rows,); and for each marked row its first invalid number, its
            first wrong sum, or its first wrong number of positive ones.
        """
        wrong = (values < self.low - _ROUNDING) | (values > self.high + _ROUNDING)
        if self.whole:
            wrong |= values != np.round(values)
        marks: np.ndarray = wrong.any(axis=1)
        found = np.take_along_axis(values, wrong.argmax(axis=1)[:, None], axis=1)[:, 0]
        if (self.sums or self.one_hot) and len(values):
            rows = values.reshape(len(values), -1, last)
            totals = rows.sum(axis=-1) if self.sums else (rows > 0).sum(axis=-1).astype(values.dtype)
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
# Keras takes 0 for -1 in batches without a -1 only.
_SIGN = LabelRule(
    "-1 and 1, or 0 and 1", -1.0, 1.0, whole=True, exclusive=(0.0, -1.0), fix="Turn the labels into -1 and 1."
)

# Rules by the Keras loss's function name or its class name in snake case; losses without a rule accept any number.
RULES = {
    "binary_crossentropy": _FRACTION,
    "binary_focal_crossentropy": _FRACTION,
    "categorical_crossentropy": _SHARES,
    "categorical_focal_crossentropy": _SHARES,
    "categorical_hinge": LabelRule("one-hot rows of 0 and 1, or of -1 and 1", -1.0, 1.0, whole=True, one_hot=True),
    "dice": _FRACTION,
    "hinge": _SIGN,
    "kl_divergence": _FRACTION,
    "kldivergence": _FRACTION,
    "mean_squared_logarithmic_error": _COUNT,
    "poisson": _COUNT,
    "squared_hinge": _SIGN,
    "tversky": _FRACTION,
}


# Keras losses that take class indices, and other losses whose labels differ in shape from the output.
OF_CLASS_INDICES = ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy")
# Keras losses of classifiers whose labels have a number for each class.
OF_ONE_HOT_ROWS = ("categorical_crossentropy", "categorical_focal_crossentropy")
# Stands for another loss that takes classes as one-hot rows: one of the user's, or one with the classes along an axis
# that isn't the last.
OWN_OF_ONE_HOT_ROWS = "own_of_one_hot_rows"
_AS_ROWS = (*OF_ONE_HOT_ROWS, OWN_OF_ONE_HOT_ROWS)
_OF_OTHER_SHAPES = ("circle", "ctc")


def apply_loss(spec: LabelSpec, output: tuple[int, ...], loss: str, known_width: int | None = None) -> LabelSpec:
    """Match a label with the loss of its model output.

    Args:
        spec: The label's specification.
        output: The shape of one row of the model's output.
        loss: The name of a built-in Keras loss; "" for a custom loss, whose labels may have any shape and range.
        known_width: The number of values in each row of the column, from its metadata; None if unknown.

    Returns:
        The specification with the loss whose rule the rows must obey, and with the output's shape for a scalar label.

    Raises:
        DataError: The label's shape doesn't fit the output.
    """
    width, name = math.prod(output), spec.name
    scalar = kind_of(spec.column).is_scalar and not spec.joined
    own_width = math.prod(spec.shape)
    if known_width not in (None, own_width) and not scalar:
        raise _misfit(name, f"{own_width} numbers per row", f"{known_width} numbers per row", output)
    if spec.classes is not None:
        return _class_label(spec, output, scalar, loss)
    if scalar and loss in _AS_ROWS and len(output) == 1 and width > 1:
        return _class_label(replace(spec, dtype="int32", classes=output[-1]), output, scalar, loss)
    if not loss or loss in _OF_OTHER_SHAPES:
        return spec
    if loss in OF_CLASS_INDICES:
        raise DataError(
            explain(
                f"{loss} can't be used with the label column {name!r}.",
                expected="an output of shape (batch, classes)",
                received=f"an output of shape {shape_text(output)}",
                fix="Give one-hot rows of the output's shape, with categorical_crossentropy.",
            )
        )
    if scalar and width != 1:
        raise _misfit(name, f"an array or a Vector of {width} numbers in each row", "one number per row", output)
    if own_width != width and not scalar:
        raise _misfit(name, f"{width} numbers per row", f"labelShapes={{{name!r}: {list(spec.shape)}}}", output)
    if len(output) > 1 or not scalar:
        spec = replace(spec, shape=output)  # Keras would broadcast a label of shape (rows,) over all rows
    return replace(spec, loss=loss if loss in RULES else "")


def _class_label(spec: LabelSpec, output: tuple[int, ...], scalar: bool, loss: str) -> LabelSpec:
    """Match class indices with an output whose last axis holds the classes: one index for each position before it.

    Raises:
        DataError: The label's shape doesn't fit the output.
    """
    positions = output[:-1]
    count = math.prod(positions)
    if count != (1 if scalar else math.prod(spec.shape)):
        expected = f"an array of {count} class indices in each row" if positions else "one class index per row"
        received = "one number per row" if scalar else f"a label of shape {shape_text(spec.shape)}"
        raise _misfit(spec.name, expected, received, output)
    return replace(spec, shape=positions, one_hot=output[-1:] != (1,) and loss in _AS_ROWS)


def _misfit(name: str, expected: str, received: str, output: tuple[int, ...]) -> DataError:
    return DataError(
        explain(
            f"The label column {name!r} doesn't fit the model's output.",
            expected=f"{expected}, for the output of shape {shape_text(output)}",
            received=received,
            fix="End the model with as many units as the label has numbers, or change the label.",
        )
    )
