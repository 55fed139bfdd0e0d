"""What the package takes from inside Keras: each name still gives what `spark_dl._compat` says."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from keras.src.saving import saving_lib, serialization_lib

from spark_dl._compat import keras as inside
from spark_dl._compat import keras_loading, keras_saving
from spark_dl.layers import CRF, CRFLoss
from spark_dl.train.model import identity


class Block(keras.layers.Layer):
    """A layer with a layer, a variable of each kind and a random generator of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = keras.layers.Dense(2)
        self.random = keras.random.SeedGenerator(7)

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(1,), name="scale")
        self.count = self.add_weight(shape=(1,), name="count", trainable=False)
        self.inner.build(shape)

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs) * self.scale


def network(**compile_options: Any) -> keras.Model:
    start = keras.Input((3,), name="start")
    model = keras.Model(start, keras.layers.Dense(1, name="end")(Block(name="block")(start)))
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compile_options})
    return model


# Keras: layers and variables.


def test_all_layers_are_found_within_layers() -> None:
    model = network()
    block = model.get_layer("block")
    assert {layer.name for layer in inside.all_layers(model)} >= {model.name, "start", "block", block.inner.name, "end"}
    assert inside.all_layers(block, include_self=False) == [block.inner]


@pytest.mark.stack
@pytest.mark.parametrize("initial", [[1.0, 2.0], 3.0])
def test_the_copied_value_of_a_variable_stays_as_it_was(initial: Any) -> None:
    variable = keras.Variable(initial, dtype="float32")
    copied = inside.copied_value(variable)
    variable.assign(variable + 1)
    assert (copied.dtype, copied.tolist()) == ("float32", initial)


def test_child_layers_are_those_of_the_layer_itself() -> None:
    model = network()
    assert inside.child_layers(model) == model.layers
    assert inside.child_layers(model.get_layer("block")) == [model.get_layer("block").inner]


def test_own_variables_are_those_of_the_layer_itself_frozen_or_not() -> None:
    block = network().get_layer("block")
    block.trainable = False
    assert [variable.name for variable in inside.own_variables(block)] == ["scale", "count"]


def test_seed_generators_and_their_states() -> None:
    block = network().get_layer("block")
    assert inside.seed_generators(block) == [block.random]
    assert inside.is_seed(block.random.state)
    assert not inside.is_seed(block.scale)
    assert not inside.is_seed(np.zeros(1))


def test_the_trainable_flag_of_one_layer_is_set_without_those_within_it() -> None:
    block = network().get_layer("block")
    inside.set_trainable_flag(block, False)
    assert (block.trainable, block.inner.trainable) == (False, True)


def test_the_path_of_a_variable_is_set() -> None:
    variable = keras.Variable(1.0, name="one")
    inside.set_path(variable, "model/other")
    assert variable.path == "model/other"


def test_the_operation_of_a_tensor_and_its_output() -> None:
    start = keras.Input((4,), name="start")
    first, second = keras.ops.split(start, 2, axis=1)
    assert inside.operation_of(start).name == "start"
    assert inside.operation_of(second) is inside.operation_of(first)
    assert (inside.output_index(first), inside.output_index(second)) == (0, 1)


def test_outputs_of_a_nested_model_within_its_outer_model() -> None:
    nested = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    start = keras.Input((3,))
    middle = nested(start)
    outer = keras.Model(start, keras.layers.Dense(1)(middle))
    (found,) = inside.outputs_within(outer, nested)
    assert found is middle


def test_the_tensors_that_an_output_depends_on() -> None:
    start, other = keras.Input((2,)), keras.Input((2,))
    middle = keras.Sequential([keras.layers.Dense(3)])(start)
    model = keras.Model([start, other], keras.layers.Dense(1)(middle))
    assert inside.used_tensors(model) == {id(start), id(middle), id(model.output)}


