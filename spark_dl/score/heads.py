"""Heads: conversion of a model's raw outputs to output columns by task, with types known before any Spark job.

If the model outputs NaN for a row, the row's fields are NaN, in every way of scoring; fields are never null.

To add a head, write a class and add its line to HEADS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from spark_dl.errors import DataError, SavedModelError, explain, hint

__all__ = [
    "HEADS",
    "Classification",
    "Field",
    "Head",
    "Reconstruction",
    "Regression",
    "SeveralOutputs",
    "Tagging",
    "TensorOutput",
    "head_from_dict",
]


# Keras's default epsilon, to which its losses clip smaller probabilities.
_EPSILON = 1e-7


@dataclass(frozen=True)
class Field:
    """Type of one output column.

    Attributes:
        kind: "double", "vector" (a Spark ML Vector) or "array<float>".
        width: The number of values in a row.
        shape: The shape of one row where arrays are nested; () for others. Values are flat until the column is made.
    """

    kind: str
    width: int = 1
    shape: tuple[int, ...] = ()

    @property
    def axes(self) -> int:
        """Number of axes of a row's value: 0 for a number."""
        return 0 if self.kind == "double" else max(1, len(self.shape))

    @property
    def array_type(self) -> str:
        """The Spark type of the value as DDL, with an array of doubles in place of a Vector."""
        number = "float" if self.kind == "array<float>" else "double"
        return "array<" * self.axes + number + ">" * self.axes

    def nested(self, values: np.ndarray) -> np.ndarray:
        """Return the values in the shape of their rows."""
        return values.reshape(len(values), *self.shape) if self.shape else values


class Head(Protocol):
    """Interface for the conversion of a batch of model outputs to columns."""

    name: ClassVar[str]

    def fields(self) -> dict[str, Field]:
        """Return the types of the output columns by field name."""

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the fields' values from the model's outputs: shape (rows,) for a double, (rows, width) for others."""

    def as_dict(self) -> dict[str, Any]:
        """Return the head's state as a JSON-serialisable dict, which `head_from_dict` reads."""


@dataclass(frozen=True)
class Classification:
    """Head of a classifier: prediction (class index), probability and rawPrediction (logits).

    If the model outputs logits, the probability is the softmax of the raw prediction; if it outputs probabilities, the
    raw prediction is their logarithm. With one output unit, for class 1 with the logit z, the raw prediction is (-z, z)
    and the probability of class 1 the sigmoid of z, as in Spark's LogisticRegression.

    Attributes:
        classes: The number of classes.
        units: The number of the model's output units: `classes`, or 1 for two classes.
        from_logits: Whether the model outputs logits instead of probabilities.
        normalize: Whether the outputs of several units, each within [0, 1], are divided by their sum.
        source: The reason for this interpretation of the output, as a line of the fit's plan.
        thresholds: Spark ML's thresholds, one for each class; empty to predict the most probable class.
    """

    name: ClassVar[str] = "classification"
    classes: int
    units: int
    from_logits: bool
    thresholds: tuple[float, ...] = ()
    normalize: bool = False
    source: str = field(default="", compare=False)

    def fields(self) -> dict[str, Field]:
        """Return a double for the prediction and Vectors for probability and rawPrediction."""
        vector = Field("vector", self.classes)
        return {"prediction": Field("double"), "probability": vector, "rawPrediction": vector}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the three fields from one output of shape (rows, units); a NaN output makes all of them NaN."""
        (output,) = outputs
        values = output.reshape(len(output), self.units).astype(np.float64)
        raw, probability = self._one_unit(values[:, 0]) if self.units == 1 else self._many_units(values)
        scaled = raw
        if self.thresholds:
            with np.errstate(divide="ignore"):
                scaled = np.clip(probability, np.finfo(np.float64).tiny, None) / np.array(self.thresholds)
        prediction = np.argmax(scaled, axis=1).astype(np.float64)
        unknown = np.isnan(values).any(axis=1)
        if unknown.any():  # argmax takes NaN for the maximum
            for column in (prediction, probability, raw):
                column[unknown] = np.nan
        return {"prediction": prediction, "probability": probability, "rawPrediction": raw}

    def _one_unit(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.from_logits:
            logit = values
            positive = 1 / (1 + np.exp(-np.clip(logit, -700, 700)))
        else:
            positive = values
            logit = _log(positive) - _log(1 - positive)
        return np.stack([-logit, logit], axis=1), np.stack([1 - positive, positive], axis=1)

    def _many_units(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.from_logits:
            probability = values.copy()
            if self.normalize:  # as Keras's loss does, including the clip at epsilon
                probability = np.clip(values, _EPSILON, None)
                probability /= probability.sum(axis=1, keepdims=True)
            return _log(values), probability
        limit = np.finfo(np.float64).max / 2  # an infinite logit minus itself would be NaN
        finite = np.clip(values, -limit, limit)
        shifted = np.exp(finite - finite.max(axis=1, keepdims=True))
        return values, shifted / shifted.sum(axis=1, keepdims=True)

    def as_dict(self) -> dict[str, Any]:
        """Return the head's state as a JSON-serialisable dict."""
        known = {"name": self.name, "classes": self.classes, "units": self.units, "from_logits": self.from_logits}
        return {**known, "normalize": True} if self.normalize else known


