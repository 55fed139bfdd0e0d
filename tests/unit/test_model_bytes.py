"""Keras models as bytes, and what can be told of a model, a loss or a copy of it."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from pyspark.sql import types as T

from spark_dl import KerasEstimator
from spark_dl.errors import ModelError, SavedModelError
from spark_dl.fit.spec import build_fit_spec
from spark_dl.train.model.compiling import compiled_copy
from spark_dl.train.model.losses import LossFacts, loss_facts, losses_of
from spark_dl.train.model.serialization import custom_objects, from_bytes, register, to_bytes
from spark_dl.train.model.shape import fixed_shapes, shape_of


def a_model(compiled: bool = True) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()], name="digits")
    if compiled:
        model.compile(keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def described(model: keras.Model) -> Any:
    """All of a model that a user can see changed."""
    return (
        model.get_config(),
        [np.asarray(v).tolist() for v in model.variables],
        model.compiled,
        model.get_compile_config(),
        (id(model.optimizer), model.optimizer.built, model.jit_compile) if model.compiled else None,
        sorted(vars(model)),
    )


# --- bytes ---------------------------------------------------------------------------------------------------


def test_bytes_keep_weights_compile_options_and_the_optimizers_state() -> None:
    model = a_model()
    model.fit(np.ones((8, 4), "float32"), np.zeros(8), verbose=0)
    loaded = from_bytes(to_bytes(model))
    for mine, expected in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(expected))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    assert loaded.get_compile_config() == model.get_compile_config()
    assert int(loaded.optimizer.iterations.numpy()) == 1


@pytest.mark.parametrize("compiled", [True, False])
def test_saving_and_copying_leave_the_users_model_as_it_was(compiled: bool) -> None:
    model = a_model(compiled)
    before = described(model)
    to_bytes(model)
    compiled_copy(model, "sgd", "sparse_categorical_crossentropy", ["accuracy"])
    assert described(model) == before


def test_a_model_may_be_loaded_without_its_compile_options() -> None:
    assert not from_bytes(to_bytes(a_model()), compiled=False).compiled


def test_what_is_registered_and_not_used_stays_behind() -> None:
    @keras.saving.register_keras_serializable("tests")
    class Used(keras.layers.Layer):
        pass

    @keras.saving.register_keras_serializable("tests")
    class Unused(keras.layers.Layer):
        pass

    model = keras.Sequential([keras.Input((1,)), Used(), keras.layers.Dense(1)])
    assert set(custom_objects(model)) == {"tests>Used", "Used"}


def test_custom_objects_are_found_by_the_name_they_are_given() -> None:
    class Doubling(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return 2 * inputs

    content = to_bytes(keras.Sequential([keras.Input((1,)), Doubling()]))
    loaded = from_bytes(content, {"Doubling": Doubling})
    assert loaded(np.array([[3.0]], "float32")).numpy().tolist() == [[6.0]]
    with pytest.raises(SavedModelError, match="register_keras_serializable"):
        from_bytes(content)


def edited(content: bytes, name: str, change: Any) -> bytes:
    """A `.keras` archive with one member changed; None removes it."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(written, "w") as target:
        for member in source.namelist():
            held = source.read(member)
            held = change(held) if member == name else held
            if held is not None:
                target.writestr(member, held)
    return written.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        lambda content: content[: len(content) // 2],
        lambda content: edited(content, "config.json", lambda held: held[:-10]),
        lambda content: edited(content, "config.json", lambda held: b"{}"),
        lambda content: edited(content, "config.json", lambda held: None),
        lambda content: edited(content, "model.weights.h5", lambda held: held[:100]),
        lambda content: edited(content, "model.weights.h5", lambda held: None),
        lambda content: edited(content, "config.json", lambda held: held.replace(b'"Dense"', b'"Sparse"')),
    ],
)
def test_damaged_bytes_are_one_kind_of_error(damage: Any) -> None:
    with pytest.raises(SavedModelError, match="Keras can't load the model") as caught:
        from_bytes(damage(to_bytes(a_model())))
    assert isinstance(caught.value, ValueError)
    assert "Received:" in str(caught.value)


