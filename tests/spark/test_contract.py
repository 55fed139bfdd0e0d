"""What every Estimator and Model must do, run over all that are public."""

from __future__ import annotations

import pickle
from typing import Any

import keras
import models
import pytest
from pyspark.ml import Estimator, Model
from pyspark.sql import DataFrame, SparkSession

import spark_dl
from spark_dl.errors import DataError, OptionError, SavedModelError, SparkDLError

PUBLIC = [getattr(spark_dl, name) for name in spark_dl.__all__]
ESTIMATORS = [thing for thing in PUBLIC if isinstance(thing, type) and issubclass(thing, Estimator)]
MODELS = [thing for thing in PUBLIC if isinstance(thing, type) and issubclass(thing, Model)]


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=40).cache()


@pytest.fixture(scope="module")
def fitted_of(data: DataFrame) -> dict[type, Any]:
    """A fitted model of each estimator."""
    return {cls: ready(cls).fit(data) for cls in ESTIMATORS}


def ready(cls: type, **options: Any) -> Any:
    """An estimator of this class that can be fitted on `data`."""
    makers = {"KerasClassifier": models.classifier, "KerasTagger": models.tagger}
    model = makers.get(cls.__name__, models.regressor)()
    loss = None if cls is not spark_dl.KerasEstimator else "mse"
    return cls(model=model, loss=loss, tracking=None, verbose=0, **options)


@pytest.mark.parametrize("cls", ESTIMATORS + MODELS)
class TestParams:
    def test_each_option_is_a_param_with_setter_and_getter(self, cls: type) -> None:
        instance = cls()
        for option in cls.options:
            title = option.name[0].upper() + option.name[1:]
            assert getattr(instance, f"get{title}")() == option.default
            value = models.another(option)
            assert getattr(instance, f"set{title}")(value) is instance
            assert getattr(instance, f"get{title}")() == value
            assert instance.isSet(option.name)

    def test_the_constructor_takes_each_option(self, cls: type) -> None:
        instance = cls(**{option.name: models.another(option) for option in cls.options})
        for option in cls.options:
            assert instance.getOrDefault(option.name) == models.another(option)

    def test_explain_params_tells_all(self, cls: type) -> None:
        text = cls().explainParams()
        for option in cls.options:
            assert f"{option.name}: {option.doc}" in text

    def test_a_copy_is_independent(self, cls: type) -> None:
        original = cls(featuresCol="one")
        copy = original.copy({original.predictionCol: "elsewhere"})
        copy.setFeaturesCol("two")
        assert (original.getFeaturesCol(), original.getPredictionCol()) == ("one", "prediction")
        assert (copy.getFeaturesCol(), copy.getPredictionCol()) == ("two", "elsewhere")
        assert copy.uid == original.uid

    def test_an_unknown_option_is_answered_with_the_near_name(self, cls: type) -> None:
        with pytest.raises(OptionError, match=r"no param 'featureCol'\..*Did you mean 'featuresCol'"):
            cls(featureCol="x")


class Unfit:
    """What no option takes, but one that takes anything."""


# Options that are handed on as they are, or are looked at when they are used.
OPEN = {"model", "warmStart", "optimizer", "loss", "metrics", "callbacks", "transformFn", "augment", "validationData"}


@pytest.mark.parametrize("cls", ESTIMATORS + MODELS)
def test_each_option_refuses_what_it_can_not_take(cls: type) -> None:
    for option in cls.options:
        if option.name in OPEN:
            cls(**{option.name: Unfit()})
            continue
        with pytest.raises(SparkDLError) as caught:
            cls(**{option.name: Unfit()})
        assert f"{option.name} can't have this value. Expected: " in str(caught.value)
        assert "Unfit" in str(caught.value)


# What is wrong with the columns: options, and what the message must say.
BAD_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "no such feature column": ({"featuresCol": "feature"}, "no column 'feature', which featuresCol names.*'features'"),
    "a feature that is text": ({"featuresCol": "note"}, "'note', which featuresCol names.*note: string"),
    "features of another width": ({"inputCols": ["f0", "f1"]}, "4 numbers per row.*2 numbers per row from f0, f1"),
    "an empty format": ({"binaryFormat": "raw", "featuresCol": "note"}, "'note', which featuresCol names"),
}


@pytest.mark.parametrize("fault", BAD_COLUMNS)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_columns_that_can_not_be_fed_are_refused_alike_by_fit_and_transform(
    cls: type, fault: str, data: DataFrame, fitted_of: dict[type, Any]
) -> None:
    values, told = BAD_COLUMNS[fault]
    fitted = fitted_of[cls]
    wrong = fitted.copy({fitted.getParam(name): value for name, value in values.items()})
    for attempt in (lambda: ready(cls, **values).fit(data), lambda: wrong.transform(data)):
        with pytest.raises(DataError, match=told):
            attempt()


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_an_output_column_that_is_there_is_refused(cls: type, data: DataFrame, fitted_of: dict[type, Any]) -> None:
    fitted = fitted_of[cls]
    with pytest.raises(DataError, match=r"already has a column 'note'.*Drop the column, or set another name"):
        fitted.copy({fitted.predictionCol: "note"}).transform(data)


@pytest.mark.parametrize("cls", MODELS)
def test_a_model_that_was_never_fitted_says_so(cls: type, data: DataFrame) -> None:
    for use in ("transform", "evaluate"):
        with pytest.raises(SavedModelError, match=f"This {cls.__name__} holds no model"):
            getattr(cls(), use)(data)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_what_is_pickled_is_whole(cls: type, data: DataFrame, fitted_of: dict[type, Any]) -> None:
    fitted = fitted_of[cls]
    copy = pickle.loads(pickle.dumps(fitted))
    assert copy.transform(data).collect() == fitted.transform(data).collect()
    assert copy.summary == fitted.summary
    estimator = pickle.loads(pickle.dumps(ready(cls, epochs=3)))
    assert (estimator.getEpochs(), type(estimator)) == (3, cls)
    assert estimator.getModel().count_params() == ready(cls).getModel().count_params()


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_an_estimator_survives_saving(cls: type, spark: SparkSession, tmp_path: Any) -> None:
    path = str(tmp_path / "estimator")
    original = ready(cls, epochs=3, optimizer=keras.optimizers.SGD(0.125), metrics=["mae"])
    original.write().save(path)
    loaded = cls.load(path)
    assert loaded.uid == original.uid
    for option in cls.options:
        if option.name not in ("model", "optimizer", "loss"):
            assert loaded.getOrDefault(option.name) == original.getOrDefault(option.name)
    assert loaded.getOptimizer().learning_rate == 0.125
    for ours, theirs in zip(loaded.getModel().get_weights(), original.getModel().get_weights(), strict=True):
        assert (ours == theirs).all()


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_fitted_model_keeps_the_estimators_uid_params_and_class(cls: type, data: DataFrame, tmp_path: Any) -> None:
    estimator = ready(cls, predictionCol="told")
    fitted = estimator.fit(data)
    assert type(fitted) is cls.model_class
    assert type(fitted) in MODELS
    assert fitted.uid == estimator.uid
    assert fitted.getPredictionCol() == "told"
    path = str(tmp_path / "model")
    fitted.write().save(path)
    loaded = type(fitted).load(path)
    assert loaded.uid == fitted.uid
    assert loaded.summary == fitted.summary
    assert loaded.extractParamMap() == fitted.extractParamMap()
    before = {row["id"]: row for row in fitted.transform(data).collect()}
    assert {row["id"]: row for row in loaded.transform(data).collect()} == before