@dataclass(frozen=True)
class Regression:
    """Head of a regressor with one output unit."""

    name: ClassVar[str] = "regression"

    def fields(self) -> dict[str, Field]:
        """Return a double for the prediction."""
        return {"prediction": Field("double")}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the output as the prediction, shape (rows,).

        Raises:
            DataError: The output is of integers, and float64 rounds one of them.
        """
        (output,) = outputs
        return {"prediction": _as_floats(output, np.float64).reshape(len(output))}

    def as_dict(self) -> dict[str, Any]:
        """Return the head's state as a JSON-serialisable dict."""
        return {"name": self.name}


@dataclass(frozen=True)
class TensorOutput:
    """Head that returns one output unchanged: an array of floats, nested as the output is.

    Attributes:
        width: The number of values in a row.
        vectors: Whether the column is a Vector, flattened in C order, instead of arrays of floats.
        shape: The shape of one row if it has several axes; () for an array that isn't nested.
    """

    name: ClassVar[str] = "tensor"
    width: int
    vectors: bool = False
    shape: tuple[int, ...] = ()

    def fields(self) -> dict[str, Field]:
        """Return an array of floats or a Vector for the prediction."""
        if self.vectors:
            return {"prediction": Field("vector", self.width)}
        return {"prediction": Field("array<float>", self.width, self.shape)}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the flattened output as the prediction, shape (rows, width).

        Raises:
            DataError: The output is of integers, and the column's dtype rounds one of them.
        """
        (output,) = outputs
        numbers = _as_floats(output, np.float64 if self.vectors else np.float32)
        return {"prediction": numbers.reshape(len(output), self.width)}

    def as_dict(self) -> dict[str, Any]:
        """Return the head's state as a JSON-serialisable dict, without `vectors`, which is an option of the model."""
        known = {"name": self.name, "width": self.width}
        return {**known, "shape": list(self.shape)} if self.shape else known

    @staticmethod
    def of(shape: tuple[int, ...]) -> TensorOutput:
        """Create the head of an output, from the shape of one row."""
        return TensorOutput(math.prod(shape), shape=shape if len(shape) > 1 else ())


