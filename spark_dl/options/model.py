"""Options of the Keras model, its compilation, its callbacks and its preprocessing layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spark_dl.options import checks
from spark_dl.options.fields import Options, option

__all__ = ["ModelOptions"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Options of the Keras model, its compilation, its callbacks and its preprocessing layers."""

    model: Any = option(
        "The Keras model to train, built. It is never changed.",
        checks.anything,
        None,
        on_resume="model",
    )
    model_fn: Callable[..., Any] | None = option(
        "A function that builds the Keras model, in place of `model`; it is called on the driver, with modelParams. A "
        "parameter `column_shapes` gets the shapes of the feature columns by their names, as far as they are known. A "
        "Sequential without keras.Input is built for the columns.",
        checks.function,
        None,
        on_resume="model",
    )
    model_params: dict[str, Any] | None = option(
        "Keyword arguments of modelFn, as a dict: hyperparameters that a grid can search.",
        checks.keywords,
        None,
        on_resume="model",
    )
    warm_start: Any = option(
        "A fitted KerasModel whose Keras model training begins with, in place of `model`: its weights, and what it "
        "was compiled with where nothing else is given. With model or modelFn, these may have more classes: weights "
        "of the old ones are kept.",
        checks.anything,
        None,
        on_resume="model",
    )
    optimizer: Any = option(
        "A Keras optimizer or its name, in place of the compiled model's.",
        checks.anything,
        None,
        on_resume="model",
    )
    learning_rate: float | None = option(
        "The optimizer's learning rate, in place of its own: one number that a grid can search, whichever optimizer "
        "is set or compiled. An optimizer with a schedule is refused.",
        checks.positive,
        None,
        on_resume="model",
    )
    loss: Any = option(
        "A Keras loss or its name, in place of the compiled model's; of several outputs, a list or a dict by their "
        "names.",
        checks.anything,
        None,
        on_resume="model",
    )
    loss_weights: list[float] | dict[str, float] | None = option(
        "What the losses of several outputs count: a list, or a dict by the outputs' names.",
        checks.loss_weights,
        None,
        on_resume="model",
    )
    metrics: Any = option(
        "Keras metrics or their names, in place of the compiled model's; of several outputs, a dict by their names.",
        checks.objects,
        None,
        on_resume="model",
    )
    callbacks: Any = option(
        "Keras callbacks. Each rank runs a copy of its own.",
        checks.objects,
        None,
        on_resume="same",
    )
    on_epoch: Callable[..., Any] | None = option(
        "A function of the driver that is called after each epoch as on_epoch(epoch, metrics), with the epoch from 0 "
        "and a dict, without metrics of more than 1,000 values. The workers wait for it and keep their slots, so it "
        "must not start Spark jobs. If it returns True, training ends with that epoch on all of them.",
        checks.function,
        None,
        on_resume="any",
    )
    transform_fn: Any = option(
        "Keras layers that change the features alike in training and in scoring, such as Normalization: one layer "
        "(or a Sequential), a function of keras.ops such as keras.applications' preprocess_input, or a dict of them "
        "by the inputs' names. They become the front of the fitted model, and aren't trained. A layer that gives a "
        "dict by the inputs' names, such as a tokenizer, makes several inputs of one column.",
        checks.anything,
        None,
        on_resume="model",
    )
    augment: Any = option(
        "Keras layers that change the features in training only, such as RandomFlip: one layer (or a Sequential), or "
        "a dict by the inputs' names. They see the features before transformFn does. MixUp and CutMix "
        "blend one-hot labels with their images. After lost workers their random draws start again.",
        checks.anything,
        None,
        on_resume="same",
    )
    dtype_policy: str | None = option(
        "Keras's dtype policy of all layers, in place of their own: 'float32', 'mixed_bfloat16' or 'mixed_float16'. "
        "The model's outputs stay float32.",
        checks.choice("float32", "mixed_bfloat16", "mixed_float16"),
        None,
        on_resume="same",
    )
