"""A transform of the features that becomes the front of the model: the same numbers, names, options and classes."""

from __future__ import annotations

import base64
from typing import Any

import keras
import numpy as np
import pytest

from spark_dl.errors import ModelError, OptionError, SavedModelError
from spark_dl.ml.savable_estimator import _layers_from_text, _layers_to_text
from spark_dl.train.model import compiling
from spark_dl.train.model import serialization as model_bytes
from spark_dl.train.model import shape as model_shape
from spark_dl.train.model.transform import with_transform

RANDOM = np.random.default_rng(3)
FEATURES = RANDOM.normal(5.0, 3.0, (64, 4)).astype(np.float32)


@keras.saving.register_keras_serializable("tests")
class OwnStep(keras.Model):
    """A functional model with a step of its own."""

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.dense = keras.layers.Dense(1)

    def call(self, features: Any) -> Any:
        return self.dense(features)


@keras.saving.register_keras_serializable("tests")
class Composite(keras.layers.Layer):
    """Makes its layers as it is built."""

    def __init__(self, noise: float = 0.0, **others: Any) -> None:
        super().__init__(**others)
        self.noise = noise

    def build(self, shape: Any) -> None:
        self.inner = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(self.noise)]
        for layer in self.inner:
            layer.build(shape)

    def call(self, features: Any, training: bool = False) -> Any:
        dense, norm, dropout = self.inner
        return dropout(norm(dense(features), training=training), training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "noise": self.noise}


