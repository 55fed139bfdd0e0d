"""transformFn as a function of tensors, and as a preprocessor that makes several inputs of one column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.saving import serialization_lib
from pyspark.sql import types as T

from spark_dl import KerasClassifier, KerasEstimator, KerasModel
from spark_dl.errors import ModelError, OptionError, SavedModelError
from spark_dl.fit.spec import build_fit_spec
from spark_dl.ml.logged import logged_model
from spark_dl.ml.savable_estimator import _layers_from_text, _layers_to_text
from spark_dl.score.serving import Served, Serving
from spark_dl.train.model.serialization import from_bytes, to_bytes
from spark_dl.train.model.transform import with_transform

TEXTS = T.StructType([T.StructField("text", T.StringType()), T.StructField("label", T.IntegerType())])


def double(features: Any) -> Any:
    return keras.ops.multiply(features, 2.0)


@keras.saving.register_keras_serializable("tests")
def halved(features: Any) -> Any:
    return keras.ops.multiply(features, 0.5)


@keras.saving.register_keras_serializable("tests")
class Preprocessor(keras.layers.Layer):
    """Has the contract of keras-hub's: texts become a dict by the model's inputs; labels and weights pass through."""

    def __init__(self, words: list[str], sequence_length: int = 6, **others: Any) -> None:
        super().__init__(**others)
        self.built = True
        self.words, self.sequence_length = words, sequence_length
        self.tokens = keras.layers.TextVectorization(vocabulary=words, output_sequence_length=sequence_length)

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        ids = self.tokens(x)
        features = {"token_ids": ids, "padding_mask": keras.ops.cast(ids != 0, "bool")}
        return features if y is None else (features, y, sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "words": self.words, "sequence_length": self.sequence_length}


@keras.saving.register_keras_serializable("tests")
class Tokenizer(keras.layers.Layer):
    """Has its vocabulary in a file and not in its config, as keras-hub's have, and can't be called without."""

    def __init__(self, vocabulary: list[str] | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.built, self.vocabulary = True, vocabulary

    def call(self, texts: Any) -> Any:
        if self.vocabulary is None:
            raise ValueError("No vocabulary has been set.")
        return preprocessor_of(self.vocabulary).tokens(texts)

    def save_assets(self, directory: str) -> None:
        (Path(directory) / "vocabulary.txt").write_text("\n".join(self.vocabulary or []))

    def load_assets(self, directory: str) -> None:
        assert not serialization_lib.in_safe_mode()  # as keras-hub's ask
        self.vocabulary = (Path(directory) / "vocabulary.txt").read_text().splitlines()


@keras.saving.register_keras_serializable("tests")
class WithTokenizer(keras.layers.Layer):
    """A preprocessor that holds a tokenizer."""

    def __init__(self, tokenizer: Any, **others: Any) -> None:
        super().__init__(**others)
        self.built, self.tokenizer = True, tokenizer

    def call(self, x: Any) -> Any:
        if not hasattr(self, "packer"):  # keras-hub's aren't there before they are built
            self.packer = keras.layers.Identity()
        ids = self.packer(self.tokenizer(x))
        return {"token_ids": ids, "padding_mask": keras.ops.cast(ids != 0, "bool")}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tokenizer": keras.saving.serialize_keras_object(self.tokenizer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(keras.saving.deserialize_keras_object(config.pop("tokenizer")), **config)


def preprocessor(length: int = 6) -> Preprocessor:
    return preprocessor_of(["good", "bad", "film"], length)


def preprocessor_of(words: list[str], length: int = 6) -> Preprocessor:
    return Preprocessor(words, length)


def classifier() -> keras.Model:
    ids = keras.Input((6,), dtype="int32", name="token_ids")
    mask = keras.Input((6,), dtype="int8", name="padding_mask")
    vectors = keras.layers.Embedding(8, 4)(ids)
    kept = vectors * keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    pooled = keras.layers.GlobalAveragePooling1D()(kept)
    return keras.Model({"token_ids": ids, "padding_mask": mask}, keras.layers.Dense(2, "softmax")(pooled))


@pytest.mark.parametrize("module", ["resnet50", "mobilenet_v2", "convnext"])
def test_kerass_own_preprocessing_is_the_front_of_the_model(module: str) -> None:
    function = getattr(keras.applications, module).preprocess_input
    model = keras.Sequential([keras.Input((5, 5, 3)), keras.layers.Conv2D(2, 2), keras.layers.Flatten()])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3)).astype(np.float32)
    expected = model(function(pixels.copy()))
    joined = from_bytes(to_bytes(with_transform(model, function, {})))  # Keras's safe mode is on
    np.testing.assert_allclose(joined(pixels), expected, rtol=1e-5, atol=1e-4)
    assert with_transform(joined, function, {}) is joined  # a warm start with the same transform


def test_functions_that_are_not_of_tensors_are_refused_before_a_job() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])

    def in_numpy(features: Any) -> Any:
        return np.log(features)

    with pytest.raises(ModelError, match=r"transformFn can't be put in front.*a function of keras.ops.*in_numpy"):
        KerasModel.fromKeras(model, transformFn=in_numpy)
    with pytest.raises(ModelError, match=r"doesn't fit the model's input"):
        KerasModel.fromKeras(model, transformFn=lambda features: features[:, :2])
    with pytest.raises(OptionError, match="transformFn can't change the model's features"):
        KerasModel.fromKeras(model, transformFn=keras.layers.Rescaling)
    estimator = KerasEstimator(model=model, loss="mse", augment=double)
    with pytest.raises(OptionError, match="augment can't change the model's features"):
        build_fit_spec(estimator, TEXTS, estimator._options())
    two = KerasModel.fromKeras(model, transformFn=double).keras()
    np.testing.assert_allclose(two(np.ones((1, 4))), model(2 * np.ones((1, 4))), rtol=1e-6)


def test_a_function_is_saved_with_the_estimator_if_another_process_finds_it() -> None:
    named = _layers_from_text(_layers_to_text({"a": halved, "b": keras.layers.Rescaling(0.5)}))
    assert named["a"] is halved
    assert named["b"].scale == 0.5
    with pytest.raises(SavedModelError, match=r"transformFn can't be saved.*no lambdas"):
        _layers_to_text(lambda features: features)


def test_a_preprocessor_makes_several_inputs_of_a_text_column() -> None:
    model, texts = classifier(), ["good film", "bad", "", "unknown film film"]
    given = preprocessor()(keras.ops.convert_to_tensor(texts))
    expected = model({name: keras.ops.cast(tensor, "int32") for name, tensor in given.items()})
    made = KerasModel.fromKeras(model, TEXTS, featuresCol="text", transformFn=preprocessor(), outputFormat="vector")
    assert [(one.name, one.shape, one.dtype) for one in made._inputs] == [("features", (), "string")]
    logged = logged_model(made)
    assert logged.inputs == [("text", "string")]
    scored = Served(Serving.of_json(logged.serving), logged.keras).predict({"text": texts})
    np.testing.assert_allclose(np.stack(scored["prediction"].to_list()), expected, atol=1e-6)


def test_a_fit_and_its_warm_start_take_the_preprocessor() -> None:
    estimator = KerasClassifier(model=classifier(), featuresCol="text", transformFn=preprocessor(), numWorkers=2)
    spec = build_fit_spec(estimator, TEXTS, estimator._options())
    assert [one.name for one in spec.inputs] == ["features"]
    assert "string ()" in str(spec.plan)
    made = KerasModel.fromKeras(spec.model, TEXTS, featuresCol="text")
    again = KerasClassifier(warmStart=made, featuresCol="text", transformFn=preprocessor())
    assert [one.name for one in build_fit_spec(again, TEXTS, again._options()).inputs] == ["features"]
    other = KerasClassifier(warmStart=made, featuresCol="text", transformFn=Preprocessor(["other"], 6))
    with pytest.raises(OptionError, match="has another transform in front already"):
        build_fit_spec(other, TEXTS, other._options())


def test_a_vocabulary_that_a_layer_has_in_a_file_is_kept() -> None:
    def tokenizer(words: list[str]) -> WithTokenizer:
        return WithTokenizer(Tokenizer(words))

    texts = keras.ops.convert_to_tensor(["good film", "bad", "", "unknown film film"])
    expected = with_transform_of(preprocessor())(texts)
    made = with_transform_of(tokenizer(["good", "bad", "film"]))
    np.testing.assert_allclose(from_bytes(to_bytes(made))(texts), expected, rtol=1e-6)
    fitted = KerasModel.fromKeras(made, TEXTS, featuresCol="text")
    options = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "featuresCol": "text"}
    again = KerasClassifier(warmStart=fitted, transformFn=tokenizer(["good", "bad", "film"]), **options)
    build_fit_spec(again, TEXTS, again._options())
    other = KerasClassifier(warmStart=fitted, transformFn=tokenizer(["bad", "good", "film"]), **options)
    with pytest.raises(OptionError, match="has another transform in front already"):
        build_fit_spec(other, TEXTS, other._options())


@keras.saving.register_keras_serializable("tests")
class Task(keras.Model):
    """Builds its graph itself, as keras-hub's tasks do: another graph can't be given to it."""

    def __init__(self, width: int, **others: Any) -> None:
        given = keras.Input((3,))
        super().__init__(given, keras.layers.Dense(width)(given), **others)
        self.width = width

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "width": self.width}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


@keras.saving.register_keras_serializable("tests")
class OwnStep(Task):
    """Has a step of its own, which a functional model wouldn't take."""

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def test_a_class_that_builds_its_graph_becomes_functional_unless_it_has_its_own_steps() -> None:
    features = np.ones((2, 3), np.float32)
    task = Task(2)
    joined = with_transform(task, double, {})
    assert isinstance(joined, keras.Model)
    assert not isinstance(joined, Task)
    np.testing.assert_allclose(joined(features), task(2 * features), rtol=1e-6)
    with pytest.raises(ModelError, match="a model that can be rebuilt on what its layers give"):
        with_transform(OwnStep(2), double, {})


def with_transform_of(layer: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    return KerasModel.fromKeras(classifier(), TEXTS, featuresCol="text", transformFn=layer).keras()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (preprocessor(5), r"fit the model's input 'padding_mask'.*the shape \(6,\)"),
        (keras.layers.TextVectorization(vocabulary=["a"], output_sequence_length=6), "fit the model's input"),
        (lambda text: {"token_ids": text}, "fit the model's input"),
    ],
)
def test_a_preprocessor_that_does_not_fit_is_refused(transform: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        KerasModel.fromKeras(classifier(), featuresCol="text", transformFn=transform)