def test_the_mask_of_a_tensor() -> None:
    embedded = keras.layers.Embedding(5, 2, mask_zero=True)(np.array([[1, 0]]))
    assert np.asarray(inside.mask_of(embedded)).tolist() == [[True, False]]
    assert inside.mask_of(keras.ops.ones((1, 2))) is None


def test_attributes_of_layers_hold_those_that_keras_sets_in_a_fit() -> None:
    model = network()
    before = {name for name in vars(model) if not name.startswith("_")} - inside.LAYER_ATTRIBUTES
    model.fit(np.zeros((2, 3)), np.zeros((2, 1)), verbose=0)
    after = {name for name in vars(model) if not name.startswith("_")} - inside.LAYER_ATTRIBUTES
    assert after == before
    assert {"train_function", "history", "built"} <= inside.LAYER_ATTRIBUTES & vars(model).keys()


def test_attributes_of_tracking_are_those_that_keras_adds_to_a_layer() -> None:
    held = vars(Block()).keys() & inside.TRACKING_ATTRIBUTES
    assert held >= {"_tracker", "_lock", "_auto_config"}


def test_attributes_of_callbacks_are_all_that_keras_sets() -> None:
    callback = keras.callbacks.Callback()
    callback.set_model(network())
    callback.set_params({"epochs": 1})
    assert vars(callback).keys() <= inside.CALLBACK_ATTRIBUTES
    assert {"_model", "params"} <= vars(callback).keys()


# Keras: optimizers, metrics and training.


def test_the_variables_of_an_optimizer_and_their_keys() -> None:
    model = network()
    model.optimizer.build(model.trainable_variables)
    assert all(
        mine is theirs
        for mine, theirs in zip(inside.built_variables(model.optimizer), model.trainable_variables, strict=True)
    )
    keys = {inside.variable_key(model.optimizer, variable) for variable in model.trainable_variables}
    assert len(keys) == len(model.trainable_variables)


def test_the_iterations_of_an_optimizer_that_accumulates_are_a_variable() -> None:
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    inside.iterations_variable(optimizer).assign(6)
    assert int(np.asarray(optimizer.iterations)) == 3


def test_exclusions_from_weight_decay() -> None:
    one, other = keras.Variable(1.0, name="one"), keras.Variable(1.0, name="other")
    optimizer = keras.optimizers.AdamW()
    assert (inside.decay_exclusions(optimizer), inside.decay_pattern(optimizer)) == (frozenset(), None)
    optimizer.exclude_from_weight_decay(var_list=[one], var_names=["bias", "gamma"])
    assert inside.decay_exclusions(optimizer) == {inside.variable_key(optimizer, one)}
    assert inside.variable_key(optimizer, other) not in inside.decay_exclusions(optimizer)
    assert set((inside.decay_pattern(optimizer) or "").split("|")) == {"bias", "gamma"}


def test_an_optimizer_that_selects_by_path_is_known_and_earlier_releases_have_none(monkeypatch: Any) -> None:
    plain, moving = keras.optimizers.SGD(), keras.optimizers.SGD(momentum=0.9)
    mapped = keras.optimizers.OptimizerMap(plain, {"block/.*": moving})
    assert inside.selects_by_path(keras.optimizers.MultiOptimizer(mapped))
    assert not inside.selects_by_path(plain)
    monkeypatch.delattr(keras.optimizers, "MultiOptimizer")
    assert not inside.selects_by_path(plain)


def test_the_compiled_optimizer_stays_when_the_models_is_replaced() -> None:
    given = keras.optimizers.Adam()
    model = network(optimizer=given)
    model.optimizer = keras.optimizers.SGD()
    assert inside.compiled_optimizer(model) is given
    assert inside.compiled_optimizer(keras.Sequential()) is None


def test_the_compiled_metrics_are_known_before_they_are_built() -> None:
    metric = keras.metrics.MeanAbsoluteError()
    model = network(metrics=[metric, "mse"], weighted_metrics=["mae"])
    assert inside.compile_metrics(model) == [[metric, "mse"], ["mae"]]
    assert inside.compile_metrics(keras.Sequential()) == [None, None]


