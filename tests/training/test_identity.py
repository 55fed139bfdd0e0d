"""The user's functions and classes reach the copies of a model by what they are, whatever they are called."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dl.errors import ModelError, OptionError, SavedModelError
from spark_dl.launch.pickling import pickle_for_ranks
from spark_dl.ml.savable_objects import refuse_missing, savable
from spark_dl.train.model.carrying import keras_reducer
from spark_dl.train.model.compiling import compiled_copy
from spark_dl.train.model.faithful import with_arguments
from spark_dl.train.model.names import PACKAGE
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = X.sum(1, keepdims=True)


# --- factories: what they make has one name ---------------------------------------------------------------------


def activation(factor: float) -> Callable[[Any], Any]:
    def act(x: Any) -> Any:
        return x * factor

    return act


def loss(factor: float) -> Callable[[Any, Any], Any]:
    def distance(y: Any, p: Any) -> Any:
        return factor * keras.ops.mean(keras.ops.abs(y - p), axis=-1)

    return distance


def initializer(value: float) -> Callable[..., Any]:
    def filled(shape: Any, dtype: Any = None) -> Any:
        return keras.ops.full(shape, value, dtype)

    return filled


def weighing(factor: float) -> Callable[[Any], Any]:
    """A regularizer or a constraint."""

    def weighed(weights: Any) -> Any:
        return factor * keras.ops.sum(weights**2)

    return weighed


def shrinking(factor: float) -> Callable[[Any], Any]:
    def shrunk(weights: Any) -> Any:
        return factor * weights

    return shrunk


def renamed(function: Any, name: str) -> Any:
    copy = types.FunctionType(function.__code__, function.__globals__, name, None, function.__closure__)
    copy.__kwdefaults__, copy.__defaults__ = function.__kwdefaults__, function.__defaults__
    return copy


class Called:
    """Callable, without a config."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self.function(*values, **named)

    def method(self, *values: Any, **named: Any) -> Any:
        return self.function(*values, **named)


def applied(function: Any, *values: Any, **named: Any) -> Any:
    return function(*values, **named)


def scaling(factor: float) -> Any:
    class Scaled(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * factor

    return Scaled()


def constant_rate(rate: float) -> Any:
    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return rate

        def get_config(self) -> dict[str, Any]:
            return {}

    return Rate()


def stepping(rate: float, name: str = "Descent") -> Any:
    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign_sub(variable, rate * gradient)

    def get_config(self: Any) -> dict[str, Any]:
        return {"learning_rate": 1.0}

    made = type(name, (keras.optimizers.Optimizer,), {"update_step": update_step, "get_config": get_config})
    return made(learning_rate=1.0)


def dense(units: int, **options: Any) -> Any:
    return keras.layers.Dense(units, **{"kernel_initializer": "ones", **options})


# What is computed is the same step by step, without the seconds that tracing takes; some tests trace nevertheless.
EAGERLY = {"run_eagerly": True}


def a_model(*layers: Any, **compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), *layers, dense(1)])
    model.compile(**{"optimizer": keras.optimizers.SGD(0.01), "loss": "mse", **EAGERLY, **compiled})
    return model


def two_losses(*losses: Any) -> keras.Model:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [dense(1, name=f"out{index}")(inputs) for index in range(len(losses))])
    model.compile(keras.optimizers.SGD(0.01), loss=list(losses), **EAGERLY)
    return model


FORMS: dict[str, Callable[[Any, str], Any]] = {
    "closure": lambda function, keras_name: function,
    "named as Keras's": renamed,
    "lambda": lambda function, keras_name: renamed(function, "<lambda>"),
    "partial": lambda function, keras_name: functools.partial(applied, function),
    "callable": lambda function, keras_name: Called(function),
    "method": lambda function, keras_name: Called(function).method,
    "tf.function": lambda function, keras_name: tf.function(function),
}

KINDS: dict[str, tuple[Callable[[float], Any], str]] = {
    "activation": (activation, "relu"),
    "loss": (loss, "mse"),
    "metric": (loss, "mae"),
    "initializer": (initializer, "zeros"),
    "regularizer": (weighing, "l2"),
    "constraint": (shrinking, "non_neg"),
    "Lambda": (activation, "relu"),
}


