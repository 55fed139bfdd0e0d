"""Checks that a model's gradient is a mean over rows, each of which depends on one row."""

from __future__ import annotations

from typing import Any

import cloudpickle

from spark_dl.errors import ModelError, explain
from spark_dl.fit.spec import FitSpec

__all__ = ["check_private"]


def check_private(spec: FitSpec) -> None:
    """Check that the gradient of each row of a fit depends on that row alone.

    Args:
        spec: The specification of the fit.

    Raises:
        ModelError: A layer or a loss depends on which rows share a batch, `augment` may blend rows, or the model has a
            custom train step.
    """
    import keras

    from spark_dl._compat.keras import all_layers, is_seed
    from spark_dl.train.model.batch_dependence import OTHER, divided_losses, loss_kind
    from spark_dl.train.model.examples import examples_of_model
    from spark_dl.train.model.losses import losses_by_output
    from spark_dl.train.model.parts import is_keras
    from spark_dl.train.model.shape import shape_of
    from spark_dl.train.model.step_trial import has_own_step

    model: Any = spec.model
    if has_own_step(model) or model.loss is None:
        raise _refused("a custom train_step or compute_loss", "Compile a Keras model with a loss.")
    for layer in all_layers(model):
        own = [v for v in layer.variables if not v.trainable and not is_seed(v) and not is_keras(type(layer))]
        if layer.trainable and (isinstance(layer, keras.layers.BatchNormalization) or own):
            what = f"the layer {layer.name} ({type(layer).__name__}), whose statistics join the rows of a batch"
            raise _refused(what, "Use LayerNormalization or GroupNormalization, or freeze the layer (trainable=False).")
    _check_augment(spec)
    if hasattr(model.optimizer, "inner_optimizer") or getattr(model.optimizer, "loss_scale_factor", None):
        raise _refused("an optimizer that expects a scaled loss, as of mixed_float16", "Train in float32.")
    if getattr(model.optimizer, "gradient_accumulation_steps", None):
        raise _refused("an optimizer that adds up the gradients of several steps", "Set a larger batchSize instead.")
    losses = losses_by_output(model.loss, shape_of(model))
    weighted = spec.conversion.weight is not None
    divided = divided_losses(model, losses, {one.name: (one.shape, one.dtype) for one in spec.inputs}, weighted)
    for example in examples_of_model(model, spec.conversion.tensors):
        loss = losses.get(example.output)
        if weighted and getattr(loss, "reduction", "") == "mean_with_sample_weight":  # as of each row by itself
            what = (
                f"the loss of {example.output!r}, which divides by the sum of the weights, so that a row's cancels out"
            )
            raise _refused(what, "Use the reduction 'sum_over_batch_size'.")
        if loss is not None and example.output not in divided and loss_kind(loss, example, weighted) == OTHER:
            what = f"the loss of {example.output!r}, which depends on which rows share a batch"
            raise _refused(what, "Use a loss that is a mean over the rows' losses.")


def _check_augment(spec: FitSpec) -> None:
    """Check that augmentation, which is applied to the rows of a batch together, doesn't blend them."""
    import keras

    from spark_dl._compat.keras import MIXING_LAYERS
    from spark_dl.train.model.parts import inner_layers, is_keras

    for layer in inner_layers(cloudpickle.loads(spec.augment)) if spec.augment else ():
        own = not is_keras(type(layer)) or isinstance(layer, keras.layers.Lambda)
        if own or isinstance(layer, MIXING_LAYERS):
            why = "code can't be checked" if own else "images are blended"
            what = (
                f"augment with {layer.name} ({type(layer).__name__}), whose {why}: a row may get into others' gradients"
            )
            raise _refused(what, "Augment by Keras's layers for single images, or put the layer into the model.")


def _refused(what: str, fix: str) -> ModelError:
    return ModelError(
        explain(
            "The model can't be trained with differential privacy.",
            expected="a gradient that is a mean over rows, each clipped by itself",
            received=what,
            fix=fix,
        )
    )
