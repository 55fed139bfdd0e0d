"""Checks that several workers, or gradient accumulation, compute the same losses and metrics as one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.options import EstimatorOptions

if TYPE_CHECKING:
    import keras

    from spark_dl.train.metrics.joins import MetricJoin
    from spark_dl.train.model.examples import Example

__all__ = ["Fitted", "check_workers"]


@dataclass(frozen=True)
class Fitted:
    """The compiled model to check, and the shapes and dtypes with which its losses and metrics are tried.

    Attributes:
        model: The compiled Keras model.
        losses: The loss of each output, by the output's name.
        inputs: The shape of one row and the dtype of each input, by the input's name.
        examples: Shapes and dtypes of labels and outputs, from which made-up ones are drawn.
        copied: Returns a new copy of the model.
    """

    model: keras.Model
    losses: Mapping[str, Any]
    inputs: Mapping[str, tuple[tuple[int, ...], str]]
    examples: Sequence[Example]
    copied: Callable[[], keras.Model]


def check_workers(fitted: Fitted, options: EstimatorOptions) -> tuple[str, ...]:
    """Check that several workers, or gradient accumulation, compute the same losses and metrics as one process.

    Args:
        fitted: The compiled model.
        options: The estimator's options.

    Returns:
        Warnings: losses and metrics that depend on which rows share a batch, and metrics that could not be tried.

    Raises:
        ModelError: A loss isn't a mean over rows, a layer synchronizes its statistics within the step, or the states of
            a metric can't be joined.
        OptionError: restoreBestWeights is set, and the monitored metric has several values per epoch.
    """
    from spark_dl.train.metrics.joins import metric_joins

    workers, together = options.num_workers, options.gradient_accumulation
    if options.restore_best_weights:
        _check_monitor(fitted, options.monitor or "")
    if workers == 1 and together == 1:
        return ()
    several = f"numWorkers={workers}" if workers > 1 else f"gradientAccumulation={together}"
    fix = "Set numWorkers=1 and gradientAccumulation=1, or change the {}."
    notes = [*_losses(fitted, options.weighted, several, fix)]
    _check_masks(fitted, several, fix)
    notes += _added_losses(fitted, several, fix)
    _check_step(fitted, several, fix)
    if workers > 1:
        _check_layers(fitted.model, several)
        notes += _metrics(metric_joins(fitted.model, lambda: fitted.examples), several)
    return tuple(notes)


def _losses(fitted: Fitted, weighted: bool, several: str, fix: str) -> Iterator[str]:
    from spark_dl.train.model.batch_dependence import OTHER, SUM, loss_kind

    for example in fitted.examples:
        loss = fitted.losses.get(example.output)
        named = f"The loss {_name(loss)} of {example.output!r}"
        if getattr(loss, "ignore_class", None) is not None:
            raise _not_a_mean(f"{named} is a mean over the labels that aren't ignore_class.", several, fix, "loss")
        kind = loss_kind(loss, example, weighted)
        if kind == SUM:
            raise _not_a_mean(f"{named} is a sum over rows.", several, fix, "loss")
        if kind == OTHER:
            yield (
                f"{named} depends on which rows share a batch: with {several} each batch of batchSize rows has a loss "
                "of its own, and the gradient is the mean of theirs, not that of the joined batch."
            )


def _check_masks(fitted: Fitted, several: str, fix: str) -> None:
    from spark_dl.train.model.batch_dependence import masked_outputs, may_add_losses

    if may_add_losses(fitted.model) and (masked := masked_outputs(fitted.model, fitted.inputs)):
        names = list(fitted.losses)
        outputs = ", ".join(repr(names[index]) if index < len(names) else str(index) for index in masked)
        raise _not_a_mean(
            f"The loss of the masked output {outputs} is a mean over the steps that aren't masked.",
            several,
            fix,
            "model so that its output has no mask: weight the steps in the loss",
        )


def _added_losses(fitted: Fitted, several: str, fix: str) -> Iterator[str]:
    from spark_dl.train.model.batch_dependence import OTHER, SUM, may_add_losses, model_loss_kinds

    kinds = model_loss_kinds(fitted.model, fitted.inputs) if may_add_losses(fitted.model) else []
    if SUM in kinds:
        raise _not_a_mean(
            "A loss that a layer adds (add_loss, or a regularizer of activity) is a sum over rows.",
            several,
            fix,
            "layer so that it adds a mean",
        )
    if OTHER in kinds:
        yield (
            "A loss that a layer adds (add_loss) depends on which rows share a batch: "
            f"with {several} it is that of each batch of batchSize rows."
        )


def _check_step(fitted: Fitted, several: str, fix: str) -> None:
    """Check that the gradients of a custom train_step or compute_loss aren't sums over rows."""
    import keras
    import numpy as np

    from spark_dl.train.model.batch_dependence import SUM, features_of, step_kind

    kind = type(fitted.model)
    if kind.train_step is keras.Model.train_step and kind.compute_loss is keras.Model.compute_loss:
        return
    few, random = 2, np.random.default_rng(0)
    features = features_of(fitted.inputs, few, seed=0)
    labels: Any = {one.output: one.labels(few, "classes", random) for one in fitted.examples}
    labels = labels if len(labels) > 1 else next(iter(labels.values()), None)

    def batch(times: int) -> tuple[Any, ...]:
        return tuple(
            keras.tree.map_structure(
                lambda part: keras.ops.convert_to_tensor(np.concatenate([np.asarray(part)] * times)), parts
            )
            for parts in (features, labels)
        )

    if step_kind(fitted.copied(), batch) == SUM:
        raise _not_a_mean(
            f"The gradients of {kind.__name__}'s own train_step or compute_loss are sums over rows.",
            several,
            fix,
            "model so that its loss is a mean",
        )