def all_kinds(form: str, **compiled: Any) -> keras.Model:
    """A model with two of each kind, which have one name and differ by a factor: one in each of its branches."""
    inputs, outputs, both = keras.Input((3,)), [], []
    for factor, output in ((0.5, "left"), (0.25, "right")):
        made = {kind: FORMS[form](make(factor), keras_name) for kind, (make, keras_name) in KINDS.items()}
        layer = keras.layers.Dense(
            2,
            activation=made["activation"],
            kernel_initializer=made["initializer"],
            kernel_regularizer=made["regularizer"],
            kernel_constraint=made["constraint"],
        )
        outputs.append(dense(1, name=output)(keras.layers.Lambda(made["Lambda"])(layer(inputs))))
        both.append(made)
    one, other = both
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(0.01),
        loss=[one["loss"], other["loss"]],
        metrics=[[one["metric"]], [other["metric"]]],
        weighted_metrics=[[other["metric"]], [one["metric"]]],
        **{**EAGERLY, **compiled},
    )
    return model


def elsewhere(model: keras.Model, **options: Any) -> tuple[keras.Model, Callable[[keras.Model], keras.Model]]:
    """The model's compiled copy as another process has it; and what brings that one's result back."""
    compiled = compiled_copy(model, **{"optimizer": None, "loss": None, "metrics": None, **options})
    objects = custom_objects(compiled)
    with keras.saving.custom_object_scope(objects):
        content = to_bytes(compiled)
    sent = cloudpickle.loads(pickle_for_ranks("objects", objects, reduce=keras_reducer(model)).content)

    def back(trained: keras.Model) -> keras.Model:
        with keras.saving.custom_object_scope(sent):
            content = to_bytes(trained)
        return from_bytes(
            content, cloudpickle.loads(pickle_for_ranks("objects", objects, reduce=keras_reducer(model)).content)
        )

    return from_bytes(content, sent), back


def steps(model: keras.Model) -> dict[str, list[float]]:
    """What the steps of a fit report; without a fit, whose pipeline takes longer than they do."""
    reported: dict[str, list[float]] = {}
    for part in (slice(0, 8), slice(8, 16)) * 2:
        labels = [Y[part]] * len(model.outputs)
        step = model.train_on_batch(X[part], labels if len(labels) > 1 else Y[part], return_dict=True)
        for name, value in step.items():
            reported.setdefault(name, []).append(float(value))
    return reported