def test_the_container_of_compiled_metrics_is_known() -> None:
    model = network(metrics=["mae"])
    model.evaluate(np.zeros((2, 3)), np.zeros((2, 1)), verbose=0)
    assert [inside.is_compile_metrics(metric) for metric in model.metrics] == [False, True]


def test_the_function_of_a_metric() -> None:
    def distance(labels: Any, outputs: Any, power: int) -> Any:
        return abs(labels - outputs) ** power

    metric = keras.metrics.MeanMetricWrapper(distance, name="distance", power=3)
    assert inside.wrapped_function(metric) == (distance, {"power": 3})
    assert inside.wrapped_function(keras.metrics.Mean()) == (None, {})


def test_the_direction_of_a_metric() -> None:
    metrics = (keras.metrics.MeanSquaredError(), keras.metrics.AUC(), keras.metrics.Mean())
    assert [inside.best_direction(metric) for metric in metrics] == ["down", "up", None]


def test_state_is_built_from_a_batch_without_a_step() -> None:
    model = network(metrics=["mae"], optimizer=keras.optimizers.SGD(0.1))
    weights = model.get_weights()
    inside.build_compiled_state(model, (tf.ones((2, 3)), tf.ones((2, 1))))
    assert {metric.name for metric in model.metrics[1].metrics} == {"mae"}
    assert len(model.metrics_variables) == 4
    assert all(np.array_equal(*pair) for pair in zip(weights, model.get_weights(), strict=True))


def test_state_is_built_of_a_loss_that_takes_what_a_layer_attaches_to_its_output() -> None:
    words = keras.Input((4,), dtype="int32")
    model = keras.Model(words, CRF()(keras.layers.Dense(3)(keras.layers.Embedding(9, 5)(words))))
    model.compile("sgd", CRFLoss(), metrics=["accuracy"])
    inside.build_compiled_state(model, (tf.zeros((2, 4), tf.int32), tf.zeros((2, 4), tf.int32)))
    assert len(model.metrics_variables) == 4
    model.compile("sgd", CRFLoss())
    with pytest.raises(ValueError, match="shape"):  # a label that no loss takes
        inside.build_compiled_state(model, (tf.zeros((2, 4), tf.int32), tf.zeros((2, 7), tf.int32)))


def test_fit_takes_each_step_with_the_train_function_that_was_set() -> None:
    model, seen = network(), []

    def step(iterator: Any) -> dict[str, float]:
        seen.append(next(iterator))
        return {"of_mine": 4.0}

    inside.set_train_function(model, step)
    history = model.fit(np.zeros((4, 3)), np.zeros((4, 1)), batch_size=2, verbose=0).history
    assert (history, len(seen)) == ({"of_mine": [4.0]}, 2)


# Keras: saving.


def test_the_objects_of_a_scope() -> None:
    assert dict(keras_saving.scope_objects()) == {}
    with keras.saving.custom_object_scope({"block": Block}):
        assert dict(keras_saving.scope_objects()) == {"block": Block}


@pytest.mark.parametrize(
    "thing", [keras.layers.Dense(2), keras.metrics.AUC(), keras.losses.Huber(), keras.optimizers.Adam(), network()]
)
def test_keras_saves_layers_losses_metrics_optimizers_and_models(thing: Any) -> None:
    assert keras_saving.is_saveable(thing)
    assert not keras_saving.is_saveable(thing.get_config)


def test_objects_that_are_no_models_are_saved_with_their_weights() -> None:
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    loaded = keras_saving.load_object(keras_saving.save_object(layer))
    assert all(np.array_equal(*pair) for pair in zip(loaded.get_weights(), layer.get_weights(), strict=True))
    metric = keras_saving.load_object(keras_saving.save_object(keras.metrics.AUC(num_thresholds=7, name="kept")))
    assert (type(metric), metric.name, metric.num_thresholds) == (keras.metrics.AUC, "kept", 7)


