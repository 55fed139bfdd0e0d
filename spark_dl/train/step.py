"""The model's own train and test step, made fit for ranks that may be out of rows.

All ranks take the same number of steps, so that a rank without rows left gets empty batches. It takes the step
with one row of zeros in their place, which weighs nothing, and then puts back all state that the row has
touched: metrics and moving statistics. Seeds run on, in step with the other ranks'.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from spark_dl.train.optimizer import GradientReducer
from spark_dl.train.speed import StepClock

__all__ = ["build_state", "compile_gradients", "has_own_test_step", "prepare_steps", "quick_train_function"]


def build_state(model: keras.Model, example: Any) -> None:
    """Make the state that Keras makes in the first step otherwise, that of the metrics above all.

    Args:
        model: compiled.
        example: a batch of specs, (features, label[, weight]).
    """
    # There is no public way; `fit` does the same where it runs on several devices.
    model._symbolic_build(data_batch=tf.nest.map_structure(lambda s: tf.zeros([1, *s.shape[1:]], s.dtype), example))


def prepare_steps(model: keras.Model, reducer: GradientReducer, clock: StepClock, may_be_empty: bool) -> None:
    """Tell the reducer each step's rows and the clock its times; and, where batches may be empty, stand them.

    A training batch has one element more than the model is given: when it was made.

    Args:
        model: its `train_step` and `test_step` are wrapped; user's own steps work alike.
        reducer: learns the rows of the step.
        clock: of this rank's steps.
        may_be_empty: whether this rank has empty batches; its state must have been built then.
    """
    train_step, test_step = model.train_step, model.test_step

    def counted(data: Any) -> Any:
        *batch, made = data
        clock.begin(made)
        rows = _rows(batch)
        reducer.begin(rows)
        taken = tuple(batch)
        logs = _standing_empty(model, train_step, taken, rows) if may_be_empty else train_step(taken)
        # The update is the last that a step does, and this is the last of the update.
        told = [log for log in tf.nest.flatten(logs) if tf.is_tensor(log)]
        clock.end([tf.identity(keras.ops.convert_to_tensor(model.optimizer.iterations)), *told])
        return logs

    def counted_test(data: Any) -> Any:
        rows = _rows(data)
        reducer.test_rows.assign(tf.cast(rows, tf.float32))
        return _standing_empty(model, test_step, data, rows) if may_be_empty else test_step(data)

    model.train_step = counted
    if may_be_empty or has_own_test_step(model):
        model.test_step = counted_test


def has_own_test_step(model: keras.Model) -> bool:
    """Whether the logs of validation may be something else than the results of metrics."""
    return type(model).test_step is not keras.Model.test_step


def compile_gradients(model: keras.Model) -> None:
    """Let XLA compile the model's train step up to its gradients, which the optimizer then applies outside.

    Args:
        model: its train step is Keras's own, and its optimizer as it will be.
    """
    step, optimizer, apply = model.train_step, model.optimizer, model.optimizer.apply
    applied: list[tuple[list[Any], list[Any]]] = []  # gradients and their variables, as they were traced last

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
    """Sparse gradients forget their whole shape on the way out of a compiled function."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values, gradient.indices, tf.constant(tuple(variable.shape), tf.int64))
    return gradient


def quick_train_function(model: keras.Model, reducer: GradientReducer) -> None:
    """Give the model a train function that takes one step and hands its logs over as they are.

    Keras's own is made for several steps a call and for data that ends: it wraps each step's logs in optionals, which
    costs as much as a small model's step. The ranks' votes to stop come along, since reading a variable costs, too.
    Like Keras's own, it is not converted by AutoGraph, which takes a second.

    Args:
        model: its train step is as it will be.
        reducer: its `voted` is set after each step.
    """
    if model.run_eagerly:
        return

    @tf.function(reduce_retracing=True, autograph=False)
    def step(iterator: Any) -> tuple[Any, Any]:
        logs = model.train_step(next(iterator))
        return logs, tf.identity(reducer.stop_votes)

    def train_function(iterator: Any) -> Any:
        logs, reducer.voted = step(iterator)
        return logs

    # `fit` makes one only where there is none.
    model.train_function = train_function


def _standing_empty(model: keras.Model, step: Any, data: Any, rows: Any) -> Any:
    filler = tf.cast(tf.equal(rows, 0), tf.int32)
    padded = tf.nest.map_structure(
        lambda t: tf.concat([t, tf.zeros(tf.concat([[filler], tf.shape(t)[1:]], 0), t.dtype)], axis=0), data
    )
    moving = [variable for variable in model.non_trainable_variables if "seed_generator_state" not in variable.path]
    state = [*moving, *model.metrics_variables]
    before = [tf.identity(variable.value) for variable in state]
    logs = step(padded)
    for variable, value in zip(state, before, strict=True):
        variable.assign(tf.where(rows > 0, variable.value, value))
    return logs


def _rows(data: Any) -> Any:
    return tf.shape(tf.nest.flatten(data)[0])[0]