def fitted(model: keras.Model) -> dict[str, list[float]]:
    labels = [Y] * len(model.outputs)
    history = model.fit(X, labels if len(labels) > 1 else Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return {name: list(map(float, values)) for name, values in history.history.items()}


def trains_as_the_users(
    model: keras.Model, train: Callable[[keras.Model], dict[str, list[float]]] = steps, **options: Any
) -> dict[str, list[float]]:
    """Train a copy and the model itself alike, and compare what comes back; gives what training reports."""
    copy, back = elsewhere(model, **options)
    found = train(copy)
    returned = back(copy)
    expected = train(model)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name
    for mine, theirs in zip(returned.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    outputs = [one(X) if len(model.outputs) > 1 else [one(X)] for one in (returned, model)]
    for mine, theirs in zip(*outputs, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_what_has_one_name_stays_apart(form: str) -> None:
    trains_as_the_users(all_kinds(form))


def test_what_has_one_name_stays_apart_and_reports_by_it_in_a_fit() -> None:
    history = trains_as_the_users(all_kinds("closure", run_eagerly=False), fitted)
    kinds = ("loss", "distance", "weighted_distance")  # as Keras calls them
    assert set(history) == {"loss", *(f"{output}_{kind}" for output in ("left", "right") for kind in kinds)}


def own(name: str, base: Any, **members: Any) -> Any:
    return type(name, (base,), members)


def pair_of_layers() -> keras.Model:
    return a_model(scaling(2.0), dense(2), scaling(3.0))


def layer_named_as_kerass() -> keras.Model:
    doubled = own("Dense", keras.layers.Dense, call=lambda self, x: 2.0 * keras.layers.Dense.call(self, x))
    return a_model(doubled(2, kernel_initializer="ones"), dense(2, activation="relu"))


def names_as_texts() -> keras.Model:
    """A function by whose name the config means something else."""

    def same(y: Any, p: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y - p), axis=-1)

    wrapped = keras.metrics.MeanMetricWrapper(same, name="same")
    return a_model(dense(2), loss=same, metrics=[wrapped, "mae"])


def beside_kerass_own() -> keras.Model:
    def relu(x: Any) -> Any:
        return keras.ops.minimum(x, 0.5)

    def accuracy(y: Any, p: Any) -> Any:
        return y - p

    layers = dense(2, activation="relu"), dense(2, activation=relu), dense(2, activation=keras.activations.relu)
    return a_model(*layers, metrics=["accuracy", accuracy])


def objects_without_config() -> keras.Model:
    penalty = own("Penalty", keras.regularizers.Regularizer, __call__=lambda self, x: self.by * keras.ops.sum(x**2))()
    limit = own("Limit", keras.constraints.Constraint, __call__=lambda self, x: self.by * x)()
    start = own(
        "Start", keras.initializers.Initializer, __call__=lambda self, s, dtype=None: keras.ops.full(s, self.by)
    )
    begun = start()
    penalty.by, limit.by, begun.by = 0.1, 0.9, 0.3
    distance = own("Distance", keras.losses.Loss, call=lambda self, y, p: self.by * (y - p) ** 2)(name="far")
    distance.by = 0.25
    layer = dense(2, kernel_regularizer=penalty, kernel_constraint=limit, kernel_initializer=begun)
    return a_model(layer, loss=distance)


def library_functions() -> keras.Model:
    layers = [tf.nn.softmax, keras.ops.gelu, tf.math.square, keras.ops.log1p]
    return a_model(*(dense(2, activation=function) for function in layers))


def rate_of(optimizer: Any) -> keras.Model:
    return a_model(optimizer=optimizer)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "two layer classes": pair_of_layers,
    "a layer class named as Keras's": layer_named_as_kerass,
    "names that are texts, too": names_as_texts,
    "beside Keras's own": beside_kerass_own,
    "state that no config holds": objects_without_config,
    "functions of libraries": library_functions,
    "arrays as initializers": lambda: a_model(
        *(dense(2, kernel_initializer=np.full((width, 2), width, "float32")) for width in (3, 2))
    ),
    "a schedule of one's own": lambda: rate_of(keras.optimizers.Adam(constant_rate(0.25))),
    "a rate that is a function": lambda: rate_of(keras.optimizers.SGD(lambda: 0.25)),
    "an optimizer of one's own": lambda: rate_of(stepping(0.25)),
    "an optimizer named as Keras's": lambda: rate_of(stepping(0.25, "Adam")),
    "within a loss scale": lambda: rate_of(keras.optimizers.LossScaleOptimizer(stepping(0.25, "SGD"), 8.0)),
    "classes for objects": lambda: a_model(
        loss=keras.losses.MeanAbsoluteError, metrics=[keras.metrics.MeanSquaredError, keras.metrics.MeanAbsoluteError]
    ),
    "accumulating by Keras": lambda: rate_of(keras.optimizers.Adam(0.1, gradient_accumulation_steps=2)),
    "weights of losses": lambda: weighted(),
}


def weighted() -> keras.Model:
    model = two_losses(loss(0.5), loss(0.25))
    losses, metrics = [loss(0.5), loss(0.25)], [[loss(1.0)], ["mse"]]
    model.compile("sgd", loss=losses, loss_weights=[2.0, 3.0], weighted_metrics=metrics, **EAGERLY)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_trains_as_the_users_model(name: str) -> None:
    trains_as_the_users(MODELS[name]())


@pytest.mark.parametrize("eagerly", [False, True])
def test_options_of_the_estimator_are_what_they_are(eagerly: bool) -> None:
    def mse(y: Any, p: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y - p), axis=-1)

    options = {"loss": functools.partial(applied, mse), "metrics": [mse, "mse"], "optimizer": stepping(0.01, "SGD")}
    copy, _ = elsewhere(a_model(run_eagerly=eagerly), **options)
    assert copy.run_eagerly == eagerly
    found, expected = steps(copy), steps(a_model(run_eagerly=eagerly, **options))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5), name