def reworked(content: bytes, change: Callable[[h5py.File], None]) -> bytes:
    """An archive whose weights' file is changed."""

    def rewrite(held: bytes) -> bytes:
        file = io.BytesIO(held)
        with h5py.File(file, "r+") as weights:
            change(weights)
        return file.getvalue()

    return edited(content, "model.weights.h5", rewrite)


def a_kernel(weights: h5py.File) -> tuple[h5py.Group, str]:
    names: list[str] = []
    weights.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    parent, _, name = next(name for name in names if name.startswith("layers")).rpartition("/")
    return weights[parent], name


def put_an_external_link(weights: h5py.File) -> None:
    group, name = a_kernel(weights)
    del group[name]
    group[name] = h5py.ExternalLink("/etc/passwd", "x")


def put_a_soft_link(weights: h5py.File) -> None:
    group, name = a_kernel(weights)
    del group[name]
    group[name] = h5py.SoftLink("/x")


def put_elsewhere(weights: h5py.File) -> None:
    group, name = a_kernel(weights)
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape, "float32", external=[("/etc/passwd", 0, 1 << 10)])


def put_a_bomb(weights: h5py.File) -> None:
    group, name = a_kernel(weights)
    del group[name]
    group.create_dataset(name, (1 << 20, 1 << 10), "float32", chunks=(1 << 10, 1 << 10), compression="gzip")


def put_a_maze(weights: h5py.File) -> None:
    """Two ways from each group to the next: 2^60 in all."""
    groups = [weights.create_group(f"maze/{index}") for index in range(60)]
    for one, following in itertools.pairwise(groups):
        one["left"] = one["right"] = following


def test_a_maze_of_groups_is_walked_once() -> None:
    model = from_bytes(reworked(to_bytes(a_model()), put_a_maze))
    assert model.count_params() == 15


def with_member(content: bytes, name: str, held: bytes) -> bytes:
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, held)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: with_member(c, "../../outside", b"x"), "outside of the archive's directory: '../../outside'"),
        (lambda c: with_member(c, "/tmp/outside", b"x"), "outside of the archive's directory"),
        (lambda c: with_member(c, "assets/..\\..\\outside", b"x"), "outside of the archive's directory"),
        (lambda c: with_member(c, "assets/bomb", bytes(257 << 20)), r"\d+ bytes that unpack to 269\d+"),
        (lambda c: reworked(c, put_a_bomb), "weights that unpack to 4294\\d+ bytes"),
        (lambda c: reworked(c, put_elsewhere), "weights that lie in another file"),
        (lambda c: reworked(c, put_an_external_link), "weights that are a link"),
        (lambda c: reworked(c, put_a_soft_link), "weights that are a link"),
    ],
    ids=["above", "absolute", "backslashes", "zip bomb", "hdf5 bomb", "external data", "external link", "soft link"],
)
def test_a_hostile_archive_is_refused_before_keras_opens_it(change: Callable[[bytes], bytes], told: str) -> None:
    with pytest.raises(SavedModelError, match=told):
        from_bytes(change(to_bytes(a_model())))


def test_a_lambda_layer_is_refused_and_does_not_run() -> None:
    ran: list[int] = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: (ran.append(1), x)[1])])
    content = to_bytes(model)
    ran.clear()
    with pytest.raises(SavedModelError, match="Lambda"):
        from_bytes(content)
    assert ran == []


def test_a_config_that_names_a_function_of_python_is_refused() -> None:
    def call_os(held: bytes) -> bytes:
        config = json.loads(held)
        layer = config["config"]["layers"][1]
        layer.update(module="os", class_name="system", registered_name="system", config={"command": "true"})
        return json.dumps(config).encode()

    with pytest.raises(SavedModelError):
        from_bytes(edited(to_bytes(a_model()), "config.json", call_os))


