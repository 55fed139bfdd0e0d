"""The model that a rank's process keeps for its next training, with the graphs of its steps.

A process of a pool (`launch/pool.py`) trains once per launch. If the next training differs from the last one only in
its rows and in the values of variables, it assigns these values to the kept model: the weights are the same as with a
new model, whose graphs would have to be traced first.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from typing import Any

import cloudpickle
import keras
import numpy as np
import tensorflow as tf

from spark_dl._compat.tensorflow import captured_resources, operations_of
from spark_dl.train.feed import Feed
from spark_dl.train.metrics.joins import copy_of, leaf_metrics
from spark_dl.train.model.archive import structure
from spark_dl.train.model.optimizers import optimizer_variables
from spark_dl.train.model.parts import inner_layers, is_keras, leaves
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.model.values import take_values
from spark_dl.train.plan import TrainPlan
from spark_dl.train.prepared import PreparedModel
from spark_dl.train.steps_ahead import LEAST_STEPS
from spark_dl.world import World

__all__ = ["Keeping"]

_KEPT = "spark_dl.train"
# Operations with their own state: they draw random numbers, or call Python.
_STATEFUL = {
    *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "ParameterizedTruncatedNormal"),
    *("RandomShuffle", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "Multinomial"),
    *("PyFunc", "PyFuncStateless", "EagerPyFunc"),
}


class Keeping:
    """Access of one training to the model that its process keeps.

    Args:
        kept: What functions keep in this process; None for a process that ends with this training.
        plan: The training plan.
        content: The `.keras` bytes of the model to start from.
        feed: The rank's feed.
        world: The rank's World.
    """

    def __init__(self, kept: dict[str, Any] | None, plan: TrainPlan, content: bytes, feed: Feed, world: World) -> None:
        self._kept = {} if kept is None else kept
        self._known: list[Any] | None = None  # the graphs that were found to have no other state
        self._content = content
        keeps = kept is not None and _is_alike_each_time(plan)
        self._signature = _signature(plan, content, feed, world) if keeps else ""

    def take(self) -> PreparedModel | None:
        """Return the kept model with the values to start from; None if there is none for such a training.

        Nothing is kept until `keep`, so that a training that fails leaves nothing.
        """
        signature, prepared = self._kept.pop(_KEPT, ("", None))
        if not signature or signature != self._signature:
            return None
        found: PreparedModel = prepared
        if not take_values(found.model, from_bytes(self._content)):
            return None
        found.reducer.restart()
        found.clock.reset()
        found.model.stop_training = False
        self._known = list(found.traced)
        return found

    def keep(self, prepared: PreparedModel) -> None:
        """Keep a model whose training has ended, if its variables are all of its state."""
        if self._signature and (prepared.traced == self._known or not _has_other_state(prepared)):
            self._kept[_KEPT] = (self._signature, prepared)


def _is_alike_each_time(plan: TrainPlan) -> bool:
    """Return whether a model is fully determined by its structure and its variables.

    Callbacks and augmentation layers have a state of their own; private and federated steps hold numbers of their fit.
    """
    plain = plan.start is None and plan.privacy is None and plan.federated is None and not plan.augment
    return plain and not cloudpickle.loads(plan.callbacks)


def _has_other_state(prepared: PreparedModel) -> bool:
    """Return whether a training may depend on more than the values that `take_values` assigns.

    That is a state outside of the variables of the model and its optimizers: of Python code, of a loss, of TensorFlow's
    random operations, of the random generator that Keras has for the whole process, or of a metric whose reset keeps
    some of it.
    """
    model = prepared.model
    own = [thing for thing in (model, *inner_layers(model)) if not is_keras(type(thing))]
    held = leaves([list(vars(thing).values()) for thing in own])
    if model.run_eagerly or any(isinstance(thing, (tf.Variable, tf.random.Generator)) for thing in held):
        return True
    made = [*prepared.reducer.variables, *prepared.clock.variables]
    known = [*model.variables, *optimizer_variables(model), *model.metrics_variables, *made]
    handles = {id((v if isinstance(v, tf.Variable) else v.value).handle) for v in known}
    if any(id(resource) not in handles for graph in prepared.traced for resource in captured_resources(graph)):
        return True
    return any(_STATEFUL & operations_of(graph) for graph in prepared.traced) or not all(
        map(_starts_over, leaf_metrics(model))
    )


def _starts_over(metric: keras.Metric) -> bool:
    """Return whether a reset gives a metric the state of a new one, as Keras's own have."""
    if is_keras(type(metric)):
        return True
    with contextlib.suppress(Exception):  # a config that gives no metric
        new = copy_of(metric)
        metric.reset_state()
        pairs = zip(metric.variables, new.variables, strict=True)
        return all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)
    return False


def _signature(plan: TrainPlan, content: bytes, feed: Feed, world: World) -> str:
    """Return a hash of all that the graphs of a training depend on, besides the values of variables.

    They don't depend on the number of the rank: Spark may place a task of another one here next time.
    """
    options = replace(plan.options, epochs=1, initial_epoch=0, seed=0)
    steps = feed.steps if options.gradient_accumulation > 1 else 0
    try:
        parts = structure(content)
    except Exception:  # `from_bytes` raises the error
        return ""
    counts = (world.size, feed.empty_steps > 0, feed.steps >= LEAST_STEPS, steps)
    others = (plan.dataset.tensors, plan.class_weights, plan.state_rules, plan.learning_rate)
    # Not pickled: the bytes of equal values differ with the objects that they share.
    fixed = repr((options, counts, others, parts))
    return hashlib.sha256(fixed.encode() + plan.custom_objects).hexdigest()
