"""What is sent to the ranks: what can't be pickled is named before any job; and what executors need to load it."""

from __future__ import annotations

import functools
import importlib.util
import threading
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from pyspark.accumulators import Accumulator, AccumulatorParam

from spark_dl.diagnosis.machine import absent
from spark_dl.errors import ModelError, OptionError
from spark_dl.fit.callback_checks import pickle_callbacks
from spark_dl.launch.pickling import pickle_for_ranks

LOCK = threading.Lock()


def by_value(thing: Any) -> Any:
    """As of a script's or a notebook's own: pickled whole, and not by its name."""
    for part in (thing, *(value for value in vars(thing).values() if isinstance(value, types.FunctionType))):
        part.__module__ = "__main__"
    return thing


@by_value
class Holds(keras.callbacks.Callback):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


@by_value
class UsesGlobal(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with LOCK:
            pass


def closure(held: Any) -> Callable[..., Any]:
    return by_value(lambda *_: held)


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = LOCK


class Raises:
    def __reduce__(self) -> Any:
        raise ValueError("only on the driver\nsecond line")


class Sums(AccumulatorParam[int]):
    def zero(self, value: int) -> int:
        return 0

    def addInPlace(self, value1: int, value2: int) -> int:
        return value1 + value2


@pytest.mark.parametrize(
    ("held", "path", "kind"),
    [
        (LOCK, ".held,", "lock"),
        ({"a": [1, LOCK]}, ".held['a'][1],", "lock"),
        (closure(LOCK), ".held, its variable 'held'", "lock"),
        (functools.partial(print, LOCK), ".held.args[0]", "lock"),
        (Holds(LOCK), ".held.held,", "lock"),
        (Slotted(), ".held.lock", "lock"),
        (Raises(), ".held,", r"Raises \(only on the driver\)"),
        ((thread for thread in ()), ".held,", "generator"),
        (Accumulator(7, 0, Sums()), ".held,", r"Accumulator \(an Accumulator, whose additions"),
    ],
    ids=["lock", "nested", "closure", "partial", "callback", "slots", "reduce", "generator", "accumulator"],
)
def test_the_part_that_can_not_be_pickled_is_named(held: Any, path: str, kind: str) -> None:
    callbacks = [keras.callbacks.TerminateOnNaN(), Holds(held)]
    with pytest.raises(OptionError, match=rf"of type {kind}") as raised:
        pickle_callbacks(callbacks)
    assert f"Received: callbacks[1] (Holds){path}" in str(raised.value)
    assert "__getstate__" in str(raised.value)


def test_a_global_of_a_callbacks_own_class_is_named() -> None:
    with pytest.raises(OptionError, match=r"\(UsesGlobal\), its class UsesGlobal.on_epoch_end, its global 'LOCK'"):
        pickle_callbacks([UsesGlobal()])


def compiled_model() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    model.compile(keras.optimizers.Adam(), "mse", metrics=["mae"])
    return model


@pytest.mark.parametrize(
    ("held", "part"),
    [
        (lambda model: model, "the Sequential"),
        (lambda model: {"layers": [model.layers[0]]}, "the Dense 'out'"),
        (lambda model: model.layers[0].kernel, "the variable"),
        (lambda model: model.optimizer, "the Adam"),
        (lambda model: model.optimizer.learning_rate, "the variable"),
        (lambda model: closure(model), "the Sequential"),
        (lambda model: functools.partial(print, model.optimizer), "the Adam"),
        (lambda model: keras.callbacks.LambdaCallback(on_epoch_end=closure(model.layers[0])), "the Dense 'out'"),
        (lambda model: Holds(Holds(model)), "the Sequential"),
    ],
    ids=["model", "layer", "variable", "optimizer", "rate", "closure", "partial", "lambda callback", "nested"],
)
def test_a_callback_that_holds_a_part_of_the_given_model_is_refused(held: Any, part: str) -> None:
    model = compiled_model()
    with pytest.raises(ModelError, match=rf"^callbacks\[0\] \(Holds\).*a part of the given model.*Received: {part}"):
        pickle_callbacks([Holds(held(model))], model, None)


def test_an_optimizer_that_is_set_as_an_option_is_refused_in_callbacks_too() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    with pytest.raises(ModelError, match=r"train copies of them.*Received: the SGD.*self\.model"):
        pickle_callbacks([Holds(closure(optimizer))], compiled_model(), optimizer)


@pytest.mark.parametrize("kind", [keras.Variable, tf.Variable])
def test_a_variable_that_the_loss_uses_too_is_refused(kind: Any) -> None:
    weight = kind(1.0)
    with pytest.raises(ModelError, match=r"^callbacks\[0\] \(Holds\).*Received: the variable.*keras\.losses\.Loss"):
        pickle_callbacks([Holds(closure(weight))], compiled_model(), variables=[weight])
    pickle_callbacks([Holds(closure(weight))], compiled_model(), variables=[kind(1.0)])


def test_a_callback_may_hold_another_model_and_have_been_used_in_keras() -> None:
    model, teacher, callback = compiled_model(), compiled_model(), Holds(None)
    model.fit(np.zeros((1, 2)), np.zeros(1), verbose=0, callbacks=[callback])
    callback.held = teacher
    (back,) = cloudpickle.loads(pickle_callbacks([callback], model).content)
    np.testing.assert_array_equal(back.held.get_weights()[0], teacher.get_weights()[0])
    assert back.model is None
    assert callback.model is model


def test_callbacks_are_pickled_as_they_are() -> None:
    shared = Holds([1, 2])
    pickled = pickle_callbacks([shared, Holds(shared), keras.callbacks.EarlyStopping(patience=3)])
    first, second, third = cloudpickle.loads(pickled.content)
    assert second.held is first
    assert (first.held, third.patience) == ([1, 2], 3)
    assert cloudpickle.loads(pickle_callbacks(None).content) == []


@pytest.mark.parametrize(
    ("callbacks", "told"),
    [
        ([keras.callbacks.TerminateOnNaN], "instances of keras.callbacks.Callback.*TerminateOnNaN"),
        ([lambda: None], "instances of keras.callbacks.Callback"),
        ([keras.callbacks.BackupAndRestore("backup")], "BackupAndRestore.*checkpointDir"),
        (
            [keras.callbacks.CSVLogger("f"), keras.callbacks.ProgbarLogger()],
            r"callbacks\[1\] \(ProgbarLogger\).*verbose=1",
        ),
    ],
)
def test_callbacks_that_make_no_sense_on_ranks_are_refused(callbacks: list[Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        pickle_callbacks(callbacks)


def test_tensorboard_needs_its_package_on_the_driver() -> None:
    callback = keras.callbacks.TensorBoard("logs")
    if importlib.util.find_spec("tensorboard"):
        assert "tensorboard" in pickle_callbacks([callback]).modules
    else:
        with pytest.raises(OptionError, match=r"package 'tensorboard'.*pip install 'spark_dl\[tensorboard\]'"):
            pickle_callbacks([callback])
    assert "requests" in pickle_callbacks([keras.callbacks.RemoteMonitor()]).modules


def test_what_executors_must_import_is_what_is_pickled_by_name() -> None:
    own = __name__.partition(".")[0]
    assert own in pickle_for_ranks("x", Raises).modules
    assert own not in pickle_for_ranks("x", closure(1)).modules
    assert pickle_for_ranks("x", [threading, 1, "a", len]).modules == ()
    assert pickle_for_ranks("x", types.ModuleType("made_up")).modules == ()
    assert pickle_for_ranks("x", [keras, threading]).modules == ("keras",)
    assert "keras" in pickle_for_ranks("x", {"loss": keras.losses.MeanSquaredError}).modules
    assert absent(["keras", "a_module_that_is_nowhere"]) == ["a_module_that_is_nowhere"]