@keras.saving.register_keras_serializable("tests")
class Forgetful(keras.layers.Layer):
    """Doesn't save whether it is frozen."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(4, 4), name="kernel")

    def call(self, features: Any) -> Any:
        return features @ self.kernel

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@keras.saving.register_keras_serializable("tests")
class WithArgument(keras.Model):
    """A functional model with an argument of its own."""

    def __init__(self, *args: Any, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = temperature

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}


def squared(features: Any) -> Any:
    return features * features


def normalization() -> keras.layers.Normalization:
    layer = keras.layers.Normalization(name="norm")
    layer.adapt(FEATURES)
    return layer


def sequential() -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(3, "tanh", name="hidden"), keras.layers.Dense(2, "softmax", name="out")]
    return keras.Sequential([keras.Input((4,), name="x"), *layers], name="small")


def functional(kind: type[keras.Model] = keras.Model) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(3, "tanh", name="hidden")(x)
    outputs = [keras.layers.Dense(1, name="one")(hidden), keras.layers.Dense(2, name="two")(hidden)]
    return kind(inputs=x, outputs=outputs, name="small")


def two_inputs(as_dict: bool) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = {name: keras.Input((4,), name=name) for name in ("b", "a")}
    joined = keras.layers.Subtract()([inputs["a"], inputs["b"]])
    return keras.Model(inputs if as_dict else list(inputs.values()), keras.layers.Dense(1, name="out")(joined))


def variables(model: keras.Model) -> list[str]:
    return [variable.path.removeprefix("small/") for variable in model.trainable_variables]


def whole_numbers() -> keras.Model:
    return keras.Sequential([keras.Input((4,), dtype="int64"), keras.layers.Embedding(9, 2), keras.layers.Flatten()])


def facts(model: keras.Model) -> tuple[Any, ...]:
    return model.get_config(), [w.tolist() for w in model.get_weights()], model.compiled, model.built


def equal(found: Any, wanted: Any) -> None:
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [sequential, functional, lambda: functional(OwnStep)])
def test_the_model_takes_the_features_as_they_are_and_keeps_names_classes_and_objects(make: Any) -> None:
    model, layer = make(), normalization()
    before, layer_before = facts(model), (layer.get_config(), layer.trainable)
    joined = with_transform(model, layer, {})
    equal(joined.predict(FEATURES, verbose=0), model.predict(layer(FEATURES), verbose=0))
    assert model_shape.shape_of(joined) == model_shape.shape_of(model)
    assert type(joined) is (OwnStep if type(model) is OwnStep else type(functional()))
    assert joined.name == "small"
    assert variables(joined) == variables(model)
    assert facts(model) == before
    assert (layer.get_config(), layer.trainable) == layer_before


def test_compile_options_and_the_optimizers_state_are_kept() -> None:
    model, layer = sequential(), normalization()
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")
    loss = keras.losses.SparseCategoricalCrossentropy(name="own")
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=[metric], weighted_metrics=["accuracy"])
    labels = np.arange(64) % 2
    model.fit(layer(FEATURES), labels, epochs=2, verbose=0)
    joined = with_transform(model, layer, {})
    for _ in range(2):
        told = model.fit(layer(FEATURES), labels, batch_size=64, verbose=0).history
        history = joined.fit(FEATURES, labels, batch_size=64, verbose=0).history
        assert {name: values[0] for name, values in history.items()} == pytest.approx(
            {name: values[0] for name, values in told.items()}, rel=1e-5
        )
    assert joined.optimizer.iterations == model.optimizer.iterations
    equal(joined.get_layer("hidden").get_weights(), model.get_layer("hidden").get_weights())


@pytest.mark.parametrize("as_dict", [True, False])
def test_one_of_several_inputs_may_have_a_transform(as_dict: bool) -> None:
    model = two_inputs(as_dict)
    joined = with_transform(model, {"a": keras.layers.Rescaling(2.0)}, {})
    shape = model_shape.shape_of(joined)
    assert shape == model_shape.shape_of(model)
    a, b = FEATURES, FEATURES[::-1].copy()
    raw, changed = ({"a": a, "b": b}, {"a": 2 * a, "b": b}) if as_dict else ([b, a], [b, 2 * a])
    equal(joined.predict(raw, verbose=0), model.predict(changed, verbose=0))


def test_a_layer_without_an_input_of_its_own_takes_the_shape_of_the_column() -> None:
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    joined = with_transform(model, keras.layers.Resizing(2, 2), {model_shape.shape_of(model).inputs[0].name: (8, 6, 1)})
    assert [one.shape for one in model_shape.shape_of(joined).inputs] == [(8, 6, 1)]
    images = RANDOM.random((3, 8, 6, 1), np.float32)
    equal(joined.predict(images, verbose=0), model.predict(keras.layers.Resizing(2, 2)(images), verbose=0))


def test_a_sequential_says_by_its_input_what_it_takes() -> None:
    words = keras.layers.TextVectorization(output_sequence_length=3)
    words.adapt(["a b c", "c d"])
    model = keras.Sequential([keras.Input((3,), dtype="int64"), keras.layers.Embedding(9, 2), keras.layers.Flatten()])
    joined = with_transform(model, keras.Sequential([keras.Input((1,), dtype="string"), words]), {})
    (taken,) = model_shape.shape_of(joined).inputs
    assert (taken.shape, taken.dtype) == ((1,), "string")
    import tensorflow as tf

    texts = tf.constant([["a d"], ["unknown c"]])
    equal(joined(texts), model(words(texts)))


def test_inner_layers_can_be_asked_for_by_their_names() -> None:
    joined = with_transform(sequential(), normalization(), {})
    content, shape = model_shape.up_to_layer(joined, "hidden")
    assert shape == (3,)
    hidden = sequential().get_layer("hidden")
    equal(model_bytes.from_bytes(content).predict(FEATURES, verbose=0), hidden(normalization()(FEATURES)))


def test_a_nested_model_is_an_inner_layer_like_others() -> None:
    nested = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="nested")
    start = keras.Input((4,))
    outer = keras.Model(start, keras.layers.Dense(1)(nested(keras.layers.Rescaling(2)(start))))
    for model in (outer, keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(2), nested])):
        content, shape = model_shape.up_to_layer(model, "nested")
        assert shape == (2,)
        equal(model_bytes.from_bytes(content).predict(FEATURES, verbose=0), nested(2 * FEATURES))


def layers_to_cut(kind: str) -> keras.Model:
    """Models whose layer "named" can't be cut out."""
    start, other = keras.Input((4,)), keras.Input((4,))
    named = keras.layers.Dense(2, name="named")
    if kind == "called twice":
        return keras.Model([start, other], keras.layers.Add()([named(start), named(other)]))
    if kind == "of several outputs":
        two = keras.Model(start, [keras.layers.Dense(2)(start), keras.layers.Dense(3)(start)], name="named")
        return keras.Model(other, keras.layers.Concatenate()(two(other)))
    if kind == "nested deeper":
        return keras.Sequential([keras.Input((4,)), keras.Sequential([keras.Input((4,)), named], name="outer")])
    model = Subclassed(name="own")
    model.build((None, 4))
    return model


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("called twice", r"can't be a column.*calls once.*\(None, 2\), \(None, 2\)"),
        ("of several outputs", r"can't be a column.*\(None, 2\), \(None, 3\)"),
        ("nested deeper", r"no layer 'named'.*It is within the layer 'outer'"),
        ("of a call of its own", r"can't be cut out of the model 'own'.*a class with a custom call"),
    ],
)
def test_layers_without_one_output_are_refused_in_one_line(kind: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_shape.up_to_layer(layers_to_cut(kind), "named")


def test_nothing_in_it_is_trained_and_nothing_differs_in_training() -> None:
    layers = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.BatchNormalization()])
    joined = with_transform(functional(), layers, {})
    assert len(joined.trainable_variables) == 6
    equal(joined(FEATURES, training=True), joined(FEATURES, training=False))
    assert layers.trainable


