"""Converted once and fitted many times; models from functions, and from fitted ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import DataFrame, SparkSession

import spark_dl
from spark_dl import KerasClassifier, KerasEstimator, KerasRegressor
from spark_dl.errors import DataError, ModelError, OptionError, RankError, StoreError

QUIET = {"tracking": None, "verbose": 0}


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


def same(one: Any, other: Any) -> None:
    for ours, theirs in zip(one.keras().get_weights(), other.keras().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- converted once ----------------------------------------------------------------------------------------------


def test_fits_on_converted_rows_are_fits_on_the_dataframe(data: DataFrame, tmp_path: Path) -> None:
    classifier = KerasClassifier(model=models.classifier(), validationCol="held", cacheDir=str(tmp_path), **QUIET)
    with spark_dl.convert(data, classifier) as converted:
        assert (converted.rows, converted.validationRows) == (48, 12)
        assert converted.bytes == 60 * (4 * 4 + 4)
        assert converted.schema == data.schema
        assert converted.plan == classifier.plan(data)
        options = {classifier.batchSize: 5, classifier.epochs: 2}
        same(classifier.fitOnDataset(converted, options), classifier.fit(data, options))
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    with pytest.raises(StoreError, match="converted rows have been removed"):
        classifier.fitOnDataset(converted)


def test_the_files_of_the_rows_are_known(data: DataFrame, tmp_path: Path) -> None:
    data.coalesce(1).write.parquet(f"{tmp_path}/rows")
    classifier = KerasClassifier(model=models.classifier(), **QUIET)
    with classifier.convert(data.sparkSession.read.parquet(f"{tmp_path}/rows")) as converted:
        (name,) = converted.files
    assert name.startswith("file:")
    assert name.endswith(".parquet")


def test_rows_that_were_converted_otherwise_are_refused(data: DataFrame) -> None:
    classifier = KerasClassifier(model=models.classifier(), **QUIET)
    with classifier.convert(data) as converted:
        with pytest.raises(DataError, match=r"converted in another way.*the same validation_col"):
            classifier.fitOnDataset(converted, {classifier.validationCol: "held"})
        with pytest.raises(DataError, match=r"converted in another way.*the same labels"):
            classifier.fitOnDataset(converted, {classifier.model: models.classifier(classes=4)})
    with classifier.convert(data.limit(1)) as tiny, pytest.raises(DataError, match="fewer training rows than workers"):
        classifier.fitOnDataset(tiny, {classifier.numWorkers: 2})


def test_a_model_function_is_called_once_a_fit(data: DataFrame) -> None:
    built: list[int] = []

    def regressor(units: int) -> keras.Model:
        built.append(units)
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)])

    estimator = KerasRegressor(modelFn=regressor, modelParams={"units": 1}, **QUIET)
    estimator.fit(data)
    assert built == [1]
    maps = [{estimator.modelParams: {"units": units}} for units in (2, 3, 4)]
    assert dict(estimator.fitMultiple(data, maps)).keys() == {0, 1, 2}
    assert built == [1, 2, 3, 4]


class Counting(KerasClassifier):
    """Counts its conversions."""

    def __init__(self, counted: list[int] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.counted = counted if counted is not None else []

    def _converted(self, spec: Any, rows: DataFrame) -> Any:
        converted = super()._converted(spec, rows)
        self.counted.append(converted.rows)
        return converted


def test_cross_validation_converts_each_fold_once_and_waits_for_slots(data: DataFrame, tmp_path: Path) -> None:
    # Two slots, and fits of two workers: a second one has to wait.
    classifier = Counting(model=models.classifier(), numWorkers=2, cacheDir=str(tmp_path), **QUIET)
    grid = ParamGridBuilder().addGrid(classifier.batchSize, [4, 16]).build()
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    validator = CrossValidator(
        estimator=classifier, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, parallelism=2, seed=1
    )
    validated = validator.fit(data)
    assert len(validated.avgMetrics) == 2
    # One for each fold, and the last one for `fit` on all rows goes its own way.
    assert len(classifier.counted) == 2
    assert sum(classifier.counted) == 60
    assert os.listdir(tmp_path) == []
    assert validated.transform(data).count() == 60


def test_a_failed_fit_of_several_leaves_nothing(data: DataFrame, tmp_path: Path) -> None:
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise ArithmeticError("on purpose")

    classifier = KerasClassifier(model=models.classifier(), cacheDir=str(tmp_path), **QUIET)
    fits = classifier.fitMultiple(data, [{}, {classifier.callbacks: [Fail()]}, {}])
    assert next(fits)[0] == 0
    with pytest.raises(RankError, match="on purpose"):
        next(fits)
    assert os.listdir(tmp_path) == []
    with pytest.raises(RankError, match="on purpose"):
        next(fits)


def test_fits_that_nobody_takes_leave_no_rows(data: DataFrame, tmp_path: Path) -> None:
    classifier = KerasClassifier(model=models.classifier(), cacheDir=str(tmp_path), **QUIET)
    maps: list[Any] = [{classifier.batchSize: size} for size in (8, 16)]
    never = classifier.fitMultiple(data, maps)
    assert os.listdir(tmp_path) == []
    never.close()
    with pytest.raises(StopIteration):
        next(never)

    fits = classifier.fitMultiple(data, maps)
    assert next(fits)[0] == 0
    assert len(os.listdir(tmp_path)) == 1
    del fits
    assert os.listdir(tmp_path) == []

    with classifier.fitMultiple(data, maps) as left:
        assert next(left)[0] == 0
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    with pytest.raises(StopIteration):
        next(left)

    classifier.convert(data)  # which nobody keeps
    assert os.listdir(tmp_path) == []


def test_fits_of_other_columns_are_converted_anew(data: DataFrame) -> None:
    classifier = Counting(model=models.classifier(), **QUIET)
    maps: list[Any] = [{}, {classifier.validationCol: "held"}, {classifier.batchSize: 7}]
    fitted = dict(classifier.fitMultiple(data, maps))
    assert sorted(classifier.counted) == [48, 60]
    assert [fitted[index].summary.validation_rows for index in range(3)] == [0, 12, 0]


# --- models from elsewhere ---------------------------------------------------------------------------------------


def built(units: int = 8, rate: float = 0.01) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def test_a_grid_searches_the_hyperparameters_of_a_model(data: DataFrame) -> None:
    regressor = KerasRegressor(modelFn=built, **QUIET)
    grid = ParamGridBuilder().addGrid(regressor.modelParams, [{"units": 2}, {"units": 3, "rate": 0.1}]).build()
    split = TrainValidationSplit(
        estimator=regressor, estimatorParamMaps=grid, evaluator=RegressionEvaluator(), collectSubModels=True, seed=1
    )
    told = split.fit(data)
    assert [model.keras().layers[0].units for model in told.subModels] == [2, 3]
    assert [float(model.keras().optimizer.learning_rate) for model in told.subModels] == pytest.approx([0.01, 0.1])


def two_by_two(width: int = 3) -> keras.Model:
    """Names that Keras makes up, another time others."""
    one, two = keras.Input((1,)), keras.Input((1,))
    hidden = keras.layers.Dense(width)(keras.layers.Concatenate()([one, two]))
    model = keras.Model([one, two], [keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(hidden)])
    model.compile("sgd", "mse")
    return model


def test_a_function_may_name_inputs_and_outputs_anew_each_time(data: DataFrame) -> None:
    estimator = KerasEstimator(
        modelFn=two_by_two, inputCols=["f0", "f1"], labelCols=["label", "f2"], outputCols=["a", "b"], **QUIET
    )
    (fitted, _) = (
        model for _, model in sorted(estimator.fitMultiple(data, [{}, {estimator.modelParams: {"width": 5}}]))
    )
    scored = fitted.transform(data)
    assert dict(scored.dtypes).items() >= {"a": "double", "b": "double"}.items()


def test_a_model_of_a_function_is_saved_as_what_it_builds(data: DataFrame, tmp_path: Path) -> None:
    original = KerasRegressor(modelFn=built, modelParams={"units": 5}, **QUIET)
    original.write().save(f"{tmp_path}/estimator")
    loaded = KerasRegressor.load(f"{tmp_path}/estimator")
    assert loaded.getModelFn() is None
    same(loaded.fit(data), original.fit(data))


def test_a_warm_start_goes_on_with_a_fitted_model(data: DataFrame) -> None:
    first = KerasRegressor(model=built(), shuffle=False, **QUIET).fit(data)
    second = KerasRegressor(warmStart=first, shuffle=False, **QUIET).fit(data)
    assert second.summary.history["loss"][0] < first.summary.history["loss"][0]


def test_frozen_layers_stay_as_they_are(data: DataFrame) -> None:
    model = built()
    model.layers[0].trainable = False
    fitted = KerasRegressor(model=model, optimizer="sgd", loss="mse", numWorkers=2, **QUIET).fit(data)
    trained = fitted.keras()
    for ours, theirs in zip(trained.layers[0].get_weights(), model.layers[0].get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (trained.layers[1].get_weights()[0] != model.layers[1].get_weights()[0]).any()
    assert not trained.layers[0].trainable


def test_epochs_are_counted_from_the_initial_one(data: DataFrame) -> None:
    whole = KerasRegressor(model=built(), epochs=3, **QUIET).fit(data)
    first = KerasRegressor(model=built(), epochs=1, **QUIET).fit(data)
    rest = KerasRegressor(warmStart=first, initialEpoch=1, epochs=3, **QUIET).fit(data)
    # The shuffle of an epoch follows from its number, and plain SGD remembers nothing.
    same(rest, whole)
    assert rest.summary.history["loss"] == pytest.approx(whole.summary.history["loss"][1:], rel=1e-6)
    with pytest.raises(OptionError, match=r"no epoch to train.*initialEpoch < epochs=2.*initialEpoch=2"):
        KerasRegressor(model=built(), epochs=2, initialEpoch=2, **QUIET).fit(data)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_dtype_policy_is_that_of_all_layers_but_the_last(data: DataFrame, policy: str) -> None:
    model = built()
    fitted = KerasRegressor(model=model, dtypePolicy=policy, numWorkers=2, epochs=2, batchSize=2, **QUIET).fit(data)
    trained = fitted.keras()
    assert [layer.dtype_policy.name for layer in trained.layers] == [policy, "float32"]
    assert [layer.dtype_policy.name for layer in model.layers] == ["float32", "float32"]
    scales = isinstance(trained.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales is (policy == "mixed_float16")
    # The first steps in float16 are left out, until the scale of the loss fits.
    losses = fitted.summary.history["loss"]
    assert losses[1] < losses[0]
    rows = fitted.transform(data).collect()
    expected = trained(np.array([row.features for row in rows], np.float32)).numpy()[:, 0]
    np.testing.assert_allclose([row.prediction for row in rows], expected, atol=0.02)


def fails(**others: Any) -> None:
    raise LookupError("no such layer")


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"model": models.regressor(), "modelFn": built}, OptionError, "one of model and modelFn.*model, modelFn"),
        (
            {"model": models.regressor(), "modelParams": {"units": 2}},
            OptionError,
            "one of model and modelFn.*model, modelParams",
        ),
        ({"modelFn": fails}, ModelError, r"modelFn failed: LookupError: no such layer.*fails\(\*\*\{\}\)"),
        ({"modelFn": built, "modelParams": {"unit": 2}}, ModelError, "unexpected keyword argument 'unit'"),
        ({"modelFn": dict}, ModelError, "no Keras model to train"),
        ({"warmStart": models.regressor()}, OptionError, "warmStart can't be used.*a fitted KerasModel"),
        ({}, ModelError, "no Keras model to train"),
    ],
)
def test_a_model_that_can_not_be_had_is_refused(data: DataFrame, options: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        KerasRegressor(**options, **QUIET).fit(data)


# --- classes that are rare ---------------------------------------------------------------------------------------


def test_a_stratified_split_and_balanced_classes(data: DataFrame) -> None:
    rare = data.where("label < 2 OR id < 18").repartition(2, "note")
    counts = {int(row.label): row["count"] for row in rare.groupBy("label").count().collect()}
    assert counts == {0: 20, 1: 20, 2: 6}
    options = {"validationFraction": 0.5, "stratified": True, **QUIET}
    for balance, least, most in (("none", 1, 20), ("oversample", 8, 13), ("undersample", 1, 5)):
        classifier = KerasClassifier(model=models.classifier(), balance=balance, **options)
        with classifier.convert(rare) as converted:
            rows = converted.dataset_for(classifier._checked(rare)[0].conversion)
            held, trained = rows.class_rows(validation=True), rows.class_rows(validation=False)
            for label, count in enumerate(held):
                assert abs(count - counts[label] / 2) <= 2  # one for each partition
            assert all(least <= count <= most for count in trained), (balance, trained)
            if balance == "none":
                assert [a + b for a, b in zip(held, trained, strict=True)] == [20, 20, 6]
            other = "none" if balance != "none" else "oversample"
            with pytest.raises(DataError, match="the same balance"):
                classifier.fitOnDataset(converted, {classifier.balance: other})


@pytest.mark.parametrize("hole", ["null", "array(1f, null, 1f, 1f)", "array(1f, float('nan'), float('inf'), 1f)"])
def test_classes_are_balanced_by_the_rows_that_are_left(data: DataFrame, hole: str) -> None:
    """Of the first class half have no features and are left out; some of the second have no label, which is filled."""
    rows = data.where("label < 2").selectExpr(
        "id",
        f"if(label = 0 AND id % 4 < 2, {hole}, features) AS features",
        "if(label = 1, null, label) AS label",
    )
    policy = {"features": "drop", "label": {"fill": 1}}
    classifier = KerasClassifier(model=models.classifier(), balance="oversample", nullPolicy=policy, **QUIET)
    left = {0: rows.where("label = 0 AND id % 4 >= 2").count(), 1: rows.where("label IS NULL").count()}
    assert left[1] > left[0] > 0
    with classifier.convert(rows) as converted:
        counts = converted.dataset_for(classifier._checked(rows)[0].conversion).class_rows(validation=False)
    assert counts[1] == left[1]
    assert counts[0] == pytest.approx(left[1], abs=left[0])
    assert counts[0] > left[0]