# --- shapes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "activation"),
    [
        (lambda: keras.layers.Softmax(), "softmax"),
        (lambda: keras.layers.Dense(3, activation="sigmoid"), "sigmoid"),
        (lambda: keras.layers.Dense(3), "linear"),
        (lambda: keras.layers.Dropout(0.1), ""),
    ],
)
def test_the_shape_of_a_model_tells_rows_and_the_last_activation(last: Any, activation: str) -> None:
    model = keras.Sequential([keras.Input((2, 4), dtype="float32"), keras.layers.Dense(3), last()])
    shape = shape_of(model)
    ((given,), (output,)) = shape.inputs, shape.outputs
    assert (given.shape, given.dtype, output.shape) == ((2, 4), "float32", (2, 3))
    assert output.activation == activation


def test_integer_inputs_and_functional_models_are_known() -> None:
    inputs = keras.Input((), dtype="int32")
    shape = shape_of(keras.Model(inputs, keras.layers.Embedding(5, 2)(inputs)))
    assert [(one.shape, one.dtype) for one in shape.inputs] == [((), "int32")]
    assert [one.shape for one in shape.outputs] == [(2,)]


class Subclassed(keras.Model):
    """Without symbolic inputs."""

    def __init__(self, named: bool = False, **others: Any) -> None:
        super().__init__(**others)
        self.named = named
        self.dense = keras.layers.Dense(2)

    def call(self, inputs: Any) -> Any:
        return {"one": self.dense(inputs["a"]), "two": inputs["b"]} if self.named else self.dense(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "named": self.named}


def called(model: keras.Model, *given: Any) -> keras.Model:
    model(*given)
    return model


def both() -> tuple[Any, Any]:
    return keras.Input((3,), name="left"), keras.Input((), dtype="int32", name="right")


def heads(*inputs: Any) -> tuple[Any, Any]:
    joined = keras.layers.Concatenate()([inputs[0], keras.layers.Embedding(5, 2)(inputs[1])])
    return keras.layers.Dense(1, name="price")(joined), keras.layers.Dense(4, "softmax", name="kind")(joined)


@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [
        (
            lambda left, right: keras.Model([left, right], list(heads(left, right))),
            [("left", (3,), "float32"), ("right", (), "int32")],
            [("price", (1,), "linear"), ("kind", (4,), "softmax")],
        ),
        (
            # Dicts go by their keys, in the order of these.
            lambda left, right: keras.Model(
                {"z": left, "a": right}, dict(zip(("y", "b"), heads(left, right), strict=True))
            ),
            [("a", (), "int32"), ("z", (3,), "float32")],
            [("b", (4,), "softmax"), ("y", (1,), "linear")],
        ),
        (
            lambda left, right: called(Subclassed(), np.zeros((1, 3))),
            [("input", (3,), "float32")],
            [("output_0", (2,), "")],
        ),
        (
            lambda left, right: called(Subclassed(named=True), {"a": np.zeros((1, 3)), "b": np.zeros((1, 5))}),
            [("a", (3,), "float32"), ("b", (5,), "float32")],
            [("one", (2,), ""), ("two", (5,), "")],
        ),
    ],
    ids=["lists", "dicts", "subclassed", "subclassed on a dict"],
)
def test_inputs_and_outputs_are_known_by_name(make: Any, inputs: Any, outputs: Any) -> None:
    shape = shape_of(make(*both()))
    assert [(one.name, one.shape, one.dtype) for one in shape.inputs] == inputs
    assert [(one.name, one.shape, one.activation) for one in shape.outputs] == outputs


def open_model() -> keras.Model:
    steps = keras.Input((None, 2), name="steps")
    return keras.Model(steps, keras.layers.Dense(3)(steps))


def test_what_a_model_leaves_open_is_filled_in() -> None:
    model = open_model()
    shape = fixed_shapes(model, shape_of(model), {"steps": (7, 2)})
    assert (shape.inputs[0].shape, shape.outputs[0].shape) == ((7, 2), (7, 3))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "'steps' isn't fixed.*(None, 2).*columnShapes"),
        ({"steps": (7, 3)}, "doesn't take the shape in columnShapes.*(None, 2).*(7, 3)"),
        ({"steps": (7,)}, "doesn't take the shape"),
    ],
)
def test_a_shape_that_is_open_or_does_not_fit_is_refused(given: Any, told: str) -> None:
    model = open_model()
    with pytest.raises(ModelError, match=told.replace("(", r"\(").replace(")", r"\)")):
        fixed_shapes(model, shape_of(model), given)