def test_names_of_classes_are_the_users() -> None:
    model = pair_of_layers()
    copy, _ = elsewhere(model)
    assert [type(layer).__name__ for layer in copy.layers] == [type(layer).__name__ for layer in model.layers]


def test_the_users_objects_and_keras_stay_as_they_were() -> None:
    from keras.src.saving import object_registration, serialization_lib

    functions = [activation(0.5), activation(0.25)]
    model = a_model(*(dense(2, activation=function) for function in functions))
    before = dict(object_registration.GLOBAL_CUSTOM_NAMES), dict(object_registration.GLOBAL_CUSTOM_OBJECTS)
    written = serialization_lib.serialize_keras_object
    elsewhere(model)
    assert before == (object_registration.GLOBAL_CUSTOM_NAMES, object_registration.GLOBAL_CUSTOM_OBJECTS)
    assert serialization_lib.serialize_keras_object is written
    assert [function.__name__ for function in functions] == ["act", "act"]
    assert [layer.activation for layer in model.layers[:2]] == functions


def test_another_thread_writes_keras_own_names_meanwhile() -> None:
    from spark_dl.train.model.identity import naming

    function, seen = activation(0.5), []
    with keras.saving.custom_object_scope({f"{PACKAGE}act": function}), naming():
        thread = threading.Thread(target=lambda: seen.append(keras.saving.serialize_keras_object(function)))
        thread.start()
        thread.join()
        mine = keras.saving.serialize_keras_object(function)
    assert (seen[0]["config"], mine["config"]) == ("act", f"{PACKAGE}act")


def test_registered_names_are_kept_and_only_what_is_used_is_carried() -> None:
    def kept(x: Any) -> Any:
        return x

    keras.saving.register_keras_serializable("identity")(kept)
    objects = custom_objects(a_model(dense(2, activation=kept), scaling(1.0)))
    assert objects["identity>kept"] is kept
    assert "Scaled" in objects
    assert not [name for name in objects if name.startswith(PACKAGE)]


def test_a_class_that_was_registered_again_is_the_one_that_the_model_has() -> None:
    kinds = []
    for factor in (2.0, 3.0):
        layer = scaling(factor)
        kinds.append(layer)
        keras.saving.register_keras_serializable("identity", "Again")(type(layer))
    trains_as_the_users(a_model(kinds[0], dense(2)))
    trains_as_the_users(a_model(kinds[0], dense(2), kinds[1]))
    # Saved as Keras does it: by the name that is found again where the class is defined once.
    again = from_bytes(written(a_model(kinds[0], dense(2)), True))
    assert type(again.layers[0]) is type(kinds[1])


def test_names_that_are_registered_for_others_are_not_taken() -> None:
    """Keras asks its registry first, whatever the scope is, for what a layer holds."""
    registered = keras.saving.get_custom_objects()
    taken = ("act", f"{PACKAGE}act")
    try:
        registered.update(dict.fromkeys(taken, activation(9.0)))
        trains_as_the_users(a_model(dense(2, activation=activation(0.5)), dense(2, activation=activation(0.25))))
        assert f"{PACKAGE}act_2" in custom_objects(a_model(dense(2, activation=activation(0.5))))
    finally:
        for name in taken:
            registered.pop(name, None)


def test_layers_by_themselves_are_carried_with_what_they_hold() -> None:
    layers = [dense(2, activation=activation(0.5)), {"b": dense(2, activation=activation(0.25))}, activation(3.0)]
    sent = cloudpickle.loads(pickle_for_ranks("layers", layers, reduce=keras_reducer()).content)
    found = [np.asarray(layer(X)) for layer in (sent[0], sent[1]["b"], sent[2])]
    expected = [np.asarray(layer(X)) for layer in (layers[0], layers[1]["b"], layers[2])]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs)


