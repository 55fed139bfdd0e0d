"""Transformers from Keras models without a fit: what is checked on the driver, and what columns they take."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pyspark.sql import types as T

from spark_dl import KerasClassifierModel, KerasModel, KerasRegressorModel, KerasTaggerModel
from spark_dl.errors import DataError, ModelError, OptionError
from spark_dl.ml.from_keras import refuse_uncompiled
from spark_dl.ml.logged import logged_model
from spark_dl.score.heads import Classification, Regression, SeveralOutputs, Tagging, TensorOutput
from spark_dl.score.serving import Served, Serving

FLOATS = T.ArrayType(T.FloatType())


def net(units: int = 3, activation: str | None = None, width: int = 4) -> keras.Model:
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(units, activation)])


def towers() -> keras.Model:
    user, item = keras.Input((3,), name="user"), keras.Input((1,), dtype="int32", name="item")
    item_vector = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(item))
    return keras.Model({"user": user, "item": item}, {"u": keras.layers.Dense(2)(user), "i": item_vector})


@pytest.mark.parametrize(
    ("kind", "model", "options", "head"),
    [
        (KerasModel, net(), {}, TensorOutput(3)),
        (KerasModel, net(1), {}, Regression()),
        (KerasModel, towers(), {"inputCols": {"user": "u", "item": "i"}}, SeveralOutputs((("i", 2), ("u", 2)))),
        (KerasRegressorModel, net(1), {}, Regression()),
        (KerasClassifierModel, net(3, "softmax"), {"topK": 2, "classLabels": ["a", "b", "c"]}, (3, 3, False)),
        (KerasClassifierModel, net(1, "sigmoid"), {}, (2, 1, False)),
        (KerasClassifierModel, net(3), {}, (3, 3, True)),
        (KerasClassifierModel, net(3, "softmax"), {"outputKind": "logits"}, (3, 3, True)),
    ],
)
def test_the_outputs_mean_what_they_mean_after_a_fit(kind: Any, model: Any, options: Any, head: Any) -> None:
    found = kind.fromKeras(model, **options)._fitted_head()
    if isinstance(head, tuple):
        assert isinstance(found, Classification)
        assert (found.classes, found.units, found.from_logits) == head
    else:
        assert found == head


class Decodes(keras.Model):
    """Decodes what it predicts, as detectors do."""

    def predict_step(self, data: Any) -> Any:
        return 2 * super().predict_step(data)


def test_a_custom_predict_step_is_warned_of() -> None:
    inputs = keras.Input((4,))
    with pytest.warns(RuntimeWarning, match="output of Decodes.call: only keras.Model.predict uses its predict_step"):
        KerasModel.fromKeras(Decodes(inputs, keras.layers.Dense(1)(inputs)))


def test_a_loss_tells_logits_from_probabilities_and_any_labels_are_fine() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.LeakyReLU()])
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    fitted = KerasClassifierModel.fromKeras(model)
    head = fitted._fitted_head()
    assert isinstance(head, Classification)
    assert head.from_logits
    assert [output.classes for output in fitted._outputs] == [None]  # labels of this loss are rows of numbers
    model.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match="isn't a probability, as the loss sparse_categorical_crossentropy takes"):
        KerasClassifierModel.fromKeras(model)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert [output.classes for output in KerasClassifierModel.fromKeras(model)._outputs] == [3]


@pytest.mark.parametrize("kind", [KerasModel, KerasClassifierModel])
def test_evaluate_takes_class_indices_or_rows_for_a_loss_of_rows(kind: Any) -> None:
    model = net(3, "softmax")
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    fitted = kind.fromKeras(model)

    def label(column: T.DataType) -> Any:
        rows = T.StructType([T.StructField("features", FLOATS), T.StructField("label", column)])
        (found,) = fitted._evaluation(rows).conversion.labels
        return found

    assert (label(T.IntegerType()).one_hot, label(T.IntegerType()).classes) == (True, 3)
    assert (label(FLOATS).one_hot, label(FLOATS).shape) == (False, (3,))


def test_evaluate_takes_a_class_for_each_position() -> None:
    words = keras.Input((4,), dtype="int32")
    model = keras.Model(words, keras.layers.Dense(3, "softmax")(keras.layers.Embedding(9, 5)(words)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert [output.classes for output in KerasModel.fromKeras(model)._outputs] == [3]


@pytest.mark.parametrize(
    ("kind", "model", "options", "error", "message"),
    [
        (KerasModel, net(), {"featureCol": "x"}, OptionError, "no option 'featureCol'.*Did you mean 'featuresCol'"),
        (KerasModel, net(), {"outputKind": "logits"}, OptionError, "no option 'outputKind'"),
        (KerasModel, net(), {"labelCols": 3}, OptionError, "labelCols can't have this value"),
        (KerasModel, net(), {"columnShapes": {"x": [4]}}, OptionError, "columnShapes gives a shape for 'x'"),
        (KerasModel, net(), {"outputLayer": "dence"}, ModelError, "no layer 'dence', which outputLayer names"),
        (KerasModel, net(), {"predictionCol": ""}, OptionError, "No output column is named"),
        (KerasModel, net(), {"schema": "features array<float>"}, OptionError, "schema can't be used"),
        (KerasModel, towers(), {}, OptionError, "The model has several inputs"),
        (KerasModel, towers(), {"inputCols": ["u", "i"]}, OptionError, "inputCols is a list"),
        (KerasModel, towers(), {"inputCols": {"user": "u"}}, OptionError, "inputCols doesn't match"),
        (KerasModel, "resnet.keras", {}, ModelError, "There is no Keras model"),
        (KerasModel, keras.Sequential([keras.layers.Dense(1)]), {}, ModelError, "isn't built"),
        (KerasRegressorModel, net(2), {}, ModelError, "isn't one of a regressor"),
        (KerasClassifierModel, towers(), {"inputCols": {"user": "u", "item": "i"}}, ModelError, "one of a classifier"),
        (KerasClassifierModel, net(3), {"outputKind": "probability"}, OptionError, "isn't a probability"),
        (KerasClassifierModel, net(3), {"classLabels": ["a", "b"]}, OptionError, "classLabels isn't as long"),
        (KerasModel, keras.Sequential([keras.Input((None, 2)), keras.layers.LSTM(2)]), {}, ModelError, "isn't fixed"),
    ],
)
def test_what_cannot_score_is_refused_at_once(kind: Any, model: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        kind.fromKeras(model, **options)


def test_the_columns_follow_from_the_inputs() -> None:
    text = keras.Sequential([keras.Input((), dtype="string"), keras.layers.TextVectorization(vocabulary=["a"])])
    cases: list[tuple[Any, dict[str, Any], dict[str, T.DataType] | None]] = [
        (net(), {}, {"features": FLOATS}),
        (net(width=2), {"inputCols": ["a", "b"]}, {"a": T.FloatType(), "b": T.FloatType()}),
        (net(width=3), {"inputCols": ["a", "b"]}, None),  # one of them is an array, and which isn't known
        (towers(), {"inputCols": {"user": "u", "item": "i"}}, {"i": T.IntegerType(), "u": FLOATS}),
        (keras.Sequential([keras.Input((5, 2)), keras.layers.LSTM(2)]), {}, {"features": T.ArrayType(FLOATS)}),
        (keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]), {}, None),
    ]
    for model, options, columns in cases:
        found = KerasModel.fromKeras(model, **options)._columns
        assert (None if found is None else {field.name: field.dataType for field in found}) == columns
    with pytest.raises(ModelError, match="output isn't fixed"):
        KerasModel.fromKeras(text)


def test_a_schema_is_checked_and_says_what_is_served() -> None:
    image = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ModelError, match=r"isn't known what columns this model takes.*schema="):
        logged_model(KerasModel.fromKeras(image))
    schema = T.StructType([T.StructField("id", T.LongType()), T.StructField("features", T.BinaryType())])
    found = logged_model(KerasModel.fromKeras(image, schema))
    assert found.inputs == [("features", "binary")]
    with pytest.raises(DataError, match="no column 'photo'"):
        KerasModel.fromKeras(image, schema, featuresCol="photo")
    with pytest.raises(DataError, match="width of the model's input"):
        KerasModel.fromKeras(net(), T.StructType([T.StructField("features", T.DoubleType())]))


@keras.saving.register_keras_serializable("tests")
class Forgets(keras.layers.Layer):
    """Doesn't save its argument."""

    def __init__(self, units: int = 2, **others: Any) -> None:
        super().__init__(**others)
        self.units = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 2))
        self.extra = [self.add_weight(shape=(1,)) for _ in range(self.units)]

    def call(self, features: Any) -> Any:
        return features @ self.kernel

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


