"""A copy of the user's model, compiled as the estimator's options say; what is given stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from spark_dl.errors import ModelError, explain
from spark_dl.train.identity import config_of, naming
from spark_dl.train.losses import by_output
from spark_dl.train.model_bytes import custom_objects, from_bytes, to_bytes
from spark_dl.train.model_shape import shape_of
from spark_dl.train.parts import inner_layers

__all__ = ["FRONT", "compiled_copy"]

# The name of the inner model that holds the transform of an input, followed by the input's where there are several.
FRONT = "transform_fn"


def compiled_copy(
    model: keras.Model,
    optimizer: Any,
    loss: Any,
    metrics: Any,
    loss_weights: Any = None,
    dtype_policy: str | None = None,
) -> keras.Model:
    """A copy of the model, compiled anew where an optimizer, a loss, its weights or metrics are given.

    What isn't given is taken from the model's own compile options. The given objects are copied, too.

    Raises:
        ModelError: there is no loss.
    """
    with keras.saving.custom_object_scope(custom_objects(model, optimizer, loss, metrics)):
        copy = from_bytes(to_bytes(model))
        if dtype_policy:
            copy = _with_policy(copy, dtype_policy)
        elif all(given is None for given in (optimizer, loss, metrics, loss_weights)) and copy.compiled:
            return _built(copy)
        return _built(_recompiled(copy, optimizer, loss, metrics, loss_weights, dtype_policy == "mixed_float16"))


def _last_operations(model: keras.Model) -> Iterator[int]:
    """The ids of the layers that the outputs come from, within inner models, too."""
    for tensor in getattr(model, "outputs", None) or []:
        operation = tensor._keras_history.operation
        yield id(operation)
        if isinstance(operation, keras.Model):
            yield from _last_operations(operation)


def _with_policy(model: keras.Model, policy: str) -> keras.Model:
    """The model under another dtype policy; the layers that its outputs come from compute in float32.

    What is before training, the transform of the features, stays as it is.
    """
    last = set(_last_operations(model))
    before = {id(part) for layer in model.layers if layer.name.startswith(FRONT) for part in inner_layers(layer)}
    for layer in model._flatten_layers():
        if id(layer) not in before:
            layer.dtype_policy = "float32" if id(layer) in last else policy
    # Anew, since tensors between layers have dtypes of their own.
    return from_bytes(to_bytes(model))


def _recompiled(
    copy: keras.Model, optimizer: Any, loss: Any, metrics: Any, loss_weights: Any, scales: bool
) -> keras.Model:
    with naming():
        config = copy.get_compile_config() or {}
    own = keras.saving.deserialize_keras_object(config)
    loss = loss if loss is not None else getattr(copy, "loss", None) if copy.compiled else None
    if loss is None:
        raise ModelError(
            explain(
                f"The model {copy.name!r} has no loss.",
                expected="a compiled model, or the param `loss`",
                received="an uncompiled model and loss=None",
                fix="Compile the model, or set `loss`, for example loss='mse'.",
            )
        )
    own_optimizer = copy.optimizer if copy.compiled else None
    if loss_weights is not None:
        # Keras matches weights and losses as flat lists where their forms differ.
        shape = shape_of(copy)
        several = isinstance(loss, (list, tuple, dict))
        loss = by_output("loss", loss if several else [loss] * len(shape.outputs), shape)
        loss_weights = by_output("weight of its loss", loss_weights, shape)
    given = keras.optimizers.get(
        _copied(optimizer, keras.optimizers) if optimizer is not None else own_optimizer or "adam"
    )
    if scales and not isinstance(given, keras.optimizers.LossScaleOptimizer):
        # Keras does so by itself where it compiles, but forgets it where it loads.
        given = keras.optimizers.LossScaleOptimizer(given)
    copy.compile(
        optimizer=given,
        loss=_copied(loss, keras.losses),
        metrics=_copied(metrics, keras.metrics) if metrics is not None else own.get("metrics"),
        weighted_metrics=own.get("weighted_metrics"),
        loss_weights=loss_weights if loss_weights is not None else own.get("loss_weights"),
        run_eagerly=bool(own.get("run_eagerly")),
    )
    return copy


def _built(model: keras.Model) -> keras.Model:
    """The model with an optimizer that has its variables: Keras can't load a state that was not there to save."""
    model.optimizer.build(model.trainable_variables)
    return model


def _copied(thing: Any, module: Any) -> Any:
    """A Keras object of the same class and config, or several; names and functions as they are."""
    if isinstance(thing, dict):
        return {name: _copied(part, module) for name, part in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_copied(part, module) for part in thing]
    if isinstance(thing, (str, type)) or not hasattr(thing, "get_config"):
        return thing
    return module.deserialize(config_of(thing))
