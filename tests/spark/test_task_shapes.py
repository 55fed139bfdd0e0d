"""Nets of tasks that no other test or notebook has, through columns: where it can be, the same as in plain Keras."""

from __future__ import annotations

import io
import sys
from typing import Any

import cloudpickle
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers, ops
from PIL import Image
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier, KerasClassifierModel, KerasEstimator, KerasModel

# Ranks can't import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
ROWS = 48
# One worker and rows in their order: what plain Keras does, step by step.
AS_KERAS = {"tracking": None, "verbose": 0, "shuffle": False, "batchSize": 16, "epochs": 2}
RANDOM = np.random.default_rng(3)


def frame(spark: SparkSession, columns: dict[str, Any]) -> DataFrame:
    plain = {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in columns.items()}
    return spark.createDataFrame(pd.DataFrame(plain)).coalesce(1)


def assert_as_plain_keras(fitted: KerasModel, model: keras.Model, x: Any, y: Any, loss: str) -> None:
    """The same weights as a copy of the model that plain Keras trains on the same rows."""
    model.compile("sgd", loss)
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    for ours, plain in zip(fitted.keras().get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5)


def bert() -> keras.Model:
    """Words, segments and a mask of padding into two blocks of attention; the first position is the text's vector."""
    keras.utils.set_random_seed(1)
    words, segments = (keras.Input((6,), dtype="int32", name=name) for name in ("words", "segments"))
    mask = keras.Input((6,), dtype="bool", name="mask")
    places = layers.Embedding(6, 8)(ops.arange(6) + ops.zeros_like(words))
    hidden = layers.LayerNormalization()(layers.Embedding(20, 8)(words) + layers.Embedding(2, 8)(segments) + places)
    for _ in range(2):
        seen = layers.MultiHeadAttention(2, 4)(hidden, hidden, attention_mask=mask[:, None, :])
        hidden = layers.LayerNormalization()(hidden + seen)
        hidden = layers.LayerNormalization()(hidden + layers.Dense(8)(layers.Dense(16, "gelu")(hidden)))
    pooled = layers.Dense(8, "tanh")(hidden[:, 0])
    inputs = {"words": words, "segments": segments, "mask": mask}
    return keras.Model(inputs, layers.Dense(2, "softmax")(pooled))


def test_a_net_like_bert(spark: SparkSession) -> None:
    words = RANDOM.integers(1, 20, (ROWS, 6)) * (np.arange(6) < RANDOM.integers(2, 7, (ROWS, 1)))
    rows = {"words": words, "segments": (words % 2), "mask": words > 0}
    labels = words[:, 1] % 2
    classifier = KerasClassifier(model=bert(), optimizer="sgd", inputCols={name: name for name in rows}, **AS_KERAS)
    fitted = classifier.fit(frame(spark, {**rows, "label": labels}))
    assert_as_plain_keras(fitted, bert(), rows, labels, "sparse_categorical_crossentropy")


def photo_text_and_numbers() -> keras.Model:
    keras.utils.set_random_seed(2)
    photo, text = keras.Input((8, 8, 3), name="photo"), keras.Input((), dtype="string", name="text")
    numbers = keras.Input((2,), name="numbers")
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(photo)))
    words = layers.TextVectorization(6, output_sequence_length=3, vocabulary=["good", "bad", "film"])(text)
    read = layers.GlobalAveragePooling1D()(layers.Embedding(6, 4)(words))
    joined = layers.Concatenate()([seen, read, numbers])
    return keras.Model({"photo": photo, "text": text, "numbers": numbers}, layers.Dense(1, "sigmoid")(joined))


def test_a_photograph_a_text_and_numbers_in_one_model(spark: SparkSession) -> None:
    photos = RANDOM.integers(0, 256, (ROWS, 8, 8, 3), np.uint8)
    texts = [("a good film", "a bad film", "film")[row % 3] for row in range(ROWS)]
    numbers, labels = RANDOM.normal(size=(ROWS, 2)), np.arange(ROWS) % 2
    contents = []
    for photo in photos:
        with io.BytesIO() as file:
            Image.fromarray(photo).save(file, "png")
            contents.append(file.getvalue())
    columns = {"photo": contents, "text": texts, "price": numbers[:, 0], "age": numbers[:, 1], "label": labels}
    inputs = {"photo": "photo", "text": "text", "numbers": ["price", "age"]}
    fitted = KerasClassifier(model=photo_text_and_numbers(), optimizer="sgd", inputCols=inputs, **AS_KERAS).fit(
        frame(spark, columns)
    )
    x = {"photo": photos.astype("float32"), "text": tf.constant(texts), "numbers": numbers.astype("float32")}
    assert_as_plain_keras(fitted, photo_text_and_numbers(), x, labels[:, None], "binary_crossentropy")