def nested_inputs() -> keras.Model:
    inputs = {"a": [keras.Input((1,)), keras.Input((1,))]}
    return keras.Model(inputs, keras.layers.Add()(inputs["a"]))


def one_head_twice() -> keras.Model:
    inputs, dense = keras.Input((1,)), keras.layers.Dense(1, name="head")
    return keras.Model(inputs, [dense(inputs), dense(keras.ops.negative(inputs))])


class WithoutCall(keras.Model):
    """As in Keras's example of a variational autoencoder."""


class Sums(keras.Model):
    def call(self, inputs: Any) -> Any:
        return sum(keras.tree.flatten(inputs))


def without_call() -> keras.Model:
    return WithoutCall()


def summing(shapes: Any) -> keras.Model:
    model = Sums()
    model(keras.tree.map_shape_structure(lambda shape: np.zeros((1, *shape[1:])), shapes))
    return model


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: None, "no Keras model to train.*received: None"),
        (lambda: "model.keras", "no Keras model to train.*received: 'model.keras' .str."),
        (lambda: keras.Sequential([keras.layers.Dense(1)]), "isn't built.*keras.Input"),
        (lambda: Subclassed(), "isn't built.*an unbuilt Subclassed"),
        (without_call, "isn't built.*WithoutCall, a class without call.*Add call to the class"),
        (lambda: summing([(None, 2)] * 2), r"isn't built.*built for .*a dict of tensors by name"),
        (lambda: summing({"one": (None, 2)}), r"isn't built.*built for .*the tensor itself for one input"),
        (nested_inputs, "nested.*a.0.*a.1"),
        (one_head_twice, "have the same name.*head, head"),
        (lambda: keras.Sequential([keras.Input((1,), dtype="complex64"), keras.layers.Flatten()]), "dtype complex64"),
    ],
)
def test_a_model_that_columns_can_not_feed_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ModelError, match=f"(?i){told}"):
        shape_of(make())


class Scaled(keras.layers.Layer):
    """A layer whose factors are NumPy's numbers, set after it was made."""

    factor: Any = 1.0
    steps: Any = 1

    def call(self, inputs: Any) -> Any:
        return inputs * float(self.factor) * int(self.steps)


def test_numbers_of_numpy_that_a_layer_holds_are_kept() -> None:
    layer = Scaled()
    layer.factor, layer.steps = np.float32(0.25), np.int64(3)
    model = keras.Sequential([keras.Input((2,)), layer])
    copy = from_bytes(to_bytes(model), {"Scaled": Scaled})
    assert (copy.layers[0].factor, copy.layers[0].steps) == (0.25, 3)
    np.testing.assert_array_equal(copy(np.ones((1, 2))), model(np.ones((1, 2))))


class TwoOutputs(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = keras.layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs), inputs


def test_labels_cannot_be_matched_to_outputs_in_a_tuple() -> None:
    model = TwoOutputs()
    model(np.zeros((1, 2), "float32"))
    names = [one.name for one in shape_of(model).outputs]
    estimator = KerasEstimator(model=model, loss="mse", labelCols=dict.fromkeys(names, "y"), optimizer="sgd")
    rows = T.StructType([T.StructField("features", T.ArrayType(T.FloatType())), T.StructField("y", T.FloatType())])
    with pytest.raises(ModelError, match=r"outputs have no names.*TwoOutputs, whose call returns 2 outputs.*a dict"):
        build_fit_spec(estimator, rows, estimator._options())


# --- losses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "name", "from_logits"),
    [
        ("mse", "mean_squared_error", False),
        ("sparse_categorical_crossentropy", "sparse_categorical_crossentropy", False),
        (lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True), "sparse_categorical_crossentropy", True),
        (lambda: keras.losses.BinaryCrossentropy(), "binary_crossentropy", False),
        (lambda: keras.losses.hinge, "hinge", False),
        (lambda: keras.losses.MeanSquaredError(reduction="sum"), "mean_squared_error", False),
    ],
)
def test_a_loss_tells_its_name_and_whether_it_takes_logits(loss: Any, name: str, from_logits: bool) -> None:
    facts = loss_facts(loss if isinstance(loss, str) else loss())
    assert (facts.name, facts.from_logits) == (name, from_logits)