def test_a_layer_that_does_not_save_whether_it_is_frozen_is_frozen_all_the_same() -> None:
    joined = with_transform(functional(), Forgetful(), {})
    assert len(joined.trainable_variables) == 6


def test_mixed_precision_leaves_it_in_float32() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    big = keras.layers.Rescaling(1e-5, dtype="float32")
    compiled = compiling.compiled_copy(with_transform(model, big, {}), None, "mse", None, dtype_policy="mixed_float16")
    found = compiled.predict(np.full((1, 4), 1e6, np.float32), verbose=0)
    np.testing.assert_allclose(found, model.predict(np.full((1, 4), 10.0, np.float32), verbose=0), rtol=1e-2)
    policies = [layer.dtype_policy.name for layer in compiled.layers if isinstance(layer, keras.layers.Dense)]
    assert policies == ["mixed_float16", "float32"]


def lookup(*words: int) -> keras.layers.IntegerLookup:
    layer = keras.layers.IntegerLookup(name="lookup")
    layer.adapt(np.array(words))
    return layer


def another_normalization() -> keras.layers.Normalization:
    layer = keras.layers.Normalization(name="norm")
    layer.adapt(2 * FEATURES)
    return layer


@pytest.mark.parametrize(
    ("make", "transform", "another"),
    [
        (sequential, normalization, another_normalization),
        (sequential, lambda: keras.layers.Rescaling(2.0), lambda: keras.layers.Rescaling(3.0)),
        (
            sequential,
            lambda: keras.Sequential([keras.Input((2, 2)), keras.layers.Flatten(), keras.layers.Rescaling(2.0)]),
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(2.0)]),
        ),
        (whole_numbers, lambda: lookup(3, 4, 5, 6), lambda: lookup(3, 4, 5, 7)),
        (lambda: two_inputs(True), lambda: {"a": normalization()}, lambda: dict.fromkeys("ab", normalization())),
        (lambda: two_inputs(True), lambda: dict.fromkeys("ab", normalization()), lambda: {"a": normalization()}),
    ],
)
def test_a_model_that_has_it_already_is_left_as_it_is_and_another_is_refused(
    make: Any, transform: Any, another: Any
) -> None:
    given = transform()
    joined = with_transform(make(), given, {})
    again = model_bytes.from_bytes(model_bytes.to_bytes(joined))
    assert with_transform(again, given, {}) is again
    with pytest.raises(OptionError, match=r"has another transform in front already.*Unset transformFn"):
        with_transform(again, another(), {})


def test_a_composite_layer_is_not_trained_and_does_the_same_in_training() -> None:
    model = sequential()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(FEATURES, np.arange(64) % 2, verbose=0)
    layer = Composite()
    joined = with_transform(model, layer, {})
    for one in (joined, model_bytes.from_bytes(model_bytes.to_bytes(joined))):
        assert variables(one) == variables(model)
        assert len(one.optimizer.variables) == len(model.optimizer.variables)
        equal([np.asarray(v) for v in one.optimizer.variables], [np.asarray(v) for v in model.optimizer.variables])
        equal(one(FEATURES, training=True), one(FEATURES, training=False))


def test_arguments_of_a_models_class_are_kept() -> None:
    x = keras.Input((4,), name="x")
    model = WithArgument(inputs=x, outputs=keras.layers.Dense(1)(x), temperature=5.0)
    assert with_transform(model, keras.layers.Rescaling(2.0), {}).temperature == 5.0


