"""Copy of the user's model, compiled with the estimator's options; the user's objects are unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl._compat.keras import all_layers, built_variables, operation_of
from spark_dl.errors import ModelError, OptionError, explain, hint
from spark_dl.redaction import warn
from spark_dl.train.model.identity import config_of, naming
from spark_dl.train.model.live_state import counterparts, numbered, walk
from spark_dl.train.model.losses import by_output
from spark_dl.train.model.optimizer_state import transfer
from spark_dl.train.model.parts import inner_layers
from spark_dl.train.model.recompiling import compile_with, compiles_itself, refuse_other_compile
from spark_dl.train.model.round_trip import refuse_forgotten
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes
from spark_dl.train.model.shape import shape_of

__all__ = ["FRONT", "compiled_copy"]

# Name of the inner model that holds an input's transform; followed by the input's name if there are several.
FRONT = "transform_fn"


def compiled_copy(
    model: keras.Model,
    optimizer: Any,
    loss: Any,
    metrics: Any,
    loss_weights: Any = None,
    dtype_policy: str | None = None,
    *,
    may_lack_loss: bool = False,
) -> keras.Model:
    """Copy the model and recompile it if an optimizer, a loss, its weights, metrics or a dtype policy is set.

    Options that are None are taken from the model's own compile options. The objects in the arguments are copied, too.

    Args:
        model: The user's model.
        optimizer: A Keras optimizer, its name, or None.
        loss: The loss, or several as a list or a dict by output, or None.
        metrics: The metrics as in `compile`, or None.
        loss_weights: The weights of the outputs' losses, as a list or a dict by output, or None.
        dtype_policy: The name of the dtype policy to train with, or None; "mixed_float16" adds loss scaling.
        may_lack_loss: Whether the model brings its own loss.

    Raises:
        ModelError: There is no loss, the class doesn't take the options, or Keras doesn't save all of the model.
        OptionError: The optimizer excludes variables of another model.
    """
    with keras.saving.custom_object_scope(custom_objects(model, optimizer, loss, metrics)):
        copy = from_bytes(to_bytes(model))
        refuse_forgotten(model, copy)
        refuse_other_compile(model, copy)
        if dtype_policy:
            copy = _with_policy(copy, dtype_policy)
        live, variables = numbered(walk(model)), counterparts(model, copy)
        _build_inner(copy)
        if not may_lack_loss:
            _check_loss(copy, loss)
        unchanged = dtype_policy is None and all(one is None for one in (optimizer, loss, metrics, loss_weights))
        if not unchanged or not copy.compiled:
            own = _copied_optimizer(optimizer, live, variables)
            _recompile(copy, own, loss, metrics, loss_weights, dtype_policy == "mixed_float16")
        made = _built(copy)
        if compiles_itself(type(made)):
            refuse_other_compile(made, from_bytes(to_bytes(made)))
        return made


def _copied_optimizer(optimizer: Any, live: Mapping[int, Any], variables: Mapping[int, Any]) -> Any:
    """Copy the optimizer, with the state that its config leaves out; None for None.

    Args:
        optimizer: The user's optimizer, or its name, or None.
        live: The variables of the user's model, by their numbers.
        variables: The variables of the copied model, by the same numbers.

    Raises:
        OptionError: It isn't an optimizer.
    """
    if optimizer is None:
        return None
    try:
        copy = keras.optimizers.get(optimizer() if isinstance(optimizer, type) else _copied(optimizer))
    except (TypeError, ValueError) as error:
        kinds = [kind for kind in vars(keras.optimizers).values() if isinstance(kind, type)]
        names = sorted(kind.__name__.lower() for kind in kinds if issubclass(kind, keras.optimizers.Optimizer))
        raise OptionError(
            explain(
                "The optimizer can't be used.",
                expected="a Keras optimizer, or its name",
                received=f"{optimizer!r} ({type(optimizer).__name__}): {error}",
                fix=hint(optimizer, names) if isinstance(optimizer, str) else "Pass an object of keras.optimizers.",
            )
        ) from error
    if copy is not optimizer and isinstance(optimizer, keras.optimizers.Optimizer):
        transfer(optimizer, copy, live, variables)
    return copy


def _build_inner(model: keras.Model) -> None:
    """Build inner layers that are built on their first call, such as a layer used as an activation."""
    if all(layer.built for layer in all_layers(model)):
        return
    shape = shape_of(model)
    specs = {one.name: tf.TensorSpec((None, *one.shape), one.dtype) for one in shape.inputs}
    features: Any = specs if shape.takes_dict else list(specs.values())
    if not shape.takes_dict and len(specs) == 1:
        features = features[0]
    # Traced in training mode but not run, so no random number is drawn and no state changes.
    tf.function(lambda given: model(given, training=True), autograph=False).get_concrete_function(features)


def _last_operations(model: keras.Model) -> Iterator[int]:
    """Yield the ids of the layers that compute the outputs, also within inner models."""
    for tensor in getattr(model, "outputs", None) or []:
        operation = operation_of(tensor)
        yield id(operation)
        if isinstance(operation, keras.Model):
            yield from _last_operations(operation)


def _with_policy(model: keras.Model, policy: str) -> keras.Model:
    """Set the model's dtype policy; the layers that compute its outputs use float32.

    The transform of the features, which isn't trained, keeps its own policy.
    """
    last = set(_last_operations(model))
    before = {id(part) for layer in model.layers if layer.name.startswith(FRONT) for part in inner_layers(layer)}
    for layer in all_layers(model):
        if id(layer) not in before:
            layer.dtype_policy = "float32" if id(layer) in last else policy
    # Rebuilt, because tensors between layers have dtypes of their own.
    return from_bytes(to_bytes(model))


def _check_loss(copy: keras.Model, loss: Any) -> None:
    if loss is None and not (copy.compiled and getattr(copy, "loss", None) is not None):
        raise ModelError(
            explain(
                f"The model {copy.name!r} has no loss.",
                expected="a compiled model, or the param `loss`",
                received="an uncompiled model and loss=None",
                fix="Compile the model, or set `loss`, for example loss='mse'.",
            )
        )


def _recompile(copy: keras.Model, optimizer: Any, loss: Any, metrics: Any, loss_weights: Any, scales: bool) -> None:
    with naming():
        config = copy.get_compile_config() or {}
    own = keras.saving.deserialize_keras_object(config)
    loss = loss if loss is not None else getattr(copy, "loss", None) if copy.compiled else None
    own_optimizer = copy.optimizer if copy.compiled else None
    if loss_weights is not None:
        # Keras matches weights and losses as flat lists if their structures differ.
        shape = shape_of(copy)
        several = isinstance(loss, (list, tuple, dict))
        loss = by_output("loss", loss if several else [loss] * len(shape.outputs), shape)
        loss_weights = by_output("weight of its loss", loss_weights, shape)
    chosen = keras.optimizers.get(optimizer if optimizer is not None else own_optimizer or "adam")
    if scales and not isinstance(chosen, keras.optimizers.LossScaleOptimizer):
        # Keras adds loss scaling by itself only for the model's own policy.
        chosen = keras.optimizers.LossScaleOptimizer(chosen)
    others: dict[str, Any] = {}
    if type(copy).compile is keras.Model.compile:
        others = {name: own[name] for name in ("run_eagerly", "steps_per_execution", "jit_compile") if name in own}
        # The model's own optimizer was already wrapped, or not, for loss scaling.
        others["auto_scale_loss"] = optimizer is not None or own_optimizer is None
    options = {
        "optimizer": chosen,
        "loss": _copied(loss),
        "metrics": _copied(metrics) if metrics is not None else own.get("metrics"),
        "weighted_metrics": own.get("weighted_metrics"),
        "loss_weights": loss_weights if loss_weights is not None else own.get("loss_weights"),
        **others,
    }
    compile_with(copy, options)


def _built(model: keras.Model) -> keras.Model:
    """Return the model with a built optimizer: Keras can't load the state of an optimizer that was saved unbuilt."""
    optimizer = model.optimizer
    known = {id(variable) for variable in built_variables(optimizer)}
    if optimizer.built and not all(id(variable) in known for variable in model.trainable_variables):
        if int(np.asarray(optimizer.iterations)):
            warn("The model has trainable variables that its optimizer wasn't built for: it starts without state.")
        variables = numbered(walk(model))
        fresh = _copied(optimizer)
        transfer(optimizer, fresh, variables, variables, with_state=False)
        model.optimizer = fresh
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return model


def _copied(thing: Any) -> Any:
    """Copy Keras objects, one or several, by class and config; names and functions are returned as they are.

    A class of losses or metrics gives an object of it: Keras saves a class by the base's config, which lacks arguments.
    """
    if isinstance(thing, dict):
        return {name: _copied(part) for name, part in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_copied(part) for part in thing]
    if isinstance(thing, type) and issubclass(thing, (keras.losses.Loss, keras.Metric)):
        return thing()
    if isinstance(thing, (str, type)) or not hasattr(thing, "get_config"):
        return thing
    # `keras.losses.deserialize` doesn't know all of Keras's losses.
    return keras.saving.deserialize_keras_object(config_of(thing))