def test_a_loss_tells_its_reduction() -> None:
    assert loss_facts(keras.losses.MeanSquaredError(reduction="sum")).reduction == "sum"
    assert loss_facts("mse") == LossFacts("mean_squared_error", False, "sum_over_batch_size")


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        ("mse", ["mean_squared_error"] * 2),
        (["mse", "mae"], ["mean_squared_error", "mean_absolute_error"]),
        ({"kind": "mae", "price": "mse"}, ["mean_squared_error", "mean_absolute_error"]),
    ],
)
def test_each_output_has_a_loss(loss: Any, names: list[str]) -> None:
    inputs = both()
    shape = shape_of(keras.Model(inputs, list(heads(*inputs))))
    assert [facts.name for facts in losses_of(loss, shape)] == names


def test_weights_of_losses_are_matched_by_name() -> None:
    inputs = both()
    model = keras.Model(inputs, list(heads(*inputs)))
    for loss in (["mse", "mae"], {"price": "mse", "kind": "mae"}):
        for weights in ([1.0, 10.0], {"price": 1.0, "kind": 10.0}):
            copy = compiled_copy(model, None, loss, None, weights)
            assert copy.get_compile_config()["loss_weights"] == {"price": 1.0, "kind": 10.0}
            assert set(copy.loss) == {"price", "kind"}
    with pytest.raises(ModelError, match=r"takes a weight of its loss.*price, kind"):
        compiled_copy(model, None, "mse", None, {"prise": 1.0, "kind": 10.0})


@pytest.mark.parametrize("loss", [["mse"], {"price": "mse"}, {"price": "mse", "kind": "mae", "other": "mae"}])
def test_an_output_without_a_loss_is_refused(loss: Any) -> None:
    inputs = both()
    shape = shape_of(keras.Model(inputs, list(heads(*inputs))))
    with pytest.raises(ModelError, match=r"Each output of the model takes a loss.*price, kind"):
        losses_of(loss, shape)


@pytest.mark.parametrize("loss", ["squares", ["mse", "mae"], {"a": "mse"}, 3, None])
def test_what_is_not_one_loss_is_refused(loss: Any) -> None:
    with pytest.raises(ModelError, match="The loss can't be used"):
        loss_facts(loss)


# --- compiled copies -----------------------------------------------------------------------------------------


def test_a_copy_without_changes_is_compiled_as_the_model_was() -> None:
    model = a_model()
    copy = compiled_copy(model, None, None, None)
    assert copy is not model
    assert copy.get_compile_config() == model.get_compile_config()


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("sparse_top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy"),
        pytest.param(
            lambda: keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2"),
            "top2",
        ),
    ],
)
def test_what_is_given_replaces_what_was_compiled_and_the_rest_stays(metric: Any, name: str) -> None:
    model = a_model()
    model.compile(
        keras.optimizers.Adam(0.03),
        keras.losses.SparseCategoricalCrossentropy(ignore_class=1),
        metrics=[metric if isinstance(metric, str) else metric()],
        weighted_metrics=["accuracy"],
    )
    copy = compiled_copy(model, keras.optimizers.SGD(0.5, momentum=0.9), None, None)
    assert type(copy.optimizer) is keras.optimizers.SGD
    assert copy.loss.ignore_class == 1
    logs = copy.evaluate(np.ones((4, 4), "float32"), np.zeros(4), sample_weight=np.ones(4), verbose=0, return_dict=True)
    assert logs.keys() == {"loss", name, "accuracy"}


def test_a_new_loss_keeps_the_models_optimizer() -> None:
    model = a_model()
    other = compiled_copy(model, None, "sparse_categorical_crossentropy", ["accuracy"])
    assert float(other.optimizer.learning_rate.numpy()) == pytest.approx(0.03)
    assert loss_facts(other.loss).name == "sparse_categorical_crossentropy"


