"""Train and test steps of the model, wrapped so that ranks without rows left can take part in them.

All ranks take the same number of steps, so a rank that has no rows left gets empty batches. It runs the step on one row
of zeros, whose gradient has weight 0, then restores all state that the row changed: metrics and moving statistics.
Seeds advance as on the other ranks.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from spark_dl._compat.keras import build_compiled_state, is_seed, set_train_function
from spark_dl.train.joined_losses import JoinedLosses
from spark_dl.train.model.examples import TRIED_LENGTH
from spark_dl.train.optimizer import GradientReducer
from spark_dl.train.speed import StepClock
from spark_dl.train.steps_ahead import StepsAhead

__all__ = [
    "build_state",
    "compile_gradients",
    "has_own_test_logs",
    "has_own_train_logs",
    "prepare_steps",
    "quick_train_function",
]


def build_state(model: keras.Model, example: Any) -> None:
    """Build the state that Keras otherwise builds in the first step, such as that of the metrics.

    Args:
        model: The compiled Keras model.
        example: The specs of a batch, (features, label[, weight]).
    """
    build_compiled_state(
        model,
        tf.nest.map_structure(
            lambda s: tf.zeros([1, *(size or TRIED_LENGTH for size in s.shape[1:])], s.dtype), example
        ),
    )


def prepare_steps(
    model: keras.Model,
    reducer: GradientReducer,
    clock: StepClock,
    may_be_empty: bool,
    losses: JoinedLosses | None = None,
) -> None:
    """Wrap the model's steps so that they record rows and times, and accept empty batches if there are any.

    A training batch has one more element than the model gets: the time at which it was made.

    Args:
        model: The model whose `train_step` and `test_step` are wrapped, custom ones included.
        reducer: The reducer that gets the number of rows of each step.
        clock: The clock of this rank's steps.
        may_be_empty: Whether this rank has empty batches; the model's state must then be built.
        losses: The model's losses, scaled to those of the global batch; None where that isn't needed.
    """
    train_step, test_step = model.train_step, model.test_step

    def within(phase: str, rows: Any) -> contextlib.AbstractContextManager[None]:
        return losses.step(phase, rows) if losses else contextlib.nullcontext()

    def counted(data: Any) -> Any:
        *batch, made = data
        clock.begin(made)
        rows = _rows(batch)
        reducer.begin(rows)
        taken = tuple(batch) if len(batch) > 1 else batch[0]  # without labels, as Keras passes x
        with within("training", rows):
            logs = _standing_empty(model, train_step, taken, rows) if may_be_empty else train_step(taken)
        # The optimizer increments `iterations` last, so the clock waits for it.
        numbers = [log for log in tf.nest.flatten(logs) if tf.is_tensor(log)]
        clock.end([tf.identity(keras.ops.convert_to_tensor(model.optimizer.iterations)), *numbers])
        return logs

    def counted_test(data: Any) -> Any:
        rows = _rows(data)
        reducer.test_rows.assign(tf.cast(rows, tf.float32))
        with within("validation", rows):
            return _standing_empty(model, test_step, data, rows) if may_be_empty else test_step(data)

    model.train_step = counted
    if losses or may_be_empty or has_own_test_logs(model):
        model.test_step = counted_test


def has_own_test_logs(model: keras.Model) -> bool:
    """Return whether an own `test_step` or `compute_metrics` may log other values in validation than metric results."""
    return _overrides(model, "test_step", "compute_metrics")


def compile_gradients(model: keras.Model) -> None:
    """Compile the model's train step with XLA up to the gradients; the optimizer applies them outside of XLA.

    Args:
        model: The model, with Keras's own train step and its final optimizer.
    """
    step, optimizer, apply = model.train_step, model.optimizer, model.optimizer.apply
    applied: list[tuple[list[Any], list[Any]]] = []  # gradients and their variables, from the last tracing

    @tf.function(jit_compile=True, autograph=False)
    def forward_and_backward(data: Any) -> Any:
        optimizer.apply = lambda grads, trainable_variables: applied.append((list(grads), list(trainable_variables)))
        try:
            logs = step(data)
        finally:
            optimizer.apply = apply
        return logs, [gradient for gradient in applied[-1][0] if gradient is not None]

    def compiled(data: Any) -> Any:
        logs, found = forward_and_backward(data)
        gradients, variables = applied[-1]
        given = iter(found)
        pairs = zip(gradients, variables, strict=True)
        apply([None if g is None else _of_shape(next(given), variable) for g, variable in pairs], variables)
        return logs

    model.train_step = compiled


def _of_shape(gradient: Any, variable: Any) -> Any:
    """Set the dense shape of a sparse gradient, which gets lost on the way out of a compiled function."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values, gradient.indices, tf.constant(tuple(variable.shape), tf.int64))
    return gradient


def quick_train_function(model: keras.Model, reducer: GradientReducer, ahead: StepsAhead, traced: list[Any]) -> None:
    """Set a train function that returns the logs of its steps unwrapped.

    Keras's own supports data that ends: it wraps each step's logs in optionals, which costs as much as the step of a
    small model. The function also returns the ranks' stop votes, since reading a variable costs time, too. Like Keras's
    own, it isn't converted by AutoGraph, which would take a second.

    Args:
        model: The model, with its final train step; with Keras's own one where several steps may be taken at once.
        reducer: The reducer whose `voted` is set after each call.
        ahead: The number of steps to take in a call.
        traced: The list that gets the graph of each tracing.
    """
    if model.run_eagerly:
        return

    @tf.function(reduce_retracing=True, autograph=False)
    def steps(iterator: Any, count: Any) -> tuple[Any, Any]:
        if ahead.several:
            _repeat(count, lambda: model.train_step(next(iterator)))
            logs = model.get_metrics_result()
        else:
            logs = model.train_step(next(iterator))
        traced.append(tf.compat.v1.get_default_graph())
        return logs, tf.identity(reducer.stop_votes)

    def take(iterator: Any, count: Any) -> Any:
        logs, reducer.voted = steps(iterator, count)
        return logs

    set_train_function(model, functools.partial(ahead.take, take))


def has_own_train_logs(model: keras.Model) -> bool:
    """Return whether an own `train_step` or `compute_metrics` may log other values in training than metric results."""
    return _overrides(model, "train_step", "compute_metrics")


def _overrides(model: keras.Model, *names: str) -> bool:
    return any(getattr(type(model), name) is not getattr(keras.Model, name) for name in names)


def _repeat(count: Any, step: Callable[[], Any]) -> None:
    """Take a step so many times, one after the other; called in a graph."""

    def again(done: Any) -> list[Any]:
        step()
        return [done + 1]

    tf.while_loop(lambda done: done < count, again, [tf.constant(0)], parallel_iterations=1)


def _standing_empty(model: keras.Model, step: Any, data: Any, rows: Any) -> Any:
    filler = tf.cast(tf.equal(rows, 0), tf.int32)
    padded = tf.nest.map_structure(
        lambda t: tf.concat([t, tf.zeros(tf.concat([[filler], tf.shape(t)[1:]], 0), t.dtype)], axis=0), data
    )
    moving = [variable for variable in model.non_trainable_variables if not is_seed(variable)]
    state = [*moving, *model.metrics_variables]
    before = [tf.identity(variable.value) for variable in state]
    logs = step(padded)
    for variable, value in zip(state, before, strict=True):
        variable.assign(tf.where(rows > 0, variable.value, value))
    return logs


def _rows(data: Any) -> Any:
    return tf.shape(tf.nest.flatten(data)[0])[0]
