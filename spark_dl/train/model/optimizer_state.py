"""State of optimizers that Keras doesn't save: exclusions, loss scaling, which variables they were built for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import (
    built_variables,
    decay_exclusions,
    decay_pattern,
    iterations_variable,
    selects_by_path,
    variable_key,
)
from spark_dl.errors import OptionError, explain
from spark_dl.train.model.identity import naming
from spark_dl.train.model.plain_values import apply_attributes, plain_attributes
from spark_dl.train.model.recompiling import compile_again

__all__ = [
    "describe_optimizers",
    "excluded_names",
    "excludes_variables",
    "restore_exclusions",
    "restore_optimizers",
    "transfer",
]


def inner_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizer and all optimizers within it, outer ones first."""
    found: list[Any] = []
    waiting = [optimizer]
    while waiting:
        one = waiting.pop(0)
        if not any(one is other for other in found):
            found.append(one)
            waiting += list(_held(one))
    return found


def _held(optimizer: Any) -> Iterator[Any]:
    for _, value in sorted(vars(optimizer).items()):
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, keras.optimizers.Optimizer):
                yield part


def describe_optimizers(
    optimizer: Any, variables: Mapping[int, Any], compiled_with: Any = None
) -> list[dict[str, Any]] | None:
    """Record the state that Keras doesn't save of an optimizer and those within it.

    Args:
        optimizer: The optimizer of a compiled model.
        variables: The model's variables, by their numbers.
        compiled_with: The optimizer in the model's compile options, or None if unknown.

    Returns:
        One record per optimizer; None if there is no Keras optimizer.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return None
    noted = [_describe(one, variables) for one in inner_optimizers(optimizer)]
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    replaced = compiled_with is not None and compiled_with not in (optimizer, inner)
    noted[0]["config"] = keras.saving.serialize_keras_object(optimizer) if replaced else None
    return noted


def _describe(optimizer: Any, variables: Mapping[int, Any]) -> dict[str, Any]:
    numbers = _numbers(optimizer, variables)
    built_for = (
        [numbers.get(variable_key(optimizer, v), -1) for v in built_variables(optimizer)] if optimizer.built else None
    )
    return {
        "class": type(optimizer).__name__,
        "attributes": plain_attributes(optimizer),
        "excluded": sorted(numbers[key] for key in decay_exclusions(optimizer) if key in numbers),
        "pattern": decay_pattern(optimizer),
        "built_for": built_for,
        "iterations": 0 if optimizer.built else int(np.asarray(iterations_variable(optimizer))),
    }


def excludes_variables(optimizer: Any) -> bool:
    """Return whether an optimizer, or one within it, excludes variables from weight decay other than by name."""
    return any(decay_exclusions(one) for one in _all(optimizer))


def excluded_names(optimizer: Any) -> list[str | None]:
    """Return the patterns of names that an optimizer, and each within it, excludes from weight decay.

    Returns:
        One pattern, or None, per optimizer; empty if there are no patterns.
    """
    patterns = [decay_pattern(one) for one in _all(optimizer)]
    return patterns if any(pattern is not None for pattern in patterns) else []


def restore_exclusions(optimizer: Any, patterns: list[str | None]) -> None:
    """Apply the patterns from `excluded_names` to an optimizer of the same config."""
    for one, pattern in zip(_all(optimizer), patterns, strict=True):
        if pattern is not None:
            one.exclude_from_weight_decay(var_names=[pattern])


def _all(optimizer: Any) -> list[Any]:
    return inner_optimizers(optimizer) if isinstance(optimizer, keras.optimizers.Optimizer) else []


def _numbers(optimizer: Any, variables: Mapping[int, Any]) -> dict[Any, int]:
    """Return the numbers of variables by the optimizer's own keys."""
    return {variable_key(optimizer, variable): number for number, variable in variables.items()}