def test_a_loss_may_hold_another_model() -> None:
    features = a_model(dense(2, activation=activation(0.5)), dense(2, activation=activation(0.25)))

    def perceptual(y: Any, p: Any) -> Any:
        return keras.ops.abs(features(keras.ops.tile(y - p, (1, 3))))

    trains_as_the_users(a_model(loss=perceptual))


# --- what can't be carried -------------------------------------------------------------------------------------


class Quantile(keras.metrics.Mean):
    """Without a get_config, and with what only that could tell."""

    def __init__(self, quantile: float = 0.5, name: str = "quantile") -> None:
        super().__init__(name=name)
        self.quantile = quantile


class Bare(keras.metrics.Mean):
    """Without all that Keras gives it."""

    def __init__(self, name: str = "bare") -> None:
        super().__init__(name=name)


class Wide(keras.layers.Dense):
    """With its parent's get_config."""

    def __init__(self, units: int, factor: float = 1.0, **others: Any) -> None:
        super().__init__(units, **others)
        self.factor = factor


def loss_over_weights() -> keras.Model:
    model = a_model(dense(2, name="inner"))
    inner = model.get_layer("inner")
    model.compile("sgd", loss=lambda y, p: keras.ops.mean((y - p) ** 2) + keras.ops.sum(inner.kernel))
    return model


def loss_with_a_lock() -> keras.Model:
    lock = threading.Lock()

    def guarded(y: Any, p: Any) -> Any:
        with lock:
            return (y - p) ** 2

    return a_model(loss=guarded)


class Holding(keras.layers.Layer):
    """With an argument that Keras can't write."""

    def __init__(self, held: Any, **others: Any) -> None:
        super().__init__(**others)
        self.held = held

    def call(self, inputs: Any) -> Any:
        return inputs


def set_to(thing: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(thing, name, value)
    return thing


def loss_with_variables() -> keras.Model:
    made: list[Any] = []

    @tf.function
    def varying(y: Any, p: Any) -> Any:
        if not made:
            made.append(tf.Variable(1.0))
        return made[0] * (y - p) ** 2

    varying(tf.ones((1, 1)), tf.ones((1, 1)))
    return a_model(loss=varying)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: a_model(metrics=[Quantile(0.9)]), "Quantile 'quantile' can't be copied.*leaves quantile out"),
        (lambda: a_model(metrics=[Bare()]), "Bare 'bare' can't be copied.*gives dtype, which __init__ doesn't take"),
        (lambda: a_model(Wide(2, factor=2.0, name="wide")), "Wide 'wide' can't be copied.*leaves factor out"),
        (lambda: a_model(Holding(Called(abs), name="held")), "Holding 'held' can't be copied.*get_config"),
        (loss_over_weights, "lambda.*: It holds a part of the given model.*copies of them"),
        (loss_with_variables, "that has created variables can't be sent.*the tf.function 'varying'"),
        (loss_with_a_lock, "guarded.*its variable 'lock', of type lock"),
        (lambda: a_model(keras.layers.Lambda(lambda x: x, mask=lambda x, m: m, name="m")), "Lambda 'm'.*mask"),
        (lambda: a_model(loss=set_to(keras.losses.Tversky(), alpha=0.1)), "alpha=0.1 in its config, 0.5 in its comp"),
        (lambda: a_model(metrics=[set_to(keras.metrics.BinaryAccuracy(), threshold=0.1)]), "binary_acc.*threshold=0.1"),
    ],
    ids=[
        *("metric", "metric that Keras can't load", "layer", "argument", "weights", "variables", "lock", "mask"),
        *("attribute of Keras's loss", "attribute of Keras's metric"),
    ],
)
def test_what_can_not_be_carried_is_refused_by_name(make: Callable[[], keras.Model], told: str) -> None:
    model = make()
    with pytest.raises((ModelError, OptionError), match=told):
        elsewhere(model)