def test_objects_are_loaded_in_safe_mode() -> None:
    content = keras_saving.save_object(keras.layers.Lambda(lambda x: x))
    with pytest.raises(ValueError, match="safe_mode"):
        keras_saving.load_object(content)


def test_files_of_layers_are_loaded_outside_of_the_safe_mode_of_configs() -> None:
    with serialization_lib.SafeModeScope(True):
        with keras_saving.loading_assets():
            assert not serialization_lib.in_safe_mode()
        assert serialization_lib.in_safe_mode()


def test_plain_values_are_those_that_a_config_holds_as_they_are() -> None:
    for value in ("text", 1, 0.5, True):
        assert keras_saving.is_plain(value)
        assert keras.saving.serialize_keras_object(value) == value
    assert not keras_saving.is_plain(np.zeros(1))


def test_exported_classes_are_keras_public_ones() -> None:
    assert keras_saving.is_exported(keras.layers.Dense)
    assert not keras_saving.is_exported(Block)
    assert not keras_saving.is_exported(type(inside.operation_of(keras.ops.split(keras.Input((4,)), 2)[0])))


def test_builtins_are_found_by_name() -> None:
    assert keras_saving.builtins_named("relu") == [keras.activations.relu]
    assert keras_saving.builtins_named("no_function_of_keras") == []


def test_reserved_names_are_those_that_keras_resolves() -> None:
    names = keras_saving.reserved_names()
    assert names >= {"Dense", "relu", "mse", "MSE", "glorot_uniform", "l2", "adam", "non_neg"}
    assert "no_function_of_keras" not in names


def test_a_reference_is_the_config_of_a_function() -> None:
    def doubled(x: Any) -> Any:
        return x * 2

    written = keras.saving.serialize_keras_object(doubled)
    assert written == keras_saving.function_reference("doubled")
    with keras.saving.custom_object_scope({"other": doubled}):
        assert keras.saving.deserialize_keras_object(keras_saving.function_reference("other")) is doubled


def test_the_serializer_is_replaced_wherever_keras_calls_it_and_put_back() -> None:
    before = keras.saving.serialize_keras_object
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(abs), keras.layers.Dense(2, activation="relu")])
    written, named = [], []

    def write(thing: Any, by_keras: Any) -> Any:
        written.append(thing)
        return keras_saving.function_reference("absolute") if thing is abs else by_keras(thing)

    def name_of(thing: Any, by_keras: Any) -> str:
        named.append(thing)
        return str(by_keras(thing))

    with keras_saving.serializing(write, name_of):
        config = keras.saving.serialize_keras_object(model)
    assert config["config"]["layers"][1]["config"]["function"] == keras_saving.function_reference("absolute")
    assert {type(thing) for thing in written} >= {keras.Sequential, keras.layers.Lambda, keras.layers.Dense}
    assert keras.activations.relu in named
    assert keras.saving.serialize_keras_object is keras.utils.serialize_keras_object is before


# Keras: loading without copies.


class Projection(keras.layers.Layer):
    """A random projection that isn't saved: its initial value has a seed."""

    __module__ = "keras_hub.layers"  # initial values of others are computed at once

    def build(self, shape: Any) -> None:
        initializer = keras.initializers.GlorotUniform(seed=5)
        self.kernel = self.add_weight(shape=(shape[-1], 4), initializer=initializer, trainable=False)

    def call(self, inputs: Any) -> Any:
        return keras.ops.matmul(inputs, self.kernel)

    def save_own_variables(self, store: Any) -> None:
        """Save nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing."""


