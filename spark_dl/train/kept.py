"""The model that a rank's process keeps for its next training, with the graphs of its steps.

A process of a pool (`launch/pool.py`) trains once for each launch. If the next training differs from the last one in
its rows and in the values of variables alone, it takes these values into the model that is there: the same weights
result as from a new model, whose graphs would have to be traced first.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cloudpickle
import keras
import tensorflow as tf

from spark_dl.train.feed import Feed
from spark_dl.train.model.archive import structure
from spark_dl.train.model.parts import inner_layers, is_keras, leaves
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.model.values import take_values
from spark_dl.train.plan import TrainPlan
from spark_dl.train.prepared import PreparedModel
from spark_dl.train.steps_ahead import LEAST_STEPS
from spark_dl.world import World

__all__ = ["Keeping"]

_KEPT = "spark_dl.train"


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
        return found

    def keep(self, prepared: PreparedModel) -> None:
        """Keep a model whose training has ended, if its variables are all of its state."""
        if self._signature and not _has_other_state(prepared.model):
            self._kept[_KEPT] = (self._signature, prepared)


def _is_alike_each_time(plan: TrainPlan) -> bool:
    """Return whether a model is fully determined by its structure and its variables.

    Callbacks and augmentation layers have a state of their own; private and federated steps hold numbers of their fit.
    """
    plain = plan.start is None and plan.privacy is None and plan.federated is None and not plan.augment
    return plain and not cloudpickle.loads(plan.callbacks)


def _has_other_state(model: keras.Model) -> bool:
    """Return whether a model may have a state that no file has: of Python code in each step, or outside of Keras."""
    own = [thing for thing in (model, *inner_layers(model), *model.metrics) if not is_keras(type(thing))]
    held = leaves([list(vars(thing).values()) for thing in own])
    return bool(model.run_eagerly) or any(isinstance(thing, (tf.Variable, tf.random.Generator)) for thing in held)


def _signature(plan: TrainPlan, content: bytes, feed: Feed, world: World) -> str:
    """Return a hash of all that the graphs of a training depend on, besides the values of variables.

    They don't depend on the number of the rank: Spark may place a task of another one here next time.
    """
    options = replace(plan.options, epochs=1, initial_epoch=0)
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
