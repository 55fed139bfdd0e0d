"""Keras internals: layers, variables, optimizers, metrics and callbacks.

Each docstring names the symbol behind the function. Checked with Keras 3.10, 3.12, 3.14 and 3.15.
`tests/unit/test_compat_keras.py` has a test for each. Saving is in `_compat/keras_saving.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.backend import compute_output_spec
from keras.src.trainers.compile_utils import CompileMetrics

__all__ = [
    "CALLBACK_ATTRIBUTES",
    "LAYERS_IN_ORDER",
    "LAYER_ATTRIBUTES",
    "MIXING_LAYERS",
    "NEW_FILE_CALLBACKS",
    "TRACKING_ATTRIBUTES",
    "all_layers",
    "best_direction",
    "build_compiled_state",
    "built_variables",
    "child_layers",
    "compile_metrics",
    "compiled_optimizer",
    "copied_value",
    "decay_exclusions",
    "decay_pattern",
    "is_compile_metrics",
    "is_seed",
    "iterations_variable",
    "mask_of",
    "operation_of",
    "output_index",
    "outputs_within",
    "own_variables",
    "seed_generators",
    "selects_by_path",
    "set_path",
    "set_train_function",
    "set_trainable_flag",
    "trace_compiled_metrics",
    "trace_metrics",
    "used_tensors",
    "variable_key",
    "wrapped_function",
]


def _known(module: Any, *names: str) -> tuple[type, ...]:
    """Return the classes of a module that this release has."""
    return tuple(getattr(module, name) for name in names if hasattr(module, name))


# Layers that blend the images of a batch, and their labels with them.
MIXING_LAYERS = _known(keras.layers, "MixUp", "CutMix")
# Layers that apply other layers one after the other.
LAYERS_IN_ORDER = (keras.Sequential, *_known(keras.layers, "Pipeline"))
# Callbacks of newer releases that write files.
NEW_FILE_CALLBACKS = _known(keras.callbacks, "OrbaxCheckpoint")
# Attributes that Keras sets on each callback.
CALLBACK_ATTRIBUTES = frozenset({"_model", "model", "params", "validation_data"})
# Attributes that Keras sets on layers and models when they are created, built, called, compiled and evaluated.
LAYER_ATTRIBUTES = frozenset(
    (
        *("built", "name", "trainable", "input_spec", "training", "call_signature_parameters", "states", "is_adapted"),
        *("lora_enabled", "lora_rank", "quantization_config", "compiled", "loss", "optimizer", "iterations", "history"),
        *("stop_training", "stop_evaluating", "stop_predicting", "is_gptq_calibrated", "is_awq_calibrated"),
        *("steps_per_execution", "unrolled_steps_per_execution"),
        *("train_function", "test_function", "predict_function", "_eval_epoch_iterator"),
    )
)
# Attributes with which Keras tracks an object's parts and arguments.
TRACKING_ATTRIBUTES = frozenset(
    {"_tracker", "_lock", "_auto_config", "_obj_reference_counts_dict", "_convert_input_args"}
)


def all_layers(layer: Any, include_self: bool = True) -> list[Any]:
    """Return a layer or a model and all layers within it (`Layer._flatten_layers`).

    `Model.layers` has the outermost layers only, and a custom layer has no public list.
    """
    return list(layer._flatten_layers(include_self=include_self))


def child_layers(layer: Any) -> list[Any]:
    """Return the layers that a layer or a model holds itself (`Layer._layers`)."""
    return list(layer._layers)


def copied_value(variable: Any) -> np.ndarray:
    """Return a copy of a variable's value, of its shape and dtype (`Variable.__array__`).

    `np.array` asks for a copy in a way that Keras's variables don't know, which NumPy 2 deprecates.
    """
    return np.asarray(variable).copy()


def own_variables(layer: Any) -> list[Any]:
    """Return the variables that a layer holds itself, without seeds.

    Behind it are `Layer._trainable_variables` and `Layer._non_trainable_variables`, which don't depend on the flag
    `trainable` of the layer.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def seed_generators(layer: Any) -> list[Any]:
    """Return the random number generators that a layer holds itself (`Layer._seed_generators`)."""
    return list(layer._seed_generators)