def _check_layers(model: keras.Model, several: str) -> None:
    from spark_dl._compat.keras import all_layers

    synchronized = [layer.name for layer in all_layers(model) if getattr(layer, "synchronized", False)]
    if synchronized:
        raise ModelError(
            explain(
                f"The statistics of {', '.join(synchronized)} would not be synchronized: each worker has those of its "
                "own batches.",
                expected="BatchNormalization(synchronized=False), whose moving statistics become the mean of the "
                "workers' after each epoch",
                received=f"synchronized=True and {several}",
                fix="Set synchronized=False, or numWorkers=1.",
            )
        )


def _metrics(joins: Sequence[MetricJoin], several: str) -> Iterator[str]:
    for join in joins:
        if not join.joins:
            outside = "keeps something outside its variables"
            raise ModelError(
                explain(
                    f"The metric {join.metric} of several workers can't be joined.",
                    expected="a metric whose variables are sums, maxima or minima over rows, or one with merge_state",
                    received=f"one that {outside if join.outside else 'keeps something else'}, and {several}",
                    fix="Keep sums (of a mean its total and its count), give it merge_state(metrics), or set "
                    "numWorkers=1.",
                )
            )
        if not join.tried:
            yield (
                f"The metric {join.metric} could not be tried on made-up labels and outputs: its states are summed "
                f"with {several}, which is right only if they are sums over rows."
            )
        elif join.per_batch:
            yield (
                f"The metric {join.metric} depends on which rows share a batch: with {several} it is taken over each "
                "worker's batches of batchSize rows."
            )


def _check_monitor(fitted: Fitted, monitor: str) -> None:
    """Check that the monitored metric has one value per epoch."""
    from spark_dl.train.callbacks.checkpointing import no_best_epoch
    from spark_dl.train.metrics.joins import values_of

    for name, values in values_of(fitted.model, fitted.examples).items():
        if values > 1 and monitor.removeprefix("val_") == name:
            raise OptionError(no_best_epoch(monitor, values))


def _not_a_mean(what: str, several: str, fix: str, thing: str) -> ModelError:
    return ModelError(
        explain(
            f"{what} Gradients of several workers or steps are joined as means over rows.",
            expected="losses that are means over rows",
            received=several,
            fix=fix.format(thing),
        )
    )


def _name(loss: Any) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", None) or type(loss).__name__