@pytest.mark.stack
def test_a_model_loaded_without_copies_is_the_same_and_trains_alike(tmp_path: Path) -> None:
    layers = [keras.layers.Embedding(50, 8), keras.layers.Flatten(), Projection(), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1, dtype="float64")])
    model.compile("adam", "mse")
    rows, labels = np.arange(48).reshape(16, 3), np.linspace(0, 1, 16)
    model.train_on_batch(rows, labels)
    with keras_loading.weights_in_files():
        model.save(tmp_path / "model.keras")
    objects = {"Projection": Projection}
    with keras_loading.loading_without_copies(least_bytes=1):
        lean = keras.saving.load_model(tmp_path / "model.keras", objects)
    usual = keras.saving.load_model(tmp_path / "model.keras", objects)
    assert [one.numpy().tolist() for one in lean.weights] == [one.numpy().tolist() for one in model.weights]
    for _ in range(2):
        for one, other in zip(
            (*lean.weights, *lean.optimizer.variables), (*usual.weights, *usual.optimizer.variables), strict=True
        ):
            np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
        for each in (lean, usual):
            each.train_on_batch(rows, labels)


class Turned(Projection):
    """A projection that is saved transposed, twice over."""

    __module__ = Projection.__module__

    def save_own_variables(self, store: Any) -> None:
        store["0"] = np.tile(np.asarray(self.kernel).T, (2, 1))

    def load_own_variables(self, store: Any) -> None:
        self.kernel.assign(store["0"][:4].T)


class Direct(Projection):
    """A projection that is loaded into TensorFlow's variable."""

    __module__ = Projection.__module__

    def save_own_variables(self, store: Any) -> None:
        store["0"] = np.asarray(self.kernel)

    def load_own_variables(self, store: Any) -> None:
        self.kernel.value.assign(store["0"])


class Inverting(Projection):
    """A projection that computes with its initial value when it is built, and is loaded as usual."""

    __module__ = __name__

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.inverse = np.linalg.inv(self.kernel.numpy()[:, :3])

    def save_own_variables(self, store: Any) -> None:
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        keras.layers.Layer.load_own_variables(self, store)


@pytest.mark.parametrize("kind", [Turned, Direct, Inverting])
def test_layers_that_load_or_build_in_their_own_way_get_the_saved_weights(kind: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), kind(name="own")])
    model.layers[0].kernel.assign(np.arange(12.0).reshape(3, 4))
    model.save(tmp_path / "model.keras")
    with keras_loading.loading_without_copies(least_bytes=1):
        lean = keras.saving.load_model(tmp_path / "model.keras", {kind.__name__: kind})
    assert lean.layers[0].kernel.numpy().tolist() == model.layers[0].kernel.numpy().tolist()


def test_a_thread_that_loads_and_one_that_saves_both_end() -> None:
    loads = threading.Event()

    def load() -> None:
        with keras_loading.loading_without_copies(least_bytes=1):
            loads.set()
            save()  # as an optimizer that is replaced

    def save() -> None:
        with identity.naming(), keras_loading.weights_in_files():
            loads.wait(0.2)

    threads = [threading.Thread(target=action, daemon=True) for action in (save, load)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_what_earlier_releases_may_refuse_is_left_to_their_own_reading(tmp_path: Path, monkeypatch: Any) -> None:
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["inside"] = [1.0, 2.0]
        file.create_dataset("outside", (2,), "f4", external=[(str(tmp_path / "values"), 0, 8)])
        file.create_virtual_dataset("virtual", h5py.VirtualLayout((2,), "f4"))
        monkeypatch.delattr(saving_lib, "safe_get_h5_dataset", raising=False)  # as before Keras 3.14.1
        assert list(keras_loading._data_set(file, "inside")) == [1.0, 2.0]
        assert [keras_loading._data_set(file, name) for name in ("outside", "virtual", "absent", "/")] == [None] * 4


@pytest.mark.stack
def test_loading_without_copies_takes_the_memory_of_the_weights(tmp_path: Path) -> None:
    path, size = str(tmp_path / "model.keras"), 4000
    keras.Sequential([keras.Input((size,)), keras.layers.Dense(size)]).save(path)
    process = psutil.Process()
    before = process.memory_full_info().uss
    with keras_loading.loading_without_copies(least_bytes=1 << 20):
        model = keras.saving.load_model(path)
    assert process.memory_full_info().uss - before < 1.5 * 4 * size * size
    assert model.count_params() == size * (size + 1)
