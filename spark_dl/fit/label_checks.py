"""Check that a model has the labels that its loss takes, before any Spark job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.options import ClassifierOptions, EstimatorOptions

if TYPE_CHECKING:
    import keras

__all__ = ["check_labels"]


def check_labels(model: keras.Model, options: EstimatorOptions) -> None:
    """Check a model that is trained without labels.

    Args:
        model: The compiled Keras model.
        options: The estimator's options; nothing is checked if they name a label.

    Raises:
        OptionError: An option needs labels.
        ModelError: The compiled loss needs labels, or there is no loss.
    """
    from spark_dl.train.model.batch_dependence import may_add_losses
    from spark_dl.train.model.step_trial import has_own_step

    if options.labelled:
        return
    if isinstance(options, ClassifierOptions) or options.weighted:
        thing = "weightCol" if options.weighted else "a classifier"
        raise OptionError(
            explain(
                f"There is no label, and {thing} needs one.",
                expected="a label column",
                received="labelCol=None",
                fix="Set labelCol, or train with KerasEstimator and without weights.",
            )
        )
    if has_own_step(model):
        return
    if model.loss is not None or not may_add_losses(model):
        raise ModelError(
            explain(
                "The model has no loss that does without labels.",
                expected="add_loss in a layer, or a train_step or compute_loss of its own",
                received=f"labelCol=None and loss={model.loss!r}",
                fix="Set labelCol, or leave the loss to the model and compile it without one.",
            )
        )