def is_seed(variable: Any) -> bool:
    """Return whether a variable is the state of a random number generator, by the name that `SeedGenerator` gives."""
    return "seed_generator_state" in getattr(variable, "path", "")


def set_trainable_flag(layer: Any, trainable: bool) -> None:
    """Set the flag of one layer (`Layer._trainable`); the public setter also sets that of all layers within it."""
    layer._trainable = trainable


def set_path(variable: Any, path: str) -> None:
    """Set a variable's path (`Variable._path`), which is read-only in public."""
    variable._path = path


def operation_of(tensor: Any) -> Any:
    """Return the layer or operation that computes a symbolic tensor (`KerasTensor._keras_history.operation`)."""
    return tensor._keras_history.operation


def output_index(tensor: Any) -> int:
    """Return the index of a tensor in its operation's outputs (`KerasTensor._keras_history.tensor_index`)."""
    return int(tensor._keras_history.tensor_index)


def outputs_within(model: Any, layer: Any) -> list[Any]:
    """Return the symbolic outputs of a layer's calls within a functional model (`Function._nodes_by_depth`).

    A nested model's own `output` is that of its own graph.
    """
    nodes = (node for level in model._nodes_by_depth.values() for node in level)
    return [tensor for node in nodes if node.operation is layer for tensor in node.outputs]


def used_tensors(model: Any) -> set[int]:
    """Return the ids of the symbolic tensors from which a functional model computes its outputs, these among them.

    Behind it is `Function._nodes_by_depth`, which has the calls that the outputs depend on.
    """
    nodes = (node for level in model._nodes_by_depth.values() for node in level)
    return {id(tensor) for tensor in (*model.outputs, *(one for node in nodes for one in node.input_tensors))}


def mask_of(tensor: Any) -> Any:
    """Return the mask that a tensor carries, or None (`_keras_mask`)."""
    return getattr(tensor, "_keras_mask", None)


def built_variables(optimizer: Any) -> list[Any]:
    """Return the variables that an optimizer was built for, in its order (`Optimizer._trainable_variables`).

    A LossScaleOptimizer of Keras 3.10 doesn't note them itself: its inner optimizer does.
    """
    return list(optimizer._trainable_variables or getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables)


def variable_key(optimizer: Any, variable: Any) -> Any:
    """Return the key by which an optimizer identifies a variable (`Optimizer._var_key`)."""
    return optimizer._var_key(variable)


def iterations_variable(optimizer: Any) -> Any:
    """Return the variable that counts an optimizer's steps (`Optimizer._iterations`).

    `Optimizer.iterations` isn't a variable if the optimizer accumulates gradients.
    """
    return optimizer._iterations


def decay_exclusions(optimizer: Any) -> frozenset[Any]:
    """Return the keys of the variables that have no weight decay (`Optimizer._exclude_from_weight_decay`)."""
    return frozenset(getattr(optimizer, "_exclude_from_weight_decay", None) or ())


def decay_pattern(optimizer: Any) -> str | None:
    """Return the pattern of the names of variables without weight decay, or None.

    Behind it is `Optimizer._exclude_from_weight_decay_pattern`.
    """
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    return None if pattern is None else str(pattern.pattern)


def compiled_optimizer(model: Any) -> Any:
    """Return the optimizer that was passed to `compile`, or None if it is unknown (`Model._compile_config`).

    `Model.optimizer` may have been replaced since, and `Model.get_compile_config` is already serialized.
    """
    return getattr(getattr(model, "_compile_config", None), "config", {}).get("optimizer")


def compile_metrics(model: Any) -> list[Any]:
    """Return `metrics` and `weighted_metrics` as they were passed to `compile`.

    Behind it are `_user_metrics` and `_user_weighted_metrics` of `Model._compile_metrics`. `Model.metrics` has only
    those that are built.
    """
    compiled = getattr(model, "_compile_metrics", None)
    return [getattr(compiled, "_user_metrics", None), getattr(compiled, "_user_weighted_metrics", None)]