def _as_floats(output: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """Convert an output to floating-point numbers.

    Raises:
        DataError: The output is of integers, such as ids, and the dtype rounds one of them.
    """
    numbers: np.ndarray = output.astype(dtype)
    if output.dtype.kind not in "iu":
        return numbers
    with np.errstate(invalid="ignore"):  # a float beyond the integer type
        rounded = numbers.astype(output.dtype) != output
    if rounded.any():
        raise DataError(
            explain(
                f"{numbers.dtype} rounds integers of the model's output.",
                expected=f"integers up to {2 ** (np.finfo(dtype).nmant + 1):,}",
                received=f"{output[rounded].ravel()[0]:,}",
                fix="Set outputFormat='vector', since a Vector holds float64."
                if numbers.dtype == np.float32
                else "Let the model output smaller integers, such as indices into a list of the ids.",
            )
        )
    return numbers


@dataclass(frozen=True)
class SeveralOutputs:
    """Head of a model with several outputs, one field for each: a number for one unit, else as TensorOutput has it.

    Attributes:
        widths: Pairs of an output's name and its number of values in a row, in the model's order.
        vectors: Whether columns of several numbers are Vectors instead of arrays of floats.
        shapes: Pairs of an output's name and the shape of one row, for outputs with several axes.
    """

    name: ClassVar[str] = "several"
    widths: tuple[tuple[str, int], ...]
    vectors: bool = False
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def fields(self) -> dict[str, Field]:
        """Return a double, an array of floats or a Vector for each output."""
        return {name: self._head(name, width).fields()["prediction"] for name, width in self.widths}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the values of each output by its name."""
        named = zip(self.widths, outputs, strict=True)
        return {name: self._head(name, width).columns([output])["prediction"] for (name, width), output in named}

    def as_dict(self) -> dict[str, Any]:
        """Return the head's state as a JSON-serialisable dict."""
        known = {"name": self.name, "widths": [list(pair) for pair in self.widths]}
        return {**known, "shapes": [[name, list(shape)] for name, shape in self.shapes]} if self.shapes else known

    @staticmethod
    def of(shapes: Mapping[str, tuple[int, ...]]) -> SeveralOutputs:
        """Create the head of several outputs, from the shapes of one row by their names."""
        widths = tuple((name, math.prod(shape)) for name, shape in shapes.items())
        return SeveralOutputs(widths, shapes=tuple((name, shape) for name, shape in shapes.items() if len(shape) > 1))

    def _head(self, name: str, width: int) -> Head:
        return Regression() if width == 1 else TensorOutput(width, self.vectors, dict(self.shapes).get(name, ()))


@dataclass(frozen=True)
class Tagging:
    """Head of a tagger: for each position the predicted class index and the probability of each class.

    Attributes:
        positions: The number of positions.
        classes: The number of classes.
        from_logits: Whether the model outputs logits instead of probabilities.
        normalize: Whether the outputs of a position, each within [0, 1], are divided by their sum.
        source: The reason for this interpretation of the output, as a line of the fit's plan.
    """

    name: ClassVar[str] = "tagging"
    positions: int
    classes: int
    from_logits: bool
    normalize: bool = False
    source: str = field(default="", compare=False)

    def fields(self) -> dict[str, Field]:
        """Return an array of floats for the prediction, and one of arrays for the probability."""
        shape = (self.positions, self.classes)
        return {
            "prediction": Field("array<float>", self.positions),
            "probability": Field("array<float>", math.prod(shape), shape),
        }

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Compute both fields from one output of shape (rows, positions, classes)."""
        (output,) = outputs
        each = Classification(self.classes, self.classes, self.from_logits, normalize=self.normalize)
        found = each.columns([output.reshape(-1, self.classes)])
        return {
            name: found[name].reshape(len(output), field.width).astype(np.float32)
            for name, field in self.fields().items()
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the head's state as a JSON-serialisable dict."""
        known = {"name": self.name, "positions": self.positions, "classes": self.classes}
        return {**known, "from_logits": self.from_logits, "normalize": self.normalize}


@dataclass(frozen=True)
class Reconstruction:
    """Head of a model whose last output is the error of its reconstruction of the row.

    Attributes:
        head: The head of the other outputs.
    """

    name: ClassVar[str] = "reconstruction"
    head: Head

    def fields(self) -> dict[str, Field]:
        """Return the other head's fields, and a double for the error."""
        return {**self.head.fields(), "error": Field("double")}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the other head's fields, and return the last output as the error, shape (rows,)."""
        *others, error = outputs
        return {**self.head.columns(others), "error": error.reshape(len(error)).astype(np.float64)}

    def as_dict(self) -> dict[str, Any]:
        """Return the head's state as a JSON-serialisable dict."""
        return {"name": self.name, "head": self.head.as_dict()}


HEADS: dict[str, type] = {
    head.name: head for head in (Classification, Regression, TensorOutput, SeveralOutputs, Tagging, Reconstruction)
}


def head_from_dict(content: dict[str, Any]) -> Head:
    """Create a head from the result of its `as_dict`.

    Raises:
        SavedModelError: The head is unknown, or its values are invalid.
    """
    rest = dict(content)
    name = str(rest.pop("name", ""))
    if name not in HEADS:
        raise SavedModelError(
            explain(f"There is no head {name!r}.", expected="the name of a head", received=name, fix=hint(name, HEADS))
        )
    try:
        if "head" in rest:
            rest["head"] = head_from_dict(rest["head"])
        if "thresholds" in rest:
            rest["thresholds"] = tuple(map(float, rest["thresholds"]))
        if "widths" in rest:
            rest["widths"] = tuple((str(output), int(width)) for output, width in rest["widths"])
        if "shape" in rest:
            rest["shape"] = tuple(map(int, rest["shape"]))
        if "shapes" in rest:
            rest["shapes"] = tuple((str(output), tuple(map(int, shape))) for output, shape in rest["shapes"])
        head: Head = HEADS[name](**rest)
    except (TypeError, ValueError) as error:
        raise SavedModelError(
            explain(
                f"The head {name!r} can't be read.",
                expected="a head as save wrote it",
                received=f"{rest}: {error}",
                fix="Save the model again with the version that made it.",
            )
        ) from error
    return head


def _log(values: np.ndarray) -> np.ndarray:
    logarithms: np.ndarray = np.log(np.clip(values, np.finfo(np.float64).tiny, None))
    return logarithms
