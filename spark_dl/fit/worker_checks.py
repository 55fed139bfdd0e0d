"""Checks that several workers, or gradient accumulation, compute the same losses and metrics as one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dl.errors import ModelError, explain
from spark_dl.options import EstimatorOptions

if TYPE_CHECKING:
    import keras

    from spark_dl.train.metrics.joins import MetricJoin
    from spark_dl.train.model.examples import Example
    from spark_dl.train.model.layer_states import StateJoin

__all__ = ["Fitted", "WorkerFacts", "check_workers"]


@dataclass(frozen=True)
class Fitted:
    """The compiled model to check, and the shapes and dtypes with which its losses and metrics are tried.

    Attributes:
        model: The compiled Keras model.
        losses: The loss of each output, by the output's name.
        inputs: The shape of one row and the dtype of each input, by the input's name.
        examples: Shapes and dtypes of labels and outputs, from which synthetic ones are drawn.
        copied: Returns a new copy of the model.
    """

    model: keras.Model
    losses: Mapping[str, Any]
    inputs: Mapping[str, tuple[tuple[int, ...], str]]
    examples: Sequence[Example]
    copied: Callable[[], keras.Model]


@dataclass(frozen=True)
class WorkerFacts:
    """What several workers compute differently from one process, or join by rules of their own.

    Attributes:
        notes: Warnings: losses, gradients, states and metrics that differ, or that could not be tried.
        state_rules: The join rules of the states of the user's layers, by their index in `non_trainable_variables`.
    """

    notes: tuple[str, ...] = ()
    state_rules: tuple[tuple[int, str], ...] = ()


def check_workers(fitted: Fitted, options: EstimatorOptions) -> WorkerFacts:
    """Check that several workers, or gradient accumulation, compute the same losses and metrics as one process.

    Args:
        fitted: The compiled model.
        options: The estimator's options.

    Raises:
        ModelError: A loss isn't a mean over rows, a layer synchronizes its statistics within the step, or the states of
            a metric can't be joined.
    """
    from spark_dl.train.metrics.joins import metric_joins
    from spark_dl.train.model.batch_dependence import divided_losses

    workers, together = options.num_workers, options.gradient_accumulation
    if workers == 1 and together == 1:
        return WorkerFacts()
    several = f"numWorkers={workers}" if workers > 1 else f"gradientAccumulation={together}"
    fix = "Set numWorkers=1 and gradientAccumulation=1, or change the {}."
    divided = divided_losses(fitted.model, fitted.losses, fitted.inputs, options.weighted)
    _check_divided(fitted, divided, options, several, fix)
    notes = [*_losses(fitted, divided, options.weighted, several, fix)]
    notes += _added_losses(fitted, several, fix)
    notes += _step(fitted, options.weighted, several, fix)
    if workers == 1:
        return WorkerFacts(tuple(notes))
    _check_layers(fitted.model, several)
    joins, state_notes = _states(fitted, several)
    notes += state_notes
    notes += _metrics(metric_joins(fitted.model, lambda: fitted.examples, options.weighted), several)
    return WorkerFacts(tuple(notes), tuple((join.index, join.rule) for join in joins if join.rule))


def _losses(fitted: Fitted, divided: Mapping[str, str], weighted: bool, several: str, fix: str) -> Iterator[str]:
    from spark_dl.train.model.batch_dependence import OTHER, SUM, UNTRIED, loss_kind
    from spark_dl.train.model.parts import is_keras

    for example in fitted.examples:
        if (loss := fitted.losses.get(example.output)) is None:  # a train step that computes its own
            continue
        named = f"The loss {_name(loss)} of {example.output!r}"
        if (example.output in divided and is_keras(type(loss))) or getattr(loss, "mean_over_rows", False):
            continue
        kind = loss_kind(loss, example, weighted)
        if kind == SUM:
            raise _not_a_mean(f"{named} is a sum over rows.", several, fix, "loss")
        if kind == OTHER:
            yield (
                f"{named} depends on which rows share a batch: with {several} each batch of batchSize rows has a loss "
                "of its own, and the gradient is the mean of theirs, not that of the global batch."
            )
        if kind == UNTRIED:
            yield (
                f"{named} could not be compared on synthetic labels and outputs: with {several} the gradients of each "
                "batch are averaged, which is right only if it is a mean over rows."
            )


def _check_divided(
    fitted: Fitted, divided: Mapping[str, str], options: EstimatorOptions, several: str, fix: str
) -> None:
    """Check that losses that aren't means over rows can be scaled to those of the global batch.

    Args:
        fitted: The compiled model.
        divided: What the loss of an output is a mean over, as a sentence, by the output's name.
        options: The estimator's options.
        several: The options that make several batches one, for messages.
        fix: The remedy, with a place for what to change.

    Raises:
        ModelError: A loss can't be scaled.
    """
    from spark_dl._compat.keras_losses import counts_as_keras
    from spark_dl.train.model.batch_dependence import may_add_losses, model_loss_kinds
    from spark_dl.train.model.step_trial import has_own_step

    if not divided:
        return
    what = " ".join(divided.values())
    if has_own_step(fitted.model):
        raise _not_a_mean(
            f"{what} It is computed by the model's own train_step or compute_loss.", several, fix, "model"
        )
    if not all(counts_as_keras(fitted.losses[name]) for name in divided):
        raise _not_a_mean(f"{what} It has a custom __call__.", several, fix, "loss: override call, not __call__")
    if options.jit_compile:
        raise _not_a_mean(f"{what} XLA can't compile its sum over workers.", several, "Set jitCompile=False.", "")
    added = may_add_losses(fitted.model) and model_loss_kinds(fitted.model, fitted.inputs)
    if options.gradient_accumulation > 1 and (len(fitted.losses) > 1 or added):
        several = f"gradientAccumulation={options.gradient_accumulation}, and other losses beside it"
        raise _not_a_mean(
            what, several, "Set gradientAccumulation=1, or change the {}.", "model so that it has one loss"
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


def _step(fitted: Fitted, weighted: bool, several: str, fix: str) -> Iterator[str]:
    """Check that the gradients of a custom train_step or compute_loss are means over rows."""
    from spark_dl.train.model.batch_dependence import OTHER, SUM, UNTRIED
    from spark_dl.train.model.step_trial import RANDOM, has_own_step, step_kind

    if not has_own_step(fitted.model):
        return
    gradients = f"The gradients of {type(fitted.model).__name__}'s own train_step or compute_loss"
    kind = step_kind(fitted.copied(), fitted.inputs, fitted.examples, weighted)
    if kind == SUM:
        raise _not_a_mean(f"{gradients} are sums over rows.", several, fix, "model so that its loss is a mean")
    if kind == OTHER:
        yield (
            f"{gradients} depend on which rows share a batch: with {several} they are computed for each batch of "
            "batchSize rows and then averaged, which isn't exact for a masked loss or for clipping. Clip in the "
            "optimizer (global_clipnorm, clipnorm, clipvalue): it takes the joined gradients."
        )
    if kind in (RANDOM, UNTRIED):
        why = "they are random" if kind == RANDOM else "a step on synthetic rows failed"
        yield (
            f"{gradients} could not be compared, since {why}: with {several} those of each batch are averaged, which "
            "is right only if they are means over rows that aren't clipped."
        )


def _states(fitted: Fitted, several: str) -> tuple[Sequence[StateJoin], list[str]]:
    """Return the join rules of the states of the user's layers, and warnings about those that differ."""
    from spark_dl.train.model.layer_states import AVERAGE, may_keep_states, state_joins

    if not may_keep_states(fitted.model):
        return (), []
    joins, tried = state_joins(fitted.copied(), fitted.inputs)
    if not tried:
        text = "The states of the model's layers could not be tried on synthetic rows"
        return (), [f"{text}: with {several} they become their mean at each epoch's end."]
    notes = []
    for join in joins:
        if not join.rule:
            notes.append(
                f"The state {join.name} depends on which rows share a batch: with {several} each worker has that of "
                "its own batches, and at each epoch's end it becomes their mean."
            )
        elif join.used and join.rule != AVERAGE:
            notes.append(
                f"The state {join.name} changes the model's outputs in training: with {several} each worker uses that "
                f"of its own rows until the epoch's end, where it becomes the {join.rule} over all workers."
            )
    return joins, notes


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
            outside = "keeps state outside its variables"
            raise ModelError(
                explain(
                    f"The metric {join.metric} can't be aggregated over several workers.",
                    expected="a metric whose variables are sums, maxima or minima over rows, or one with merge_state",
                    received=f"one that {outside if join.outside else 'keeps other state'}, and {several}",
                    fix="Keep sums (for a mean, total and count), implement merge_state(metrics), or set numWorkers=1.",
                )
            )
        if not join.tried:
            yield (
                f"The metric {join.metric} could not be tried on synthetic labels and outputs: its states are summed "
                f"with {several}, which is right only if they are sums over rows."
            )
        elif join.per_batch:
            yield (
                f"The metric {join.metric} depends on which rows share a batch: with {several} it is taken over each "
                "worker's batches of batchSize rows."
            )


def _not_a_mean(what: str, several: str, fix: str, thing: str) -> ModelError:
    return ModelError(
        explain(
            f"{what} Gradients of several workers or steps are averaged over rows.",
            expected="losses that are means over rows",
            received=several,
            fix=fix.format(thing),
        )
    )


def _name(loss: Any) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", None) or type(loss).__name__
