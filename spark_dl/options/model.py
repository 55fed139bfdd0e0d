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
        "The built Keras model to train. It is never changed.",
        checks.anything,
        None,
        on_resume="model",
    )
    model_fn: Callable[..., Any] | None = option(
        "A function that builds the Keras model, in place of `model`; it is called on the driver, with modelParams. A "
        "parameter `column_shapes` gets the shapes of the feature columns by name, as far as they are known. A "
        "Sequential without keras.Input is built for these shapes.",
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
        "A fitted KerasModel that training starts from, in place of `model`: its weights, and its loss, optimizer and "
        "metrics unless others are set. Together with model or modelFn, which may have more classes: the weights of "
        "the old classes are kept.",
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
        "The learning rate of the optimizer, whether set or compiled: a number that a grid can search. An optimizer "
        "with a learning rate schedule is rejected.",
        checks.positive,
        None,
        on_resume="model",
    )
    loss: Any = option(
        "A Keras loss or its name, in place of the compiled model's; for several outputs, a list or a dict by output "
        "name.",
        checks.anything,
        None,
        on_resume="model",
    )
    loss_weights: list[float] | dict[str, float] | None = option(
        "The weights of the losses of several outputs: a list, or a dict by output name.",
        checks.loss_weights,
        None,
        on_resume="model",
    )
    metrics: Any = option(
        "Keras metrics or their names, in place of the compiled model's; for several outputs, a dict by output name.",
        checks.objects,
        None,
        on_resume="model",
    )
    callbacks: Any = option(
        "Keras callbacks. Each rank runs a copy.",
        checks.objects,
        None,
        on_resume="same",
    )
    on_epoch: Callable[..., Any] | None = option(
        "A function that is called on the driver after each epoch as on_epoch(epoch, metrics), with the epoch from 0 "
        "and a dict, without metrics of more than 1,000 values. The workers wait for it and keep their slots, so it "
        "must not start Spark jobs. If it returns True, all workers stop after that epoch.",
        checks.function,
        None,
        on_resume="any",
    )
    transform_fn: Any = option(
        "Keras layers that transform the features in training and in scoring, such as Normalization: one layer "
        "(or a Sequential), a function of keras.ops such as keras.applications' preprocess_input, or a dict of them "
        "by input name. They become the first layers of the fitted model, and aren't trained. A layer that returns a "
        "dict by input name, such as a tokenizer, feeds several inputs from one column.",
        checks.anything,
        None,
        on_resume="model",
    )
    augment: Any = option(
        "Keras layers that augment the features in training only, such as RandomFlip: one layer (or a Sequential), or "
        "a dict by input name. They are applied before transformFn. MixUp and CutMix blend one-hot labels with their "
        "images. After a restart for lost workers, their random numbers start again.",
        checks.anything,
        None,
        on_resume="same",
    )
    dtype_policy: str | None = option(
        "The Keras dtype policy of all layers, in place of their own: 'float32', 'mixed_bfloat16' or 'mixed_float16'. "
        "The model's outputs stay float32.",
        checks.choice("float32", "mixed_bfloat16", "mixed_float16"),
        None,
        on_resume="same",
    )
