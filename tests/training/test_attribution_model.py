"""Integrated gradients: complete, exact where the model is linear, and equal to a reference in NumPy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from spark_dl import KerasModel
from spark_dl.errors import ModelError
from spark_dl.explain import IntegratedGradients
from spark_dl.explain.attribution_model import AttributionModel
from spark_dl.train.model.serialization import from_bytes, to_bytes

RANDOM = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(3)


def numeric(units: int = 3, activation: str = "softmax") -> keras.Model:
    return keras.Sequential([keras.Input((4,), name="x"), L.Dense(16, "tanh"), L.Dense(units, activation)])


def attributions(model: AttributionModel, inputs: Any) -> list[np.ndarray]:
    """In a graph, as scoring calls it."""
    call = tf.function(lambda given: model(given, training=False), autograph=False)
    return [one.numpy() for one in call(keras.tree.map_structure(tf.constant, inputs))]


def test_a_linear_models_attributions_are_weights_times_differences() -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(1)])
    x = RANDOM.normal(size=(6, 4)).astype("float32")
    (found,) = attributions(AttributionModel(model, steps=2), x)
    np.testing.assert_allclose(found, x * model.layers[-1].kernel.numpy()[:, 0], 1e-5, 1e-6)


@pytest.mark.parametrize("target", [None, 0, 2])
@pytest.mark.parametrize("baseline", [0.0, -1.5])
def test_attributions_sum_to_the_difference_of_the_outputs(target: int | None, baseline: float) -> None:
    model = numeric()
    x = RANDOM.normal(size=(20, 4)).astype("float32")
    (found,) = attributions(AttributionModel(model, target=target, baselines={"x": baseline}), x)
    scores, start = model(x).numpy(), model(np.full((1, 4), baseline, "float32")).numpy()[0]
    units = scores.argmax(1) if target is None else np.full(20, target)
    np.testing.assert_allclose(found.sum(1), scores[np.arange(20), units] - start[units], 0.01, 1e-4)


def test_they_are_those_of_a_reference_in_numpy() -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(5, "tanh"), L.Dense(1, "sigmoid")])
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers)
    x = RANDOM.normal(size=(7, 3)).astype("float32")
    mean = np.zeros_like(x)
    for alpha in (np.arange(2000) + 0.5) / 2000:
        hidden = np.tanh(alpha * x @ w1 + b1)
        out = 1 / (1 + np.exp(-(hidden @ w2 + b2)))
        mean += (out * (1 - out) * ((1 - hidden**2) * w2[:, 0])) @ w1.T / 2000
    (found,) = attributions(AttributionModel(model), x)
    np.testing.assert_allclose(found, x * mean, 1e-3, 1e-5)


def test_images_have_an_attribution_for_each_pixel() -> None:
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), L.Conv2D(4, 3, activation="swish"), L.GlobalAveragePooling2D(), L.Dense(2, "softmax")]
    )
    x = RANDOM.uniform(size=(5, 6, 6, 1)).astype("float32")
    (found,) = attributions(AttributionModel(model, target=1), x)
    assert found.shape == x.shape
    expected = model(x).numpy()[:, 1] - model(np.zeros((1, 6, 6, 1))).numpy()[0, 1]
    np.testing.assert_allclose(found.sum((1, 2, 3)), expected, 0.01, 1e-5)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_embedded_indices_have_one_attribution_each(dtype: str) -> None:
    """Padding has none, and also recurrent layers under a mask are complete."""
    ids = keras.Input((5,), dtype=dtype)
    out = L.Dense(1)(L.LSTM(4)(L.Embedding(9, 3, mask_zero=True)(ids)))
    model = keras.Model(ids, out)
    x = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]], dtype)
    (found,) = attributions(AttributionModel(model), x)
    assert found.shape == (2, 5)
    np.testing.assert_array_equal(found[0, 3:], 0)
    embedding = model.layers[1].embeddings.numpy()
    rest = keras.Sequential(model.layers[2:])
    mask = tf.constant(x != 0)
    at_start = rest.layers[1](rest.layers[0](tf.fill((2, 5, 3), 0.0) + embedding[0], mask=mask)).numpy()[:, 0]
    np.testing.assert_allclose(found.sum(1), model(x).numpy()[:, 0] - at_start, 0.01, 1e-5)


def test_texts_are_explained_by_their_tokens() -> None:
    words = L.TextVectorization(vocabulary=["good", "bad", "film"], output_sequence_length=4)
    text = keras.Input((), dtype="string")
    model = keras.Model(text, L.Dense(1)(L.GlobalAveragePooling1D()(L.Embedding(5, 3)(words(text)))))
    (found,) = attributions(AttributionModel(model), np.array(["good film", "bad"], object))
    assert found.shape == (2, 4)
    assert np.abs(found[0, :2]).min() > 0


def test_several_inputs_have_their_own_attributions_and_a_saved_model_gives_the_same() -> None:
    sizes, kind, again = keras.Input((2,), name="sizes"), keras.Input((1,), dtype="int32", name="kind"), L.Flatten()
    embedded = again(L.Embedding(4, 3)(kind))
    model = keras.Model([sizes, kind], L.Dense(2, "softmax")(L.Dense(6, "tanh")(L.Concatenate()([sizes, embedded]))))
    explained = AttributionModel(model, target=0, baselines={"sizes": 0.5, "kind": 3})
    assert explained.embedded == ["kind"]
    given = {"sizes": RANDOM.normal(size=(6, 2)).astype("float32"), "kind": np.arange(6, dtype="int32")[:, None] % 4}
    found = attributions(explained, given)
    assert [one.shape for one in found] == [(6, 2), (6, 1)]
    start = model([np.full((1, 2), 0.5, "float32"), np.full((1, 1), 3, "int32")]).numpy()[0, 0]
    total = found[0].sum(1) + found[1].sum(1)
    np.testing.assert_allclose(total, model(list(given.values())).numpy()[:, 0] - start, 0.01, 1e-5)
    np.testing.assert_array_equal(found[1][3], 0)
    loaded = from_bytes(to_bytes(explained))
    for mine, theirs in zip(attributions(loaded, given), found, strict=True):
        np.testing.assert_allclose(mine, theirs, 1e-5, 1e-7)


def text_counts() -> keras.Model:
    text = keras.Input((), dtype="string", name="text")
    return keras.Model(text, L.Dense(1)(L.TextVectorization(vocabulary=["a"], output_mode="count")(text)))


def steps_of_numbers() -> keras.Model:
    return keras.Sequential(
        [keras.Input((2,), name="n"), L.Discretization([0.0], output_mode="one_hot"), L.Flatten(), L.Dense(1)]
    )


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (text_counts, {}, "input 'text' aren't defined.*dtype string"),
        (lambda: numeric(3), {"target": 3}, "no output unit 3.*from 0 to 2"),
        (lambda: numeric(3), {"target": -1}, "no output unit -1"),
        (lambda: numeric(3), {"baselines": {"y": 1.0}}, "no input 'y'.*one of x"),
        (lambda: keras.Sequential([keras.Input((3, 2)), L.Dense(4)]), {}, "isn't one number.*shape"),
    ],
)
def test_what_has_no_attributions_is_refused(make: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=f"(?s){told}"):
        AttributionModel(make(), **options)


def test_a_layer_without_gradient_is_named_by_its_input() -> None:
    with pytest.raises(ModelError, match=r"(?s)No gradient.*Discretization"):
        attributions(AttributionModel(steps_of_numbers()), np.ones((1, 2), "float32"))


def test_an_input_that_the_output_does_not_depend_on_has_zeros() -> None:
    number, word, other = keras.Input((2,), name="n"), keras.Input((1,), dtype="int32", name="w"), keras.Input((3,))
    one = L.Dense(1, name="one")(number)
    both = L.Dense(1, name="both")(L.Concatenate()([number, L.Flatten()(L.Embedding(4, 2)(word)), other]))
    model = keras.Model([number, word, other], [one, both])
    rows = [np.ones((2, 2), "float32"), np.ones((2, 1), "int32"), np.ones((2, 3), "float32")]
    found = attributions(AttributionModel(model, output=0, steps=2), rows)
    assert found[0].all()
    assert not found[1].any()
    assert not found[2].any()
    assert all(part.all() for part in attributions(AttributionModel(model, output=1, steps=2), rows))


def test_inputs_of_open_length_have_the_length_of_their_columns() -> None:
    ids = keras.Input((None,), dtype="int32", name="ids")
    model = keras.Model(ids, L.Dense(1)(L.GlobalAveragePooling1D()(L.Embedding(9, 3, mask_zero=True)(ids))))
    fitted = KerasModel.fromKeras(model, featuresCol="w", columnShapes={"w": [5]})
    assert IntegratedGradients(fitted)._shapes == {"ids": (5,)}
    with pytest.raises(ModelError, match="attributions of the input 'ids' have no fixed shape"):
        IntegratedGradients(KerasModel.fromKeras(model, featuresCol="w", padding={"w": 0}))
