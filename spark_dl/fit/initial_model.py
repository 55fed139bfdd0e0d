"""The Keras model that a fit starts from, by `model`, `modelFn` and `warmStart`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.options import ModelOptions

__all__ = ["display_name", "initial_model"]

# The parameter of a modelFn that gets the shapes of the feature columns.
SHAPES = "column_shapes"


def display_name(value: Any) -> str:
    """Return a name to show for a Keras object, a function, or a list or dict of them."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {display_name(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(display_name, value))
    if isinstance(value, str):
        return value
    return getattr(value, "name", None) or getattr(value, "__name__", None) or type(value).__name__


def initial_model(options: ModelOptions, shapes: Mapping[str, tuple[int, ...] | None] | None = None) -> Any:
    """Return the Keras model to train, from `model`, `modelFn` or `warmStart`.

    Args:
        options: The model options.
        shapes: The shape of one row of each feature column, for a modelFn that takes `column_shapes`; None for a shape
            that isn't known. Without a DataFrame, None.

    Returns:
        The Keras model; None if none of the three is set.

    Raises:
        OptionError: model and modelFn are both set, modelParams without modelFn, or warmStart is no fitted model.
        ModelError: modelFn raises an exception, or takes `column_shapes` and there is no DataFrame; or the fitted model
            of warmStart has other layers than the model.
    """
    ways = {"model": options.model, "modelFn": options.model_fn, "warmStart": options.warm_start}
    chosen = [name for name, value in ways.items() if value is not None]
    if {"model", "modelFn"} <= set(chosen) or (options.model_params and "modelFn" not in chosen):
        raise OptionError(
            explain(
                "Set one of model and modelFn.",
                expected="model, or modelFn (with modelParams); warmStart alone, or with one of them for more classes",
                received=", ".join([*chosen, *(["modelParams"] if options.model_params else [])]),
                fix="Unset the others: set them to None.",
            )
        )
    model = options.model
    if options.model_fn is not None:
        model = _made_by_function(options.model_fn, options.model_params or {}, shapes)
    if options.warm_start is not None:
        if not hasattr(options.warm_start, "keras"):
            raise OptionError(
                explain(
                    "warmStart can't be used.",
                    expected="a fitted KerasModel",
                    received=display_name(options.warm_start),
                    fix="Pass a model that fit or load returned, or None.",
                )
            )
        fitted = options.warm_start.keras()
        if model is None:
            return fitted
        from spark_dl.train.model.grown import grown_model

        return grown_model(model, fitted, copied=options.model_fn is None)
    return model


def _made_by_function(
    function: Callable[..., Any], given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...] | None] | None
) -> Any:
    """Call modelFn, and build the Sequential that it may return."""
    arguments = dict(given)
    if SHAPES not in arguments and _takes_shapes(function):
        if shapes is None:
            raise ModelError(
                explain(
                    "modelFn takes column_shapes, which only a fit knows.",
                    expected="a modelFn that needs no DataFrame, to save the estimator",
                    received=display_name(function),
                    fix=f"Set {SHAPES} in modelParams, or save the fitted model.",
                )
            )
        arguments[SHAPES] = dict(shapes)
    try:
        return _built(function(**arguments), shapes)
    except Exception as error:
        raise ModelError(
            explain(
                f"modelFn failed: {type(error).__name__}: {error}",
                expected="a function that returns a Keras model",
                received=f"{display_name(function)}(**{arguments})",
                fix="Call it yourself with these arguments to see where it fails.",
            )
        ) from error


def _takes_shapes(function: Callable[..., Any]) -> bool:
    try:
        return SHAPES in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False


def _built(model: Any, shapes: Mapping[str, tuple[int, ...] | None] | None) -> Any:
    """Build a Sequential without keras.Input for the feature columns, if their shapes are known.

    Only what modelFn returns is built: a model that the user has passed is never changed.
    """
    import keras

    sizes = list((shapes or {}).values())
    if not isinstance(model, keras.Sequential) or model.built or not sizes or None in sizes:
        return model
    known = [size for size in sizes if size is not None]
    model.build((None, *known[0]) if len(known) == 1 else (None, sum(map(math.prod, known))))
    return model
