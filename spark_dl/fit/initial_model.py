"""The Keras model that a fit starts from, by `model`, `modelFn` or `warmStart`."""

from __future__ import annotations

from typing import Any

from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.options import ModelOptions

__all__ = ["display_name", "initial_model"]


def display_name(value: Any) -> str:
    """Return a name to show for a Keras object, a function, or a list or dict of them."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {display_name(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(display_name, value))
    if isinstance(value, str):
        return value
    return getattr(value, "name", None) or getattr(value, "__name__", None) or type(value).__name__


def initial_model(options: ModelOptions) -> Any:
    """Return the Keras model to train, from `model`, `modelFn` or `warmStart`.

    Args:
        options: The model options.

    Returns:
        The Keras model; None if none of the three is set.

    Raises:
        OptionError: More than one of them is set, modelParams is set without modelFn, or warmStart is no fitted model.
        ModelError: modelFn raises an exception.
    """
    ways = {"model": options.model, "modelFn": options.model_fn, "warmStart": options.warm_start}
    chosen = [name for name, value in ways.items() if value is not None]
    if len(chosen) > 1 or (options.model_params and chosen != ["modelFn"]):
        raise OptionError(
            explain(
                "Set exactly one of model, modelFn and warmStart.",
                expected="one of model, modelFn (with modelParams) and warmStart",
                received=", ".join([*chosen, *(["modelParams"] if options.model_params else [])]),
                fix="Unset the others: set them to None.",
            )
        )
    if options.model_fn is not None:
        try:
            return options.model_fn(**(options.model_params or {}))
        except Exception as error:
            raise ModelError(
                explain(
                    f"modelFn failed: {type(error).__name__}: {error}",
                    expected="a function that returns a Keras model",
                    received=f"{display_name(options.model_fn)}(**{options.model_params or {}})",
                    fix="Call it yourself with these arguments to see where it fails.",
                )
            ) from error
    if options.warm_start is not None:
        if not hasattr(options.warm_start, "keras"):
            raise OptionError(
                explain(
                    "warmStart can't be used.",
                    expected="a fitted KerasModel",
                    received=display_name(options.warm_start),
                    fix="Give what fit or load returned, or None.",
                )
            )
        return options.warm_start.keras()
    return options.model