def restore_optimizers(model: keras.Model, noted: list[dict[str, Any]], variables: Mapping[int, Any]) -> bool:
    """Apply recorded state to the optimizer of a loaded model.

    Args:
        model: The compiled Keras model, with its layers restored.
        noted: The records from `describe_optimizers`.
        variables: The model's variables, by their numbers.

    Returns:
        Whether the optimizer was replaced, so that its state must be loaded again.
    """
    numbers = noted[0]["built_for"]
    known = numbers is not None and all(number in variables for number in numbers)
    wanted = [variables[number] for number in numbers] if known else model.trainable_variables
    is_new = _is_another(model.optimizer, noted[0], wanted)
    if is_new:
        _replace_optimizer(model, noted[0])
        model.optimizer.build(wanted)
    for optimizer, recorded in zip(inner_optimizers(model.optimizer), noted, strict=False):
        if type(optimizer).__name__ == recorded["class"]:
            _restore(optimizer, recorded, variables)
    return is_new


def _is_another(optimizer: Any, recorded: Mapping[str, Any], wanted: list[Any]) -> bool:
    # Keras builds the optimizer before it loads the weights: ScheduleFreeAdamW copies their initial values, and a
    # MultiOptimizer selects by paths that variables get back only afterwards.
    early = optimizer.built and recorded["built_for"] is None
    chooses = any(selects_by_path(one) for one in inner_optimizers(optimizer))
    same = [id(variable) for variable in built_variables(optimizer)] == [id(variable) for variable in wanted]
    other_class = type(optimizer).__name__ != recorded["class"]
    return early or chooses or not same or other_class or recorded["config"] is not None


def _replace_optimizer(model: keras.Model, recorded: Mapping[str, Any]) -> None:
    scales = recorded["class"] == keras.optimizers.LossScaleOptimizer.__name__
    if recorded["config"] is not None:
        model.optimizer = keras.saving.deserialize_keras_object(recorded["config"])
        return
    with naming():  # losses and metrics are written by the names that they were loaded by
        config = model.get_compile_config()
    if type(model).compile is not keras.Model.compile:
        compile_again(model, config)
    else:
        options = keras.saving.deserialize_keras_object(config)
        model.compile(**options, auto_scale_loss=False)
        if scales and not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            model.optimizer = keras.optimizers.LossScaleOptimizer(model.optimizer, name="loss_scale_optimizer")


def _restore(optimizer: Any, recorded: Mapping[str, Any], variables: Mapping[int, Any]) -> None:
    apply_attributes(optimizer, recorded["attributes"])
    excluded = [variables[number] for number in recorded["excluded"] if number in variables]
    if excluded or recorded["pattern"] is not None:
        names = None if recorded["pattern"] is None else [recorded["pattern"]]
        optimizer.exclude_from_weight_decay(var_list=excluded, var_names=names)
    if recorded["iterations"]:
        iterations_variable(optimizer).assign(recorded["iterations"])


def transfer(
    given: Any, copy: Any, live: Mapping[int, Any], variables: Mapping[int, Any], with_state: bool = True
) -> None:
    """Transfer the state that an optimizer's config leaves out to its copy.

    Args:
        given: The user's optimizer.
        copy: The copy, made from its config.
        live: The variables of the user's model, by their numbers.
        variables: The variables of the model that is trained, by the same numbers.
        with_state: Whether the copy also gets the optimizer's variables, if it was built for the model.

    Raises:
        OptionError: The optimizer excludes variables of another model from weight decay.
    """
    for one in inner_optimizers(given):
        strange = decay_exclusions(one) - _numbers(one, live).keys()
        if strange:
            raise OptionError(
                explain(
                    "The optimizer excludes variables from weight decay that aren't the model's.",
                    expected="variables of the model that is given as `model`, without transformFn",
                    received=f"{len(strange)} others in exclude_from_weight_decay(var_list=...)",
                    fix="Name them: exclude_from_weight_decay(var_names=[...]).",
                )
            )
    noted = describe_optimizers(given, live) or []
    built_for = noted[0]["built_for"]
    if with_state and built_for is not None and -1 not in built_for:
        copy.build([variables[number] for number in built_for])
        for mine, theirs in zip(copy.variables, given.variables, strict=True):
            mine.assign(np.asarray(theirs))
    for one, recorded in zip(inner_optimizers(copy), noted, strict=True):
        _restore(one, recorded, variables)