def test_functions_need_not_be_registered() -> None:
    joined = with_transform(sequential(), keras.layers.Activation(squared), {})
    equal(joined(FEATURES), sequential()(squared(FEATURES)))


def test_names_of_inputs_layers_and_transforms_may_be_the_same() -> None:
    x = keras.Input((4,), name="x_in")
    model = keras.Model({"a/b": x}, keras.layers.Dense(1, name="a")(x))
    joined = with_transform(model, keras.layers.Rescaling(2.0, name="x_in"), {})
    assert model_bytes.to_bytes(joined)
    assert [one.name for one in model_shape.shape_of(joined).inputs] == ["a/b"]
    equal(joined({"a/b": FEATURES}), model({"a/b": 2 * FEATURES}))


@pytest.mark.parametrize(
    ("make", "transform", "shapes", "expected"),
    [
        (sequential, keras.layers.GaussianNoise(1.0, name="noise"), {}, r"draws random numbers.*noise.*augment"),
        (sequential, keras.layers.Reshape((2, 2)), {}, r"doesn't fit the model's input 'x'.*\(4,\).*\(2, 2\)"),
        (whole_numbers, keras.layers.Rescaling(0.5), {}, r"doesn't fit.*one tensor of int64.*Received: float32 \(4,\)"),
        (
            sequential,
            keras.layers.Rescaling(2.0),
            {"x": (3,)},
            r"doesn't fit.*Received: float32 \(3,\), from float32 \(3,\)",
        ),
        (sequential, Composite(noise=0.5, name="late"), {}, r"draws random numbers.*\(Dropout\).*augment"),
        (
            sequential,
            keras.layers.Conv2D(1, 3, name="image"),
            {},
            r"can't be put in front of the model's input 'x'.*image",
        ),
    ],
)
def test_what_can_not_be_in_front_is_one_clear_error(make: Any, transform: Any, shapes: Any, expected: str) -> None:
    with pytest.raises((ModelError, OptionError), match=rf"(?s){expected}"):
        with_transform(make(), transform, shapes)


@keras.saving.register_keras_serializable("tests")
class OwnCall(keras.Model):
    def call(self, *given: Any, **others: Any) -> Any:
        return [2 * output for output in super().call(*given, **others)]


@pytest.mark.parametrize("make", [Subclassed, lambda: functional(OwnCall)])
def test_a_model_that_is_no_graph_of_layers_is_refused(make: Any) -> None:
    model = make()
    model.build((None, 4))
    with pytest.raises(ModelError, match=r"can't be put in front of the model.*functional or Sequential.*in the model"):
        with_transform(model, keras.layers.Rescaling(2.0), {})


def test_layers_are_saved_with_what_they_have_learned() -> None:
    words = keras.layers.TextVectorization(name="words")
    words.adapt(["a b"])
    nested = keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(3.0)])
    again = _layers_from_text(_layers_to_text({"a": normalization(), "b": words, "c": nested}))
    equal(again["a"](FEATURES), normalization()(FEATURES))
    assert again["b"].get_vocabulary() == words.get_vocabulary()
    equal(again["c"](FEATURES), 3 * FEATURES)
    assert again["c"].inputs[0].shape == (None, 4)
    assert _layers_from_text(_layers_to_text(keras.layers.Rescaling(2.0))).scale == 2.0
    assert _layers_to_text(None) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no base 64!", "transformFn of the saved estimator is damaged"),
        (base64.b64encode(b"no archive").decode(), "Keras can't load the model"),
        (
            base64.b64encode(model_bytes.to_bytes(keras.Sequential([keras.Input((2,))]))).decode(),
            "is damaged.*Received: 0 layers",
        ),
    ],
    ids=["text", "bytes", "no layers"],
)
def test_damaged_layers_are_one_clear_error(text: str, expected: str) -> None:
    with pytest.raises(SavedModelError, match=expected):
        _layers_from_text(text)


def test_layers_too_large_for_metadata_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_dl.ml.savable_estimator._LARGEST_LAYERS", 1000)
    with pytest.raises(SavedModelError, match=r"too large.*at most 1,000 bytes.*part of the model"):
        _layers_to_text(normalization())