def test_an_uncompiled_model_with_a_loss_gets_adam() -> None:
    copy = compiled_copy(a_model(compiled=False), None, "sparse_categorical_crossentropy", None)
    assert type(copy.optimizer) is keras.optimizers.Adam


def test_given_objects_are_copied_and_never_used() -> None:
    optimizer, loss = keras.optimizers.Adam(0.5, clipnorm=2.0), keras.losses.SparseCategoricalCrossentropy()
    metric = keras.metrics.SparseCategoricalAccuracy(name="hits")
    copy = compiled_copy(a_model(compiled=False), optimizer, loss, [metric])
    copy.fit(np.ones((4, 4), "float32"), np.zeros(4), verbose=0)
    assert not optimizer.built
    assert float(metric.count.numpy()) == 0
    assert copy.optimizer is not optimizer
    assert copy.optimizer.get_config() == optimizer.get_config()
    assert copy.loss is not loss
    assert "hits" in copy.get_metrics_result()


def test_a_function_may_be_a_loss_or_a_metric() -> None:
    def halved(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(y_pred, axis=-1) / 2

    copy = compiled_copy(a_model(compiled=False), "sgd", halved, [halved])
    assert copy.evaluate(np.ones((4, 4), "float32"), np.zeros(4), verbose=0)[0] == pytest.approx(1 / 6)


def test_a_model_without_a_loss_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="The model 'digits' has no loss"):
        compiled_copy(a_model(compiled=False), "adam", None, None)


def test_what_a_frozen_layer_holds_stays_frozen_with_the_optimizers_state() -> None:
    """Keras itself forgets it of what a layer makes as it is built."""
    x = keras.Input((3, 4))
    attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
    outputs = keras.layers.Dense(1)(attention(x, x))
    attention.trainable = False
    model = keras.Model(x, outputs)
    model.compile("adam", "mse")
    features = np.random.default_rng(0).normal(size=(8, 3, 4)).astype(np.float32)
    model.fit(features, np.ones((8, 3, 1)), verbose=0)
    kept = [np.array(weights) for weights in attention.get_weights()]
    copy = from_bytes(to_bytes(model))
    assert [v.path for v in copy.trainable_variables] == [v.path for v in model.trainable_variables]
    for ours, theirs in zip(copy.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    for one in (copy, model):
        one.fit(features, np.ones((8, 3, 1)), batch_size=8, verbose=0)
    for ours, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    for before, after in zip(kept, copy.get_layer("attention").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_is_registered_elsewhere_is_saved_by_the_name_that_it_has_there() -> None:
    class Elsewhere(keras.layers.Layer):
        pass

    def bare() -> None:
        pass

    register({"there>Elsewhere": Elsewhere, "Elsewhere": Elsewhere, "bare": bare})
    assert keras.saving.get_registered_name(Elsewhere) == "there>Elsewhere"
    assert keras.saving.get_registered_object("there>Elsewhere") is Elsewhere
    assert keras.saving.get_registered_name(bare) == "bare"


# --- configs of the user's layers ----------------------------------------------------------------------------


class Gate(keras.layers.Layer):
    """Takes its own arguments alone, as the layers of Keras's examples do; Keras itself doesn't load it again."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.linear = keras.layers.Dense(units)

    def call(self, inputs: Any) -> Any:
        return self.linear(inputs)


class Block(keras.layers.Layer):
    def __init__(self, units: int, rate: float = 0.5) -> None:
        super().__init__()
        self.gates = [Gate(units), Gate(units)]
        self.rate = rate

    def call(self, inputs: Any) -> Any:
        return self.gates[0](inputs) + self.rate * self.gates[1](inputs)


def test_layers_that_take_their_own_arguments_alone_are_copied() -> None:
    model = keras.Sequential([keras.Input((4,)), Block(3), Block(2, 0.25)])
    model.layers[0].trainable = False
    model.layers[1].gates[1].trainable = False
    copy = compiled_copy(model, "sgd", "mse", None)
    given = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(copy(given), model(given))
    flags = [[layer.trainable, *(gate.trainable for gate in layer.gates)] for layer in copy.layers]
    assert flags == [[False, False, False], [True, True, False]]
