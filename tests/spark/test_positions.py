"""A class, a label and a weight for each position: fit with masks, scoring, evaluation; and no label at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
from pyspark.ml.tuning import CrossValidator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasEstimator, KerasTagger, KerasTaggerModel, TokenEvaluator
from spark_dl.errors import DataError

# Ranks can't import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
QUIET = {"tracking": None, "verbose": 0}
LENGTH, TAGS = 4, ["O", "B", "I"]


@pytest.fixture(scope="module")
def sentences(spark: SparkSession) -> DataFrame:
    """id, words (array of 4, which end with zeros), tags, and a weight for each."""
    random = np.random.default_rng(1)
    rows = []
    for i in range(50):
        length = 1 + 3 * (i % 2)
        words = [*random.integers(1, 9, length).tolist(), *[0] * (LENGTH - length)]
        weights = random.uniform(0.5, 2.0, LENGTH).tolist()
        rows.append((i, words, [word % 3 for word in words], weights))
    schema = "id long, words array<int>, tags array<int>, weights array<float>"
    return spark.createDataFrame(rows, schema).repartitionByRange(3, "id").cache()


def tagger() -> keras.Model:
    keras.utils.set_random_seed(2)
    words = keras.Input((LENGTH,), dtype="int32")
    return keras.Model(words, keras.layers.Dense(3)(keras.layers.Embedding(9, 6, mask_zero=True)(words)))


@pytest.fixture(scope="module")
def tagging(sentences: DataFrame) -> KerasTaggerModel:
    estimator = KerasTagger(
        model=tagger(),
        optimizer=keras.optimizers.Adam(0.1),
        featuresCol="words",
        labelCol="tags",
        weightCol="weights",
        tagLabels=TAGS,
        tagsCol="names",
        numWorkers=2,
        epochs=8,
        batchSize=8,
        **QUIET,
    )
    return estimator.fit(sentences)


def test_a_tagger_gives_each_positions_tag_in_all_ways_of_scoring(
    tagging: KerasTaggerModel, sentences: DataFrame, spark: SparkSession, tmp_path: Path
) -> None:
    scored = tagging.transform(sentences)
    kinds = {"prediction": "array<float>", "probability": "array<array<float>>", "names": "array<string>"}
    assert dict(scored.dtypes).items() >= kinds.items()
    rows = scored.orderBy("id").collect()
    logits = tagging.keras().predict(np.array([row.words for row in rows]), verbose=0)
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose([row.probability for row in rows], expected, atol=1e-5)
    np.testing.assert_array_equal([row.prediction for row in rows], logits.argmax(axis=-1))
    assert [row.names for row in rows] == [[TAGS[int(tag)] for tag in row.prediction] for row in rows]
    tagging.write().save(f"{tmp_path}/model")
    loaded = KerasTaggerModel.load(f"{tmp_path}/model")
    assert loaded.transform(sentences).orderBy("id").collect() == rows
    loaded.registerUdf(spark, "chances", "probability")
    sentences.write.parquet(f"{tmp_path}/rows")
    loaded.scoreParquet(f"{tmp_path}/rows", f"{tmp_path}/scored")
    bulk = spark.read.parquet(f"{tmp_path}/scored")
    assert dict(bulk.dtypes)["probability"] == "array<array<float>>"
    for other in (bulk, sentences.selectExpr("id", "chances(words) AS probability")):
        found = [row.probability for row in other.orderBy("id").collect()]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tokens_are_evaluated_in_spark(tagging: KerasTaggerModel, sentences: DataFrame) -> None:
    scored = tagging.transform(sentences).withColumn("mask", F.transform("words", lambda word: word != 0))
    rows = scored.collect()
    pairs = [
        (tag, int(found))
        for row in rows
        for tag, found, word in zip(row.tags, row.prediction, row.words, strict=True)
        if word
    ]
    masked = TokenEvaluator(labelCol="tags", maskCol="mask")
    right = sum(tag == found for tag, found in pairs) / len(pairs)
    assert masked.evaluate(scored) == pytest.approx(right)
    assert right > 0.9
    by_tag = masked.f1ByTag(scored)
    for index in by_tag:
        both = sum((tag == index) + (found == index) for tag, found in pairs)
        assert by_tag[index] == pytest.approx(2 * sum(tag == found == index for tag, found in pairs) / both)
    names = scored.withColumn(
        "tags", F.transform("tags", lambda tag: F.element_at(F.array(*map(F.lit, TAGS)), tag + 1))
    )
    entities = TokenEvaluator(labelCol="tags", predictionCol="names", metricName="f1", maskCol="mask", outside=["O"])
    assert entities.evaluate(names) == pytest.approx((by_tag[1] + by_tag[2]) / 2)
    # Rows that were padded have predictions beyond their tags, and rows that were cut have tags beyond them.
    lengths = scored.select(
        F.slice("tags", 1, 3).alias("tags"), F.slice("prediction", 1, 4 - F.col("id") % 2 * 2).alias("prediction")
    )
    beyond = [(row.tags, [*map(int, row.prediction), *[None] * 3][:3]) for row in lengths.collect()]
    hits = [tag == one for tags, found in beyond for tag, one in zip(tags, found, strict=True)]
    assert TokenEvaluator(labelCol="tags").evaluate(lengths) == pytest.approx(sum(hits) / len(hits))
    assert None not in TokenEvaluator(labelCol="tags").f1ByTag(lengths)
    with pytest.raises(DataError, match="Rows have no true or predicted tags, or a mask of another length"):
        masked.evaluate(scored.withColumn("mask", F.slice("mask", 1, 2)))
    with pytest.raises(DataError, match="No position counts"):
        TokenEvaluator(labelCol="tags", ignored=[0, 1, 2]).evaluate(scored)


def test_rows_that_are_padded_have_a_name_for_each_word(tagging: KerasTaggerModel, sentences: DataFrame) -> None:
    """All ways of scoring pad the prediction; names and the evaluator are about the words that a row has."""
    whole = tagging.transform(sentences)
    short = sentences.select(
        "id", *(F.slice(name, 1, 1 + F.col("id") % 2 * 3).alias(name) for name in ("words", "tags"))
    )
    scored = tagging.copy().setPadding({"words": 0}).transform(short)
    by_input = tagging.copy().setInputCols({tagging._inputs[0].name: "words"}).setPadding({"words": 0})
    assert by_input.transform(short).orderBy("id").collect() == scored.orderBy("id").collect()
    assert {len(row.prediction) for row in scored.collect()} == {LENGTH}
    assert [row.names for row in scored.orderBy("id").collect()] == [
        row.names[: 1 + row.id % 2 * 3] for row in whole.orderBy("id").collect()
    ]
    masked = TokenEvaluator(labelCol="tags", maskCol="mask")
    words = whole.withColumn("mask", F.transform("words", lambda word: word != 0))
    assert TokenEvaluator(labelCol="tags").evaluate(scored) == pytest.approx(masked.evaluate(words))


def test_a_masked_loss_is_evaluated_over_all_positions(tagging: KerasTaggerModel, sentences: DataFrame) -> None:
    rows = sentences.orderBy("id").collect()
    words, tags, weights = (np.array([row[name] for row in rows]) for name in ("words", "tags", "weights"))
    expected = tagging.keras().evaluate(words, tags, sample_weight=weights, batch_size=len(rows), verbose=0)
    for partitions in (1, 4):
        found = tagging.evaluate(sentences.repartition(partitions))
        assert found["loss"] == pytest.approx(expected, rel=1e-5)
    in_parts = tagging.copy({tagging.scoreBatchSize: 7}).evaluate(sentences)
    assert in_parts["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_model_with_its_own_loss_needs_no_label(spark: SparkSession) -> None:
    class Reconstructs(keras.Model):
        """An autoencoder that gets its features alone."""

        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
            return keras.ops.mean(keras.ops.square(y_pred - x))

    numbers = np.random.default_rng(0).normal(size=(60, 3, 2))
    data = spark.createDataFrame(list(enumerate(numbers.tolist())), "id long, steps array<array<double>>")
    keras.utils.set_random_seed(4)
    steps = keras.Input((3, 2))
    model = Reconstructs(steps, keras.layers.Dense(2)(steps))
    model.compile("sgd")
    options = {"featuresCol": "steps", "labelCol": None, "validationFraction": 0.2, "batchSize": 20, "epochs": 2}
    fitted = KerasEstimator(model=model, numWorkers=2, **options, **QUIET).fit(data)
    losses = fitted.summary.history["val_loss"]
    assert losses[1] < losses[0]
    scored = fitted.transform(data).orderBy("id")
    assert dict(scored.dtypes)["prediction"] == "array<array<float>>"
    rows = scored.collect()
    found, given = (np.array([row[name] for row in rows]) for name in ("prediction", "steps"))
    assert fitted.evaluate(data)["loss"] == pytest.approx(float(np.mean((found - given) ** 2)), rel=1e-4)


def test_classes_of_positions_are_weighed_as_keras_does_by_sample_weights(sentences: DataFrame) -> None:
    model = tagger()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    options = {"model": model, "loss": loss, "featuresCol": "words", "labelCol": "tags", "weightCol": "weights"}
    estimator = KerasTagger(
        **options, optimizer=keras.optimizers.SGD(0.5), classWeights="balanced", numWorkers=2, batchSize=25, **QUIET
    )
    fitted = estimator.fit(sentences)
    rows = sentences.collect()
    words, tags = np.array([row.words for row in rows]), np.array([row.tags for row in rows])
    counts = np.bincount(tags.ravel(), minlength=3)
    weights = (tags.size / (3 * counts))[tags] * np.array([row.weights for row in rows])
    model.compile(keras.optimizers.SGD(0.5), loss)
    model.fit(words, tags, sample_weight=weights, batch_size=50, verbose=0)
    for one, other in zip(fitted.keras().get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_an_evaluator_is_saved_also_within_a_cross_validator(spark: SparkSession, tmp_path: Path) -> None:
    evaluator = TokenEvaluator(labelCol="tags", metricName="microF1", ignored=[-1], outside=["O"], maskCol="mask")
    evaluator.save(f"{tmp_path}/evaluator")
    search = CrossValidator(
        estimator=KerasTagger(model=tagger(), featuresCol="words", labelCol="tags", optimizer="sgd", **QUIET),
        estimatorParamMaps=[{}],
        evaluator=evaluator,
    )
    search.save(f"{tmp_path}/search")
    for loaded in (
        TokenEvaluator.load(f"{tmp_path}/evaluator"),
        CrossValidator.load(f"{tmp_path}/search").getEvaluator(),
        evaluator.copy(),
    ):
        assert loaded.uid == evaluator.uid
        assert loaded.extractParamMap() == evaluator.extractParamMap()
    scored = spark.sql("SELECT array(1, 0, -1) AS tags, array(1, 1, 1) AS prediction, array(1, 1, 1) AS mask")
    assert loaded.evaluate(scored) == 0.5
    assert loaded.evaluate(scored, {loaded.metricName: "f1"}) == pytest.approx(1 / 3)