def test_models_that_cannot_be_copied_or_take_one_batch_size_are_refused_as_in_a_fit() -> None:
    with pytest.raises(ModelError, match=r"Forgets 'forgets' can't be copied.*leaves units out"):
        KerasModel.fromKeras(keras.Sequential([keras.Input((4,)), Forgets(5)]))
    stateful = keras.Sequential([keras.Input((5, 2), batch_size=4), keras.layers.LSTM(2, stateful=True)])
    with pytest.raises(ModelError, match="keeps a state from one batch to the next"):
        KerasModel.fromKeras(stateful)


def test_scores_without_spark_are_those_of_the_model_and_the_model_stays_as_it_is() -> None:
    model = net(3, "softmax")
    model.quantize("int8")
    before = [weights.copy() for weights in model.get_weights()]
    logged = logged_model(KerasClassifierModel.fromKeras(model))
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    scored = Served(Serving.of_json(logged.serving), logged.keras).predict({"features": list(rows)})
    np.testing.assert_allclose(np.stack(scored["probability"].to_list()), model(rows), atol=1e-6)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_and_compile_options_are_kept_and_uncompiled_models_cannot_be_evaluated() -> None:
    model = net(1)
    model.compile(keras.optimizers.Adam(0.3), "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 1)), epochs=2, verbose=0)
    kept = KerasModel.fromKeras(model).keras()
    assert float(kept.optimizer.learning_rate) == pytest.approx(0.3)
    assert int(kept.optimizer.iterations) == 2
    content = KerasModel.fromKeras(net(1))._fitted_content()
    with pytest.raises(ModelError, match="can't be evaluated: it isn't compiled"):
        refuse_uncompiled(content)


def tags(kind: str = "softmax", masked: bool = True) -> keras.Model:
    words = keras.Input((None,), dtype="int32", name="words")
    found = keras.layers.Embedding(9, 3, mask_zero=masked)(words)
    return keras.Model(words, keras.layers.Dense(2, kind)(found))


def test_a_tagger_gives_a_class_for_each_position() -> None:
    fitted = KerasTaggerModel.fromKeras(tags(), columnShapes={"features": [3]}, tagLabels=["O", "B"])
    assert fitted._fitted_head() == Tagging(3, 2, from_logits=False)
    (output,) = fitted._outputs
    assert output.classes == 2
    serving, content = fitted._serving()
    found = Served(serving, content).predict({"features": [[1, 2, 3]]})
    assert np.shape(found["probability"][0]) == (3, 2)
    with pytest.raises(ModelError, match="isn't one of a tagger"):
        KerasTaggerModel.fromKeras(net())
    with pytest.raises(OptionError, match="tagLabels isn't as long"):
        KerasTaggerModel.fromKeras(tags(), columnShapes={"features": [3]}, tagLabels=["O"])


def test_columns_and_padding_are_checked_as_in_a_fit() -> None:
    ids = keras.Input((None,), dtype="int32")
    mean = keras.layers.GlobalAveragePooling1D()
    unmasked = keras.Model(ids, mean(keras.layers.Embedding(9, 3)(ids)))
    with pytest.raises(ModelError, match="depend on how far rows are padded"):
        KerasModel.fromKeras(unmasked, featuresCol="words", padding={"words": 0})
    masked = keras.Model(ids, mean(keras.layers.Embedding(9, 3, mask_zero=True)(ids)))
    assert KerasModel.fromKeras(masked, featuresCol="words", padding={"words": 0})
    for options, told in (
        ({"padding": {"wordz": 0}}, "padding names 'wordz'"),
        ({"truncate": "end"}, "truncate is set without padding"),
        ({"nullPolicy": {"zz": "drop"}}, "nullPolicy names 'zz'"),
    ):
        with pytest.raises(OptionError, match=told):
            KerasModel.fromKeras(masked, featuresCol="words", columnShapes={"words": [3]}, **options)


def test_arrays_of_strings_are_the_columns_of_inputs_of_several_strings() -> None:
    tokens = keras.Input((4,), dtype="string")
    model = keras.Model(tokens, keras.layers.StringLookup(vocabulary=["a"], output_mode="count")(tokens))
    columns = KerasModel.fromKeras(model)._columns
    assert columns == T.StructType([T.StructField("features", T.ArrayType(T.StringType()))])