def is_compile_metrics(metric: Any) -> bool:
    """Return whether a metric is the container of compiled metrics in `Model.metrics` (`CompileMetrics`)."""
    return isinstance(metric, CompileMetrics)


def selects_by_path(optimizer: Any) -> bool:
    """Return whether an optimizer selects inner ones by paths of variables (`MultiOptimizer`, new in Keras 3.15)."""
    kind = getattr(keras.optimizers, "MultiOptimizer", None)
    return kind is not None and isinstance(optimizer, kind)


def wrapped_function(metric: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function that a `MeanMetricWrapper` takes the mean of, and its arguments (`_fn`, `_fn_kwargs`).

    A loss of Keras's own has its arguments under the same name, and another name for its function.

    Returns:
        (None, {}) for other metrics.
    """
    return getattr(metric, "_fn", None), dict(getattr(metric, "_fn_kwargs", {}))


def best_direction(metric: Any) -> str | None:
    """Return whether a metric is best when "up" or "down", or None if it doesn't say (`Metric._direction`)."""
    return getattr(metric, "_direction", None)


def build_compiled_state(model: keras.Model, batch: Any) -> None:
    """Build the state that `fit` otherwise builds in its first step, such as metrics (`Trainer._symbolic_build`).

    Args:
        model: The compiled Keras model.
        batch: One batch of tensors, (features, label[, weight]); only shapes and dtypes count.
    """
    try:
        model._symbolic_build(data_batch=batch)
    except Exception:
        # Keras builds the loss on the outputs' shapes alone, without what the model's layers attach to them.
        specs = keras.tree.map_structure(lambda one: keras.KerasTensor(one.shape, one.dtype.name), batch)

        def loss(x: Any, y: Any, weight: Any) -> Any:
            outputs = model(x, training=False)
            if model.run_eagerly:
                model.compute_metrics(x, y, outputs, weight)
            return model._compute_loss(x, y, outputs, weight, training=False)

        if model.run_eagerly:  # what takes no symbols
            loss(*keras.utils.unpack_x_y_sample_weight(batch))
            model.reset_metrics()
        else:
            compute_output_spec(loss, *keras.utils.unpack_x_y_sample_weight(specs))
        model._symbolic_build(data_batch=batch)


def trace_metrics(metrics: Any, weighted: Any, label: Any, output: Any, weights: Any = None) -> None:
    """Trace metrics as Keras computes those passed to `compile`, for a model with one output (`CompileMetrics`).

    Args:
        metrics: The metrics, as in `compile`; they are built.
        weighted: Those of `weighted_metrics`.
        label: The symbolic labels.
        output: The symbolic outputs.
        weights: The symbolic weights of the rows; None for none.
    """
    compiled = CompileMetrics(metrics, weighted)

    def result(label: Any, output: Any, weights: Any) -> Any:
        compiled.update_state(label, output, weights)
        return compiled.result()

    compute_output_spec(result, label, output, weights)


def trace_compiled_metrics(model: keras.Model, x: Any, label: Any, weights: Any = None) -> None:
    """Trace the metrics of a compiled model, which are built, on the outputs as the model's layers make them.

    Args:
        model: The compiled model.
        x: The symbolic features.
        label: The symbolic labels.
        weights: The symbolic weights of the rows; None for none.
    """
    compute_output_spec(lambda x, y, w: model.compute_metrics(x, y, model(x, training=False), w), x, label, weights)


def set_train_function(model: keras.Model, function: Callable[[Any], Any]) -> None:
    """Set the function with which `fit` takes each step.

    `Trainer.make_train_function`, which is public, makes one only if `Trainer.train_function` is None.

    Args:
        model: The compiled Keras model.
        function: The function that takes the iterator of batches and returns logs.
    """
    model.train_function = function