def test_a_student_of_a_teachers_probabilities_is_a_classifier_again(spark: SparkSession) -> None:
    def net(units: int) -> keras.Model:
        keras.utils.set_random_seed(units)
        return keras.Sequential([keras.Input((3,)), layers.Dense(units, "relu"), layers.Dense(4, "softmax")])

    features = RANDOM.normal(size=(ROWS, 3)).astype("float32")
    rows = frame(spark, {"features": features})
    taught = KerasClassifierModel.fromKeras(net(16)).transform(rows).select("features", "probability")
    learned = KerasEstimator(model=net(4), optimizer="sgd", loss="kl_divergence", labelCol="probability", **AS_KERAS)
    fitted = learned.fit(taught)
    assert_as_plain_keras(fitted, net(4), features, net(16).predict(features, verbose=0), "kl_divergence")
    scored = KerasClassifierModel.fromKeras(fitted.keras()).transform(taught.drop("probability"))
    probabilities = np.array([row.probability.toArray() for row in scored.collect()])
    np.testing.assert_allclose(probabilities, fitted.keras().predict(features, verbose=0), atol=1e-6)


@keras.saving.register_keras_serializable("test_task_shapes")
class Sampled(layers.Layer):
    """A draw from a normal distribution, in training, with its divergence from the standard one as a loss."""

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.seed = keras.random.SeedGenerator(7)

    def call(self, mean: Any, log_variance: Any, training: bool = False) -> Any:
        self.add_loss(-5e-4 * ops.mean(1 + log_variance - mean**2 - ops.exp(log_variance)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        return mean + ops.exp(log_variance / 2) * noise if training else mean


def test_a_vae_scores_anomalies(spark: SparkSession) -> None:
    """Rows on a plane are usual, those beside it are not; the error of each row is a score for Spark's evaluators."""
    usual = RANDOM.normal(size=(400, 2)) @ np.array([[1.0, 0.5, -1.0, 0.2], [0.0, 1.0, 0.7, -0.8]])
    strange = RANDOM.normal(size=(30, 4)) * 2
    rows = frame(spark, {"features": np.concatenate([usual, strange]), "anomaly": np.arange(430) // 400})
    keras.utils.set_random_seed(3)
    given = keras.Input((4,))
    hidden = layers.Dense(16, "relu")(given)
    code = Sampled()(layers.Dense(2)(hidden), layers.Dense(2)(hidden))
    estimator = KerasEstimator(
        model=keras.Model(given, layers.Dense(4)(code)),
        optimizer=keras.optimizers.Adam(0.02),
        loss="mse",
        labelCol="features",
        errorCol="error",
        numWorkers=2,
        epochs=10,
        tracking=None,
        verbose=0,
    )
    scored = estimator.fit(rows.where("anomaly = 0")).transform(rows)
    evaluator = BinaryClassificationEvaluator(rawPredictionCol="error", labelCol="anomaly")
    assert evaluator.evaluate(scored) > 0.9
    # The same error as NumPy's, from the reconstruction.
    for row in scored.limit(5).collect():
        assert np.isclose(row.error, np.mean((np.array(row.prediction) - row.features) ** 2), rtol=1e-4)


@keras.saving.register_keras_serializable("test_task_shapes")
class Gan(keras.Model):
    """A generator and a critic, whose losses are added in its own `compute_loss`."""

    def __init__(self, generator: keras.Model, critic: keras.Model, **others: Any) -> None:
        super().__init__(**others)
        self.generator, self.critic, self.seed = generator, critic, keras.random.SeedGenerator(5)

    def call(self, rows: Any) -> Any:
        return self.critic(rows)

    def compute_loss(self, x: Any = None, *_: Any, **__: Any) -> Any:
        made = self.generator(keras.random.normal((ops.shape(x)[0], 3), seed=self.seed))
        told_apart = ops.softplus(-self.critic(x)) + ops.softplus(self.critic(ops.stop_gradient(made)))
        fooled = ops.softplus(-self.critic(made))
        return ops.mean(told_apart) + ops.mean(fooled)

    def get_config(self) -> dict[str, Any]:
        parts = {"generator": self.generator, "critic": self.critic}
        return {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Gan:
        return cls(**{name: keras.saving.deserialize_keras_object(part) for name, part in config.items()})


def test_a_gans_samples_are_a_dataframe(spark: SparkSession) -> None:
    keras.utils.set_random_seed(4)
    generator = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    gan = Gan(generator, keras.Sequential([keras.Input((2,)), layers.Dense(8, "relu"), layers.Dense(1)]))
    gan.build((None, 2))
    gan.compile("adam")
    rows = frame(spark, {"features": RANDOM.normal([3, -1], 0.3, (ROWS, 2))})
    fitted = KerasEstimator(model=gan, labelCol=None, **AS_KERAS).fit(rows)
    trained = fitted.keras().generator
    assert not np.array_equal(trained.get_weights()[0], generator.get_weights()[0])
    noise = spark.range(20).select(F.array(*(F.randn(seed) for seed in range(3))).alias("noise")).cache()
    made = KerasModel.fromKeras(trained, featuresCol="noise", predictionCol="sample").transform(noise).collect()
    expected = trained.predict(np.array([row.noise for row in made], "float32"), verbose=0)
    np.testing.assert_allclose([row["sample"] for row in made], expected, atol=1e-5)
