"""What a model's output means: its fields by task, as Spark types known before anything runs.

A row for which the model gives NaN has NaN in its fields, in every way of scoring; no field holds nulls.

A head is one class here and its line in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from spark_dl.errors import SavedModelError, explain, hint

__all__ = ["HEADS", "Classification", "Field", "Head", "Regression", "SeveralOutputs", "TensorOutput", "head_from_dict"]


# Keras's own, below which its losses take no probability.
_EPSILON = 1e-7


@dataclass(frozen=True)
class Field:
    """One output column.

    Attributes:
        kind: "double", "vector" (Spark ML's) or "array<float>".
        width: numbers in a row.
    """

    kind: str
    width: int = 1


class Head(Protocol):
    """Turns a batch of outputs into columns."""

    name: ClassVar[str]

    def fields(self) -> dict[str, Field]:
        """The fields by name."""

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The fields' values from the model's outputs: shape (rows,) for a double, (rows, width) for others."""

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""


@dataclass(frozen=True)
class Classification:
    """Class indices, probabilities and logits.

    The probabilities are the softmax of the raw prediction; for one output unit, which gives the probability of
    class 1, the raw prediction is (-z, z) and the probability the sigmoid of z, as in Spark's own
    LogisticRegression.

    Attributes:
        classes: how many.
        units: the model's output units, `classes`, or 1 for two classes.
        from_logits: whether the model gives logits; otherwise it gives probabilities.
        normalize: whether its numbers of several units, each within [0, 1], become probabilities by their sum.
        source: what said so when it was fitted, as a line of the plan.
        thresholds: of each class, as Spark ML has them; empty where the most probable class is predicted.
    """

    name: ClassVar[str] = "classification"
    classes: int
    units: int
    from_logits: bool
    thresholds: tuple[float, ...] = ()
    normalize: bool = False
    source: str = field(default="", compare=False)

    def fields(self) -> dict[str, Field]:
        """A double and two Vectors."""
        vector = Field("vector", self.classes)
        return {"prediction": Field("double"), "probability": vector, "rawPrediction": vector}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """All three fields, from one output of shape (rows, units); NaN in all of them where an output is NaN."""
        (output,) = outputs
        values = output.reshape(len(output), self.units).astype(np.float64)
        raw, probability = self._one_unit(values[:, 0]) if self.units == 1 else self._many_units(values)
        scaled = raw
        if self.thresholds:
            with np.errstate(divide="ignore"):
                scaled = np.clip(probability, np.finfo(np.float64).tiny, None) / np.array(self.thresholds)
        prediction = np.argmax(scaled, axis=1).astype(np.float64)
        unknown = np.isnan(values).any(axis=1)
        if unknown.any():  # and argmax would say class 0
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
            if self.normalize:  # as Keras's loss does, which keeps them away from 0
                probability = np.clip(values, _EPSILON, None)
                probability /= probability.sum(axis=1, keepdims=True)
            return _log(values), probability
        limit = np.finfo(np.float64).max / 2  # an infinite logit minus itself would be NaN
        finite = np.clip(values, -limit, limit)
        shifted = np.exp(finite - finite.max(axis=1, keepdims=True))
        return values, shifted / shifted.sum(axis=1, keepdims=True)

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        known = {"name": self.name, "classes": self.classes, "units": self.units, "from_logits": self.from_logits}
        return {**known, "normalize": True} if self.normalize else known


@dataclass(frozen=True)
class Regression:
    """One number a row."""

    name: ClassVar[str] = "regression"

    def fields(self) -> dict[str, Field]:
        """One double."""
        return {"prediction": Field("double")}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The number."""
        (output,) = outputs
        return {"prediction": output.reshape(len(output)).astype(np.float64)}

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {"name": self.name}


@dataclass(frozen=True)
class TensorOutput:
    """The output as it is, flattened in C order.

    Attributes:
        width: numbers a row.
        vectors: whether it becomes a Vector, and not an array of floats.
    """

    name: ClassVar[str] = "tensor"
    width: int
    vectors: bool = False

    def fields(self) -> dict[str, Field]:
        """An array of floats, or a Vector."""
        return {"prediction": Field("vector" if self.vectors else "array<float>", self.width)}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The numbers."""
        (output,) = outputs
        dtype = np.float64 if self.vectors else np.float32
        return {"prediction": output.reshape(len(output), self.width).astype(dtype)}

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON; what it becomes is an option of the model."""
        return {"name": self.name, "width": self.width}


@dataclass(frozen=True)
class SeveralOutputs:
    """A field for each output of the model: a number where it has one unit, else its numbers flattened in C order.

    Attributes:
        widths: numbers a row, by the outputs' names, in the model's order.
        vectors: whether several numbers become a Vector, and not an array of floats.
    """

    name: ClassVar[str] = "several"
    widths: tuple[tuple[str, int], ...]
    vectors: bool = False

    def fields(self) -> dict[str, Field]:
        """A double, an array of floats or a Vector for each output."""
        return {name: self._head(width).fields()["prediction"] for name, width in self.widths}

    def columns(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The numbers of each output."""
        named = zip(self.widths, outputs, strict=True)
        return {name: self._head(width).columns([output])["prediction"] for (name, width), output in named}

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {"name": self.name, "widths": [list(pair) for pair in self.widths]}

    def _head(self, width: int) -> Head:
        return Regression() if width == 1 else TensorOutput(width, self.vectors)


HEADS: dict[str, type] = {head.name: head for head in (Classification, Regression, TensorOutput, SeveralOutputs)}


def head_from_dict(content: dict[str, Any]) -> Head:
    """The inverse of a head's `as_dict`.

    Raises:
        SavedModelError: the head is unknown, or its values don't fit.
    """
    rest = dict(content)
    name = str(rest.pop("name", ""))
    if name not in HEADS:
        raise SavedModelError(explain(f"There is no head {name!r}.", fix=hint(name, HEADS)))
    try:
        if "thresholds" in rest:
            rest["thresholds"] = tuple(map(float, rest["thresholds"]))
        if "widths" in rest:
            rest["widths"] = tuple((str(output), int(width)) for output, width in rest["widths"])
        head: Head = HEADS[name](**rest)
    except (TypeError, ValueError) as error:
        raise SavedModelError(explain(f"The head {name!r} can't be read.", received=f"{rest}: {error}")) from error
    return head


def _log(values: np.ndarray) -> np.ndarray:
    logarithms: np.ndarray = np.log(np.clip(values, np.finfo(np.float64).tiny, None))
    return logarithms