def test_arguments_that_keras_forgets_to_save_are_kept() -> None:
    value = float(keras.losses.Huber(delta=0.1)(Y, Y + 3))
    loaded = elsewhere(a_model(loss=keras.losses.Huber(delta=0.1)))[0]
    assert float(loaded.compute_loss(None, Y, Y + 3)) == pytest.approx(value, rel=1e-6)
    compiled = compiled_copy(a_model(), None, keras.losses.Huber(delta=0.1), None)
    assert float(compiled.compute_loss(None, Y, Y + 3)) == pytest.approx(value, rel=1e-6)


def test_what_its_config_leaves_out_at_the_default_is_no_fault() -> None:
    def init(self: Any, quantile: float = 0.5, **others: Any) -> None:
        keras.metrics.Mean.__init__(self, **others)
        self.quantile = quantile

    loadable = own("Loadable", keras.metrics.Mean, __init__=init)
    assert elsewhere(a_model(Wide(2), metrics=[loadable(name="one"), loadable(0.5, name="other")]))[0].compiled


# --- what is saved -----------------------------------------------------------------------------------------------


def written(model: keras.Model, compiled: bool = False) -> bytes:
    objects = custom_objects(model)
    with keras.saving.custom_object_scope(objects):
        return savable(to_bytes(model), objects, compiled=compiled)


def test_what_keras_itself_can_find_again_is_saved_by_its_name() -> None:
    names = ["relu", "softmax", "log_softmax", "silu"]
    loaded = from_bytes(written(a_model(*(dense(2, activation=getattr(tf.nn, name)) for name in names)), True))
    assert [layer.activation for layer in loaded.layers[:-1]] == [getattr(keras.activations, name) for name in names]

    def same(y: Any, p: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y - p), axis=-1)

    # Carried by a given name, since it is the layer's, too; which Keras tells apart as it loads them.
    loaded = from_bytes(written(a_model(dense(2, name="same"), loss=same), True), {"same": same})
    assert loaded.loss is same


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: a_model(dense(2, activation=activation(1.0), name="a"), dense(2, activation=activation(2.0))),
            "'spark_dl.custom>act' in Dense 'a', 'spark_dl.custom>act_2' in Dense",
        ),
        (lambda: a_model(keras.layers.Lambda(lambda x: x, name="same")), "'spark_dl.custom>lambda' in Lambda 'same'"),
        (layer_named_as_kerass, "'spark_dl.custom>Dense' in Dense"),
    ],
    ids=["closures", "lambda", "named as Keras's"],
)
def test_a_layer_that_no_process_could_load_is_not_saved(make: Callable[[], keras.Model], told: str) -> None:
    with pytest.raises(SavedModelError, match=f"can't be saved.*{told}"):
        written(make())


def test_scoring_needs_no_losses() -> None:
    content = written(two_losses(loss(0.5), loss(0.25)))
    assert from_bytes(content, compiled=False).output_names == ["out0", "out1"]
    with pytest.raises(SavedModelError, match=r"'spark_dl.custom>distance', 'spark_dl.custom>distance_2'"):
        refuse_missing(content, {})
    with pytest.raises(SavedModelError, match="Could not"):
        from_bytes(content)


def test_given_names_may_be_registered() -> None:
    functions = [activation(0.5), activation(0.25)]
    model = a_model(*(dense(2, activation=function) for function in functions))
    registered = keras.saving.get_custom_objects()
    try:
        registered.update({f"{PACKAGE}act": functions[0], f"{PACKAGE}act_2": functions[1]})
        loaded = from_bytes(written(model, True))
    finally:
        for name in (f"{PACKAGE}act", f"{PACKAGE}act_2"):
            registered.pop(name, None)
    assert [layer.activation for layer in loaded.layers[:2]] == functions


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.Huber(delta=0.1),
        keras.losses.CosineSimilarity(axis=1),
        keras.losses.SparseCategoricalCrossentropy(axis=1, ignore_class=0),
        keras.losses.MeanSquaredError(),
        keras.metrics.CosineSimilarity(axis=1),
    ],
)
def test_losses_and_metrics_keep_the_arguments_that_their_config_leaves_out(loss: Any) -> None:
    config = with_arguments(loss, keras.saving.serialize_keras_object(loss))
    assert keras.saving.deserialize_keras_object(config)._fn_kwargs == loss._fn_kwargs
