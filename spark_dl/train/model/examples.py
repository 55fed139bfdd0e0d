"""Synthetic labels and outputs, to try losses and metrics on before any rows are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from spark_dl.data.columns import OPEN
from spark_dl.data.dataset import FEATURES, LABEL, Tensor
from spark_dl.train.model.shape import ModelOutput, fixed_shapes, shape_of

__all__ = [
    "TRIED_LENGTH",
    "Example",
    "examples_of",
    "examples_of_model",
    "features_of",
    "made_up_batch",
    "tried_shape",
]

# The length of synthetic rows for an input of open length.
TRIED_LENGTH = 8


@dataclass(frozen=True)
class Example:
    """Shapes and dtypes of the labels and outputs that a loss or a metric of one model output takes.

    Attributes:
        output: The name of the output.
        label_shape: The shape of one row's label.
        label_dtype: The NumPy name of the label's dtype.
        output_shape: The shape of one row's output.
    """

    output: str
    label_shape: tuple[int, ...]
    label_dtype: str
    output_shape: tuple[int, ...]

    @property
    def classes(self) -> int:
        """Number of classes that a label may have if it is a class index."""
        width = self.output_shape[-1] if self.output_shape else 1
        indices = self.label_shape in (self.output_shape[:-1], (*self.output_shape[:-1], 1))
        return width if width > 1 and indices else 2

    def labels(self, rows: int, kind: str, random: np.random.Generator) -> np.ndarray:
        """Draw labels.

        Args:
            rows: The number of rows.
            kind: "classes" for class indices or one-hot vectors, "numbers" for numbers of any size and sign.
            random: The random number generator.
        """
        shape = (rows, *self.label_shape)
        if kind == "numbers" and "float" in self.label_dtype:
            return random.normal(0.5, 2.0, shape).astype(self.label_dtype)
        if self.label_shape == self.output_shape and self.label_shape and self.label_shape[-1] > 1:
            chosen = random.integers(0, shape[-1], shape[:-1])
            one_hot: np.ndarray = np.eye(shape[-1])[chosen].astype(self.label_dtype)
            return one_hot
        return random.integers(0, self.classes, shape).astype(self.label_dtype)

    def outputs(self, rows: int, random: np.random.Generator) -> np.ndarray:
        """Draw outputs, float32, between 0 and 1, which are valid both as logits and as probabilities."""
        # The sums aren't 1: a value that all rows share would reveal nothing.
        return random.uniform(0.05, 0.95, (rows, *self.output_shape)).astype(np.float32)

    def weights(self, rows: int, random: np.random.Generator) -> np.ndarray:
        """Draw sample weights, float32: one for each row, of a shape that Keras broadcasts over positions."""
        return random.uniform(0.2, 3.0, (rows, *[1] * (len(self.output_shape) - 1))).astype(np.float32)

    def pairs(self, rows: int, random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield labels and outputs for each kind of label."""
        for kind in ("classes", "numbers") if "float" in self.label_dtype else ("classes",):
            yield self.labels(rows, kind, random), self.outputs(rows, random)


def examples_of(outputs: Sequence[ModelOutput], tensors: Sequence[Tensor]) -> list[Example]:
    """Return an example of labels and outputs for each output of a model that has a label.

    Args:
        outputs: The outputs of the model, without open sizes.
        tensors: The tensors of a batch.
    """
    fed = [replace(tensor, shape=tensor.fed or tensor.shape) for tensor in tensors]
    labels = {tensor.key: tensor for tensor in fed if tensor.role == LABEL}
    labels.update({tensor.target: tensor for tensor in fed if tensor.target is not None})
    found = []
    for output in outputs:
        label = labels.get(output.name, labels.get(""))
        if label is not None:
            found.append(Example(output.name, tuple(label.shape), label.dtype, tuple(output.shape)))
    return found


def examples_of_model(model: keras.Model, tensors: Sequence[Tensor]) -> list[Example]:
    """Return an example of labels and outputs for each output of a built model.

    Args:
        model: The built Keras model.
        tensors: The tensors of a batch.

    Raises:
        ModelError: The model's inputs or outputs are unknown.
    """
    shape = shape_of(model)
    given = {tensor.key: tried_shape(tensor.fed or tensor.shape) for tensor in tensors if tensor.role == FEATURES}
    fed = {one.name: given.get(one.name, given.get("", ())) for one in shape.inputs}
    return examples_of(fixed_shapes(model, shape, fed).outputs, tensors)


def tried_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of synthetic rows for an input, with a length in place of an open one.

    >>> tried_shape((-1, 3))
    (8, 3)
    """
    return tuple(TRIED_LENGTH if size == OPEN else size for size in shape)


def features_of(inputs: Mapping[str, tuple[tuple[int, ...], str]], rows: int, seed: int) -> Any:
    """Make up features: arrays by input name, or a single array if there is one input.

    Args:
        inputs: The shape of one row and the dtype, by the input's name.
        rows: The number of rows.
        seed: The random seed.
    """
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for name, (shape, dtype) in inputs.items():
        if dtype == "string":
            made[name] = np.full((rows, *shape), "a")
        elif "float" in dtype:
            made[name] = random.normal(size=(rows, *shape)).astype(dtype)
        else:
            made[name] = random.integers(0, 2, (rows, *shape)).astype(dtype)
    return made if len(made) > 1 else made.popitem()[1]


def made_up_batch(
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    examples: Sequence[Example],
    weighted: bool,
    kind: str,
    rows: int,
    seed: int,
) -> tuple[Any, ...]:
    """Make up a batch: features, labels and, if rows have weights, weights.

    Args:
        inputs: The shape of one row and the dtype, by the input's name.
        examples: The shapes of the labels; one label is an array, several are a dict by the output's name.
        weighted: Whether rows have weights.
        kind: The kind of labels, as in `Example.labels`.
        rows: The number of rows.
        seed: The random seed.
    """
    random = np.random.default_rng(seed)
    labels: Any = {one.output: one.labels(rows, kind, random) for one in examples}
    labels = labels if len(labels) > 1 else next(iter(labels.values()), None)
    if labels is None:
        return (features_of(inputs, rows, seed),)
    weights = [one.weights(rows, random) for one in examples[:1]] if weighted else []
    return (features_of(inputs, rows, seed), labels, *weights)
