"""Integrated gradients as a Keras model, which takes the explained model's inputs and returns their attributions.

Sundararajan, Taly and Yan: Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv:1703.01365).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl._compat.keras import all_layers, used_tensors
from spark_dl.errors import ModelError, explain, hint
from spark_dl.train.model.shape import ModelInput, ModelShape, shape_of

__all__ = ["AttributionModel"]


@keras.saving.register_keras_serializable(package="spark_dl")
class AttributionModel(keras.Model):
    """Model of the attributions of another model's inputs.

    The attribution of an input's value is its difference from the baseline, times the mean gradient of the explained
    output along the straight line from the baseline to the value. The mean is a Gauss-Legendre quadrature. Where an
    input goes into Embedding layers, the line is between embedding vectors, and the attributions of a vector's numbers
    are summed.

    Args:
        model: The explained model.
        target: The index of the explained output unit; None for each row's largest.
        output: The index of the explained output, in the model's order.
        baselines: The baseline by input name: a number, or an index for an input that goes into Embeddings;
            0 for others.
        steps: The number of points on the line.
        embedded: For each Embedding layer, the input that goes into it; found if None.

    Inputs: as the explained model's.
    Outputs: float32 of shape (rows, *shape) for each input, in the model's order; for an input that goes into
        Embedding layers, the shape of the embedded indices.

    Raises:
        ModelError: The gradient isn't defined for an input, or there is no such output unit.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        target: int | None = None,
        output: int = 0,
        baselines: Mapping[str, float] | None = None,
        steps: int = 50,
        embedded: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.model = model
        self.target, self.output_index, self.steps = target, output, steps
        self.baselines = dict(baselines or {})
        self.shape_of_model: ModelShape = shape_of(model)
        self.embedded = _embedded(model, self.shape_of_model) if embedded is None else list(embedded)
        self.unused = _unused(model, self.shape_of_model, output)
        self._check()

    def _check(self) -> None:
        for name in self.baselines:
            if name not in (known := [one.name for one in self.shape_of_model.inputs]):
                raise ModelError(
                    explain(
                        f"The model has no input {name!r}.",
                        expected=f"one of {', '.join(known)}",
                        received=name,
                        fix=hint(name, known),
                    )
                )
        for given in self.shape_of_model.inputs:
            if given.name not in self.embedded and not given.dtype.startswith(("float", "bfloat")):
                raise ModelError(
                    explain(
                        f"The attributions of the input {given.name!r} aren't defined.",
                        expected="floating-point numbers, or indices and texts that go into an Embedding layer",
                        received=f"dtype {given.dtype}, without an Embedding",
                        fix="Use PermutationImportance, or give the model an Embedding for this input.",
                    )
                )
        shape = self.shape_of_model.outputs[self.output_index].shape
        if len(shape) > 1:
            raise ModelError(
                explain(
                    "The explained output isn't one number for each unit.",
                    expected="an output of shape (units,) for each row",
                    received=f"shape {shape}",
                    fix="Explain another output, or add a layer that reduces it.",
                )
            )
        if self.target is not None and shape and shape[0] is not None and not 0 <= self.target < shape[0]:
            raise ModelError(
                explain(
                    f"There is no output unit {self.target}.",
                    expected=f"an index from 0 to {shape[0] - 1}",
                    received=f"target={self.target}",
                    fix="Set target to the index of a class, or leave it out for each row's largest output.",
                )
            )

    def call(self, inputs: Any, training: bool = False) -> list[tf.Tensor]:
        """Return the attributions of each input."""
        named = self._by_name(inputs)
        with self._embeddings(None) as captured:
            unit = self._unit(self._outputs(named))
        looked_up = list(captured)
        floats = [one.name for one in self.shape_of_model.inputs if one.name not in self.embedded]
        starts = {name: tf.fill(tf.shape(named[name]), self._baseline(name, named[name])) for name in floats}
        differences = [named[name] - starts[name] for name in floats]
        differences += [vectors - start for _, _, vectors, start in looked_up]
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)  # type: ignore[no-untyped-call]
        alphas, parts = tf.constant((nodes + 1) / 2, tf.float32), tf.constant(weights / 2, tf.float32)

        def step(index: tf.Tensor, *sums: tf.Tensor) -> list[tf.Tensor]:
            gradients = self._gradients(named, starts, alphas[index], unit)
            added = [tf.cast(parts[index], one.dtype) * one for one in gradients]
            return [index + 1, *(tf.ensure_shape(a + b, a.shape) for a, b in zip(sums, added, strict=True))]

        zeros = [tf.zeros_like(one) for one in differences]
        _, *means = tf.while_loop(lambda index, *_: index < self.steps, step, [tf.constant(0), *zeros])
        attributed = [tf.cast(mean * apart, tf.float32) for mean, apart in zip(means, differences, strict=True)]
        found: dict[str, tf.Tensor] = dict(zip(floats, attributed[: len(floats)], strict=True))
        for (name, _, _, _), values in zip(looked_up, attributed[len(floats) :], strict=True):
            summed = tf.reduce_sum(values, -1)
            found[name] = found[name] + summed if name in found else summed
        return [found[one.name] for one in self.shape_of_model.inputs]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shapes of the attributions: those of the inputs, unless embedded indices have another."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the explained model serialized."""
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "target": self.target,
            "output": self.output_index,
            "baselines": self.baselines,
            "steps": self.steps,
            "embedded": self.embedded,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> AttributionModel:
        """Create the model from its config."""
        rest = dict(config)
        return cls(keras.saving.deserialize_keras_object(rest.pop("model"), custom_objects=custom_objects), **rest)

    def _by_name(self, inputs: Any) -> dict[str, tf.Tensor]:
        names = [one.name for one in self.shape_of_model.inputs]
        if isinstance(inputs, Mapping):
            return {name: inputs[name] for name in names}
        return dict(zip(names, keras.tree.flatten(inputs), strict=True))

    def _outputs(self, named: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Call the explained model; the explained output as a matrix of shape (rows, units)."""
        shape = self.shape_of_model
        given: Any = dict(named)
        if not shape.takes_dict:
            given = [named[one.name] for one in shape.inputs]
            given = given[0] if len(given) == 1 else given
        result = keras.tree.flatten(self.model(given, training=False))[self.output_index]
        return tf.reshape(result, (tf.shape(result)[0], -1))

    def _unit(self, outputs: tf.Tensor) -> tf.Tensor:
        """Choose the explained unit of each row, as a one-hot matrix."""
        index = tf.argmax(outputs, -1) if self.target is None else tf.fill(tf.shape(outputs)[:1], self.target)
        return tf.one_hot(index, tf.shape(outputs)[1], dtype=outputs.dtype)

    def _gradients(
        self, named: Mapping[str, tf.Tensor], starts: Mapping[str, tf.Tensor], alpha: tf.Tensor, unit: tf.Tensor
    ) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            points = {
                name: start + tf.cast(alpha, start.dtype) * (named[name] - start) for name, start in starts.items()
            }
            for point in points.values():
                tape.watch(point)
            with self._embeddings((alpha, tape)) as captured:
                chosen = tf.reduce_sum(self._outputs({**named, **points}) * unit, -1)
        watched = [*points.items(), *((name, point) for name, point, _, _ in captured)]
        gradients = tape.gradient(chosen, [point for _, point in watched])
        for (name, _), gradient in zip(watched, gradients, strict=True):
            if gradient is None and name not in self.unused:
                raise ModelError(
                    explain(
                        f"No gradient leads from the output to the input {name!r}.",
                        expected="layers with a gradient between them",
                        received="a layer without one, such as Discretization",
                        fix="Use PermutationImportance, or replace the layer.",
                    )
                )
        return [
            tf.zeros_like(point) if gradient is None else tf.convert_to_tensor(gradient)
            for (_, point), gradient in zip(watched, gradients, strict=True)
        ]

    @contextlib.contextmanager
    def _embeddings(self, line: tuple[tf.Tensor, tf.GradientTape] | None) -> Iterator[list[tuple[str, Any, Any, Any]]]:
        """Capture each call of an Embedding; with a line, replace its result by the point on the line.

        Args:
            line: The position on the line, from 0 to 1, and the tape that watches the point; None for the end.

        Yields:
            A list that gets (input's name, point, vectors of the row, vectors of the baseline) for each call.
        """
        captured: list[tuple[str, Any, Any, Any]] = []
        layers = dict(zip(_embedding_layers(self.model), self.embedded, strict=True))
        own = {layer: layer.call for layer in layers}

        def replaced(layer: Any) -> Any:
            def call(indices: Any, *rest: Any, **named: Any) -> Any:
                vectors = own[layer](indices, *rest, **named)
                baseline = self._baseline(layers[layer], tf.convert_to_tensor(indices))
                start = own[layer](tf.fill(tf.shape(indices), baseline))
                point = vectors
                if line is not None:
                    alpha, tape = line
                    point = start + tf.cast(alpha, vectors.dtype) * (vectors - start)
                    tape.watch(point)
                captured.append((layers[layer], point, vectors, start))
                return point

            return call

        try:
            for layer in layers:
                layer.call = replaced(layer)
            yield captured
        finally:
            for layer in layers:
                del layer.call

    def _baseline(self, name: str, like: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.baselines.get(name, 0), like.dtype)


def _unused(model: Any, shape: ModelShape, output: int) -> set[str]:
    """Return the inputs of a functional model that an output doesn't depend on: their attributions are 0."""
    inputs: Sequence[Any] = keras.tree.flatten(getattr(model, "inputs", None) or [])
    outputs: Sequence[Any] = keras.tree.flatten(getattr(model, "outputs", None) or [])
    if len(inputs) != len(shape.inputs) or output >= len(outputs):
        return set()
    used = used_tensors(keras.Model(list(inputs), outputs[output]))
    return {given.name for given, tensor in zip(shape.inputs, inputs, strict=True) if id(tensor) not in used}


def _embedding_layers(model: Any) -> list[Any]:
    return [layer for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]


def _embedded(model: Any, shape: ModelShape) -> list[str]:
    """Return the input that each Embedding layer takes its indices from.

    Raises:
        ModelError: It can't be found, as in a subclassed model with several inputs.
    """
    found = []
    for layer in _embedding_layers(model):
        if len(shape.inputs) == 1:
            found.append(shape.inputs[0].name)
            continue
        sources = [one.name for one in shape.inputs if _reaches(model, one, layer)]
        if len(sources) != 1:
            raise ModelError(
                explain(
                    f"It isn't known which input goes into {layer.name!r}.",
                    expected="a functional model in which each Embedding layer takes one input",
                    received=f"inputs {', '.join(sources) or 'unknown'}",
                    fix="Build the model with keras.Model(inputs, outputs), with its Embeddings outside nested models.",
                )
            )
        found.append(sources[0])
    return found


def _reaches(model: Any, given: ModelInput, layer: Any) -> bool:
    """Return whether the layer's indices are computed of this input alone."""
    try:
        inputs: Sequence[Any] = keras.tree.flatten(model.inputs)
        (tensor,) = [one for one in inputs if one.name.split(":")[0] == given.name or one.name == given.name]
        keras.Model(tensor, layer.input)
    except (AttributeError, ValueError):
        return False
    return True
