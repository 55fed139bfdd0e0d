"""Fitting and scoring in local mode, on one rank: columns in, columns out, what is kept and what is cleaned up."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import BinaryClassificationEvaluator, MulticlassClassificationEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dl import KerasClassifier, KerasEstimator, KerasRegressor

QUIET = {"tracking": None, "verbose": 0}
SCALARS = ["f0", "f1", "f2", "f3"]


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark).cache()


@pytest.fixture(scope="module")
def fitted(data: DataFrame):
    """A classifier trained well enough to be right."""
    estimator = KerasClassifier(
        model=models.classifier(), optimizer=keras.optimizers.Adam(0.05), epochs=15, metrics=["accuracy"], **QUIET
    )
    return estimator.fit(data)


def predicted(frame: DataFrame, column: str = "prediction") -> np.ndarray:
    return np.array([row[column] for row in frame.orderBy("id").select(column).collect()])


@pytest.mark.stack
def test_a_classifier_learns_and_fills_the_columns_that_spark_expects(fitted, data: DataFrame) -> None:
    scored = fitted.transform(data)
    types = {field.name: field.dataType for field in scored.schema}
    assert types["prediction"] == T.DoubleType()
    assert types["probability"] == types["rawPrediction"] == VectorUDT()
    assert MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored) > 0.9
    plain = fitted.keras().predict(models.blobs()[0], verbose=0)
    probability = predicted(scored, "probability")
    np.testing.assert_allclose(probability, plain, atol=1e-6)
    np.testing.assert_array_equal(predicted(scored), plain.argmax(axis=1))
    assert fitted.numClasses == 3


def test_the_summary_tells_how_training_went(fitted, data: DataFrame) -> None:
    assert set(fitted.summary.history) == {"loss", "accuracy"}
    assert len(fitted.summary.history["loss"]) == 15
    assert fitted.summary.history["loss"][-1] < fitted.summary.history["loss"][0]
    assert fitted.summary.rows == models.ROWS
    assert fitted.summary.seconds > 0
    assert fitted.summary.rows_per_second > models.ROWS / fitted.summary.seconds


def test_two_classes_with_one_output_unit_serve_sparks_binary_evaluator(spark: SparkSession) -> None:
    frame = models.frame(spark, classes=2)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    fit = KerasClassifier(model=model, optimizer=keras.optimizers.Adam(0.1), epochs=10, **QUIET).fit(frame)
    scored = fit.transform(frame)
    assert BinaryClassificationEvaluator().evaluate(scored) > 0.95
    row = scored.select("prediction", "probability", "rawPrediction").first()
    assert row.prediction == float(row.probability[1] > 0.5)
    assert row.probability[1] == pytest.approx(1 / (1 + np.exp(-row.rawPrediction[1])), abs=1e-6)


def boom() -> keras.callbacks.Callback:
    """A callback that raises. Its class is made here, so that it travels by value."""

    class Boom(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            raise ZeroDivisionError("boom")

    return Boom()


def as_columns(data: DataFrame, kind: str) -> tuple[DataFrame, dict]:
    """The same numbers in columns of another type."""
    numbers = F.array(*SCALARS)
    if kind == "scalars":
        return data, {"inputCols": SCALARS}
    if kind == "scalars and decimals":
        exact = {name: F.col(name).cast(to) for name, to in (("f1", "decimal(20, 12)"), ("label", "decimal(4, 1)"))}
        return data.withColumns(exact), {"inputCols": SCALARS}
    if kind == "dense vector":
        return VectorAssembler(inputCols=SCALARS, outputCol="v").transform(data), {"featuresCol": "v"}
    if kind == "dense and sparse vectors":
        some = F.udf(lambda i, v: Vectors.sparse(4, range(4), v) if i % 2 else Vectors.dense(v), VectorUDT())
        return data.withColumn("v", some("id", numbers)), {"featuresCol": "v"}
    if kind == "array and scalar":
        return data.withColumn("v", F.array("f0", "f1", "f2")), {"inputCols": ["v", "f3"]}
    element = {"array<float>": "float", "array<double>": "double"}[kind]
    return data.withColumn("v", numbers.cast(f"array<{element}>")), {"featuresCol": "v"}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("scalars", marks=pytest.mark.stack),
        "scalars and decimals",
        "dense vector",
        pytest.param("dense and sparse vectors", marks=pytest.mark.stack),
        "array and scalar",
        pytest.param("array<float>", marks=pytest.mark.stack),
        "array<double>",
    ],
)
def test_every_kind_of_column_trains_and_scores_alike(kind: str, data: DataFrame) -> None:
    frame, columns = as_columns(data, kind)
    fit = KerasRegressor(model=models.regressor(), optimizer="sgd", shuffle=False, **columns, **QUIET).fit(frame)
    expected = models.regressor()
    expected.compile("sgd", "mse")
    features, labels = models.blobs()
    expected.fit(features, labels, batch_size=32, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        predicted(fit.transform(frame)), expected.predict(features, verbose=0)[:, 0], rtol=1e-5, atol=1e-5
    )


def test_whole_numbers_feed_an_embedding(data: DataFrame) -> None:
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), keras.layers.Embedding(50, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    frame = data.withColumn("ids", F.array((F.col("id") % 50).cast("int"), F.lit(7)))
    fit = KerasRegressor(model=model, featuresCol="ids", **QUIET).fit(frame)
    plain = fit.keras().predict(np.stack([np.arange(models.ROWS) % 50, np.full(models.ROWS, 7)], axis=1), verbose=0)
    np.testing.assert_allclose(predicted(fit.transform(frame)), plain[:, 0], atol=1e-6)


def test_a_scalar_feature_feeds_a_model_of_one_number(data: DataFrame) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    fit = KerasRegressor(model=model, featuresCol="f0", predictionCol="estimate", **QUIET).fit(data)
    assert fit.transform(data).select("estimate").dtypes == [("estimate", "double")]


def test_several_outputs_are_an_array(data: DataFrame) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    fit = KerasEstimator(model=model, loss="mse", labelCol="features", **QUIET).fit(data)
    scored = fit.transform(data)
    assert scored.schema["prediction"].dataType.simpleString() == "array<float>"
    plain = fit.keras().predict(models.blobs()[0], verbose=0)
    np.testing.assert_allclose(predicted(scored), plain, atol=1e-6)


@pytest.mark.stack
def test_other_columns_stay_in_the_jvm(fitted, data: DataFrame) -> None:
    # An interval can't go to Python by Arrow in this direction; that it passes shows that it never went.
    frame = data.withColumn("odd", F.expr("make_interval(1, 2)")).withColumn("map", F.create_map("note", "id"))
    scored = fitted.transform(frame)
    assert scored.where("odd is not null and map is not null").count() == models.ROWS
    assert [c for c in scored.columns if c.startswith("spark_dl")] == []


def test_sample_weights_weigh_the_loss(data: DataFrame) -> None:
    options = {"optimizer": keras.optimizers.SGD(0.1), "shuffle": False, **QUIET}
    fit = KerasRegressor(model=models.regressor(), weightCol="weight", **options).fit(data)
    expected = models.regressor()
    expected.compile(keras.optimizers.SGD(0.1), "mse")
    features, labels = models.blobs()
    weights = (1.0 + np.arange(models.ROWS) % 3).astype(np.float32)
    expected.fit(features, labels, sample_weight=weights, batch_size=32, shuffle=False, verbose=0)
    for ours, plain in zip(fit.keras().get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_a_loss_of_one_hot_labels_takes_class_indices(data: DataFrame) -> None:
    """With weights of classes and of rows, in training, validation, the figures' evaluation and `evaluate`."""
    loss = keras.losses.CategoricalFocalCrossentropy(alpha=[0.2, 0.3, 0.5], label_smoothing=0.1)
    by_class = {0: 2.0, 1: 0.5, 2: 1.0}
    options = {"optimizer": keras.optimizers.SGD(0.1), "loss": loss, "shuffle": False, "epochs": 2}
    fitted = KerasClassifier(
        model=models.classifier(), classWeights=by_class, weightCol="weight", validationCol="held", **options, **QUIET
    ).fit(data)
    expected = models.classifier()
    expected.compile(keras.optimizers.SGD(0.1), loss, weighted_metrics=[keras.metrics.CategoricalAccuracy(name="it")])
    features, labels = models.blobs()
    one_hot = keras.utils.to_categorical(labels, 3)
    held = predicted(data, "held").astype(bool)
    of_rows = predicted(data, "weight").astype(np.float32)
    weights = of_rows * np.array([by_class[int(label)] for label in labels], np.float32)
    history = expected.fit(
        features[~held],
        one_hot[~held],
        sample_weight=weights[~held],
        validation_data=(features[held], one_hot[held], of_rows[held]),
        batch_size=32,
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history
    for ours, plain in zip(fitted.keras().get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    assert fitted.summary.history["val_loss"] == pytest.approx(history["val_loss"], rel=1e-5)
    evaluated = fitted.evaluate(data)
    plain_loss, _ = expected.evaluate(features, one_hot, sample_weight=of_rows, verbose=0)
    assert evaluated["loss"] == pytest.approx(plain_loss, rel=1e-5)
    right = fitted.transform(data).where("prediction = label").count()
    assert evaluated["accuracy"] == pytest.approx(right / data.count())


@pytest.mark.parametrize("given", ["balanced", {0: 2.0, 1: 0.5, 2: 1.0}])
def test_weights_of_classes_are_those_of_their_rows(given: Any, data: DataFrame) -> None:
    few = data.where("label < 2 or id < 30 or held")  # few rows of class 2
    by_class: dict[int, float]
    if given == "balanced":
        counts = {int(row.label): row["count"] for row in few.where("not held").groupBy("label").count().collect()}
        by_class = {label: sum(counts.values()) / (3 * count) for label, count in counts.items()}
    else:
        by_class = given
    weigh = F.create_map(*(F.lit(part) for item in by_class.items() for part in item))
    # Validation goes without the weights of classes.
    as_rows = few.withColumn(
        "w", F.when(F.col("held"), F.col("weight")).otherwise(F.col("weight") * weigh[F.col("label").cast("int")])
    )

    def history(frame: DataFrame, **options: Any) -> dict[str, list[float]]:
        estimator = KerasClassifier(model=models.classifier(), validationCol="held", epochs=2, **options, **QUIET)
        return estimator.fit(frame).summary.history

    ours = history(few, classWeights=given, weightCol="weight")
    theirs = history(as_rows, weightCol="w")
    plain = history(few, weightCol="weight")
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, rel=1e-6)
    assert ours["loss"] != pytest.approx(plain["loss"], rel=1e-2)


def test_a_boolean_column_says_which_rows_are_for_validation(data: DataFrame) -> None:
    fit = KerasRegressor(model=models.regressor(), validationCol="held", **QUIET).fit(data)
    assert (fit.summary.rows, fit.summary.validation_rows) == (160, 40)
    assert "val_loss" in fit.summary.history


def test_the_draw_for_validation_follows_from_the_seed(data: DataFrame) -> None:
    def history(seed: int) -> dict:
        estimator = KerasRegressor(model=models.regressor(), validationFraction=0.3, seed=seed, **QUIET)
        return estimator.fit(data).summary.history

    assert history(3) == history(3)
    assert history(3) != history(4)


def test_missing_rows_are_dropped_where_asked(data: DataFrame) -> None:
    holes = data.withColumn("f1", F.when(F.col("id") % 10 == 0, F.lit(None)).otherwise(F.col("f1")))
    holes = holes.withColumn("f2", F.when(F.col("id") % 10 == 1, F.lit(float("nan"))).otherwise(F.col("f2")))
    fit = KerasRegressor(model=models.regressor(), inputCols=SCALARS, nullPolicy="drop", **QUIET).fit(holes)
    assert fit.summary.rows == 160


def test_the_users_objects_stay_as_they_were(data: DataFrame) -> None:
    model = models.regressor()
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    optimizer = keras.optimizers.SGD(0.1)
    before = [weight.copy() for weight in model.get_weights()]
    step = model.train_step
    estimator = KerasRegressor(model=model, optimizer=optimizer, metrics=[keras.metrics.MeanSquaredError()], **QUIET)
    fit = estimator.fit(data)
    assert isinstance(fit.keras().optimizer, keras.optimizers.SGD)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert model.optimizer.iterations == 0
    assert model.train_step == step
    assert not optimizer.built


def test_the_best_epochs_weights_are_returned_where_asked(data: DataFrame) -> None:
    # A rate that rises: the loss falls first and then explodes.
    options = {"epochs": 4, "validationCol": "held", "optimizer": keras.optimizers.SGD(0.01), **QUIET}
    rising = [keras.callbacks.LearningRateScheduler(lambda epoch: [0.01, 0.01, 5.0, 5.0][epoch])]
    estimator = KerasRegressor(model=models.regressor(), callbacks=rising, restoreBestWeights=True, **options)
    fit = estimator.fit(data)
    losses = fit.summary.history["val_loss"]
    assert fit.summary.best_epoch == int(np.argmin(losses)) < 3
    features, labels = models.blobs()
    held = np.arange(models.ROWS) % 5 == 0
    loss = fit.keras().evaluate(features[held], labels[held], verbose=0)
    assert loss == pytest.approx(min(losses), rel=1e-5)


def test_nothing_is_left_behind(data: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    KerasRegressor(model=models.regressor(), **QUIET).fit(data)
    with pytest.raises(Exception, match="boom"):
        KerasRegressor(model=models.regressor(), callbacks=[boom()], **QUIET).fit(data)
    assert os.listdir(tmp_path / "temporary") == []


def test_checkpoints_are_kept_beside_earlier_ones(data: DataFrame, tmp_path: Path) -> None:
    options = {"epochs": 3, "checkpointDir": str(tmp_path / "kept"), "cacheDir": str(tmp_path / "cache"), **QUIET}
    KerasRegressor(model=models.regressor(), **options).fit(data)
    (first,) = (tmp_path / "kept").iterdir()
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    with pytest.raises(Exception, match="boom"):
        KerasRegressor(model=models.regressor(), callbacks=[boom()], **options).fit(data)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    assert "epoch-000003.keras" in before
    assert keras.saving.load_model(first / "epoch-000003.keras").optimizer.iterations == 3 * 7
    assert list((tmp_path / "cache").iterdir()) == []


def test_own_losses_metrics_and_layers_need_no_registration(data: DataFrame) -> None:
    def pinball(truth: Any, guess: Any) -> Any:
        gap = keras.ops.cast(truth, guess.dtype) - guess[:, 0]
        return keras.ops.mean(keras.ops.maximum(0.9 * gap, -0.1 * gap))

    def overshoot(truth: Any, guess: Any) -> Any:
        return keras.ops.mean(keras.ops.cast(guess[:, 0] > keras.ops.cast(truth, guess.dtype), "float32"))

    class Doubling(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return 2 * inputs

    model = keras.Sequential([keras.Input((4,)), Doubling(), keras.layers.Dense(1)])
    estimator = KerasEstimator(model=model, loss=pinball, metrics=[overshoot], epochs=1, **QUIET)
    fitted = estimator.fit(data)
    assert set(fitted.summary.history) == {"loss", "overshoot"}
    assert fitted.transform(data).agg(F.count("prediction")).first()[0] == data.count()
    assert fitted.keras().loss.__name__ == "pinball"


def test_mixed_precision_trains_float32_weights(data: DataFrame) -> None:
    keras.utils.set_random_seed(3)
    hidden = keras.layers.Dense(8, "relu", dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, "softmax", dtype="float32")])
    fitted = KerasClassifier(model=model, epochs=3, **QUIET).fit(data)
    assert {str(weight.dtype) for weight in fitted.keras().trainable_variables} == {"float32"}
    assert fitted.summary.history["loss"][-1] < fitted.summary.history["loss"][0]


@pytest.mark.stack
def test_cross_validation_chooses_among_options(data: DataFrame) -> None:
    classifier = KerasClassifier(model=models.classifier(), batchSize=16, seed=2, **QUIET)
    grid = ParamGridBuilder().addGrid(classifier.epochs, [1, 12]).build()
    evaluator = MulticlassClassificationEvaluator(metricName="logLoss")
    chosen = CrossValidator(
        estimator=classifier, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, parallelism=1, seed=4
    ).fit(data)
    assert chosen.avgMetrics[1] < chosen.avgMetrics[0]
    assert len(chosen.bestModel.summary.history["loss"]) == 12


@pytest.mark.stack
def test_a_pipeline_with_sparks_own_stages(data: DataFrame) -> None:
    stages = [
        VectorAssembler(inputCols=SCALARS, outputCol="assembled"),
        KerasClassifier(model=models.classifier(), featuresCol="assembled", **QUIET),
    ]
    pipeline = Pipeline(stages=stages).fit(data)
    assert pipeline.transform(data).where("prediction >= 0").count() == models.ROWS


def test_param_maps_override_what_is_set(data: DataFrame) -> None:
    estimator = KerasRegressor(model=models.regressor(), epochs=1, **QUIET)
    one, two = estimator.fit(data, [{estimator.epochs: 1}, {estimator.epochs: 2}])
    assert [len(fit.summary.history["loss"]) for fit in (one, two)] == [1, 2]
    assert estimator.getEpochs() == 1


def test_the_best_epoch_by_a_metric_that_isnt_there_is_refused(data: DataFrame) -> None:
    estimator = KerasRegressor(model=models.regressor(), restoreBestWeights=True, monitor="val_los", **QUIET)
    with pytest.raises(Exception, match=r"monitor='val_los'.*Received: loss"):
        estimator.fit(data)


def test_column_names_may_have_dots_blanks_and_backticks(data: DataFrame) -> None:
    names = {"f0": "a.b", "f1": "a b", "f2": "a`b", "f3": "f3"}
    frame = data.withColumnsRenamed(names)
    fit = KerasRegressor(model=models.regressor(), inputCols=list(names.values()), **QUIET).fit(frame)
    assert fit.transform(frame).where("prediction is not null").count() == models.ROWS


def test_what_ends_a_nested_model_tells_probabilities_from_logits(data: DataFrame) -> None:
    nested = keras.Sequential([keras.Input((4,)), models.classifier()])
    fit = KerasClassifier(model=nested, **QUIET).fit(data)
    plain = fit.keras().predict(models.blobs()[0], verbose=0)
    np.testing.assert_allclose(predicted(fit.transform(data), "probability"), plain, atol=1e-6)
