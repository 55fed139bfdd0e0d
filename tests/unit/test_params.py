"""Estimators as their users meet them, without a Spark session: params, setters, getters, help."""

from __future__ import annotations

import inspect
import pickle
import pydoc
from dataclasses import dataclass
from typing import Any

import models
import pytest
from pyspark.sql import SparkSession

from spark_dl import KerasClassifier, KerasClassifierModel, KerasEstimator, KerasModel, KerasRegressor
from spark_dl.errors import OptionError, SavedModelError
from spark_dl.ml.params import OptionParams, with_options
from spark_dl.options import EstimatorOptions, FittedOptions, Option, checks, option

CLASSES = [KerasEstimator, KerasClassifier, KerasRegressor, KerasModel, KerasClassifierModel]
EACH = [(cls, option) for cls in CLASSES for option in cls.options]


@pytest.mark.parametrize("cls", CLASSES)
def test_making_one_needs_no_spark_session(cls: type[OptionParams]) -> None:
    instance = cls()
    assert SparkSession.getActiveSession() is None
    assert {param.name for param in instance.params} == {option.name for option in cls.options}
    assert instance._options() == cls.options_class()


@pytest.mark.parametrize(("cls", "option"), EACH, ids=lambda part: getattr(part, "name", getattr(part, "__name__", "")))
def test_every_option_has_a_param_a_setter_a_getter_and_a_keyword(cls: type[OptionParams], option: Option) -> None:
    title = option.name[0].upper() + option.name[1:]
    value = models.another(option)
    instance = cls()
    setter, getter = getattr(instance, f"set{title}"), getattr(instance, f"get{title}")
    assert getter() == option.default
    assert setter(value) is instance
    assert getter() == value
    assert getattr(cls(**{option.name: value}), f"get{title}")() == value
    assert cls().setParams(**{option.name: value}).getOrDefault(option.name) == value
    assert option.doc in (setter.__doc__ or "")
    assert option.name in (getter.__doc__ or "")
    assert option.doc in instance.explainParam(option.name)


@pytest.mark.parametrize("cls", CLASSES)
def test_signature_and_docstring_show_every_option(cls: type[OptionParams]) -> None:
    parameters = inspect.signature(cls).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        option.name: option.default for option in cls.options
    }
    text = inspect.getdoc(cls) or ""
    assert text.count("Args:") == 1
    words = " ".join(text.split())
    assert all(f"{option.name}: {option.doc} Default: {option.default!r}." in words for option in cls.options)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("how", ["constructor", "setParams"])
def test_an_unknown_param_is_refused_with_the_near_name(how: str) -> None:
    with pytest.raises(OptionError, match=r"KerasClassifier has no param 'lableCol'.*Did you mean 'labelCol'"):
        KerasClassifier(lableCol="y") if how == "constructor" else KerasClassifier().setParams(lableCol="y")


@pytest.mark.parametrize("how", ["constructor", "setParams", "setter"])
def test_a_bad_value_is_refused_where_it_is_set(how: str) -> None:
    estimator = KerasClassifier()
    setting = {
        "constructor": lambda: KerasClassifier(batchSize=0),
        "setParams": lambda: estimator.setParams(batchSize=0),
        "setter": lambda: estimator.setBatchSize(0),
    }[how]
    with pytest.raises(OptionError, match="batchSize can't have this value"):
        setting()
    assert estimator.getBatchSize() == 32


@pytest.mark.parametrize("name", ["batchSize", "featuresCol", "shuffle"])
def test_none_is_refused_where_a_value_is_needed(name: str) -> None:
    with pytest.raises(OptionError, match=name):
        KerasClassifier(**{name: None})


def test_none_unsets_what_may_be_unset() -> None:
    estimator = KerasClassifier(tracking=None, monitor="loss", cacheDir="x")
    assert estimator.getTracking() is None
    assert estimator.setMonitor(None).getMonitor() is None
    assert estimator.setCacheDir(None).getCacheDir() is None


def test_a_copy_is_apart_and_takes_other_values() -> None:
    estimator = KerasClassifier(epochs=3)
    copy = estimator.copy({estimator.batchSize: 7})
    assert (copy.getEpochs(), copy.getBatchSize(), estimator.getBatchSize()) == (3, 7, 32)
    copy.setEpochs(9)
    assert estimator.getEpochs() == 3


def test_instances_do_not_share_their_values() -> None:
    one, other = KerasClassifier(epochs=3), KerasClassifier()
    assert (one.getEpochs(), other.getEpochs()) == (3, 1)
    assert one.uid != other.uid


def test_a_subclass_may_change_a_default_in_one_place() -> None:
    @dataclass(frozen=True, kw_only=True)
    class LongerOptions(EstimatorOptions):
        epochs: int = option("Passes.", checks.integer(1), 50, on_resume="any")

    @with_options(LongerOptions)
    class Longer(KerasRegressor):
        """Trains longer."""

    assert Longer().getEpochs() == Longer()._options().epochs == 50
    assert Longer(epochs=3)._options() == LongerOptions(epochs=3)
    assert KerasRegressor().getEpochs() == 1
    assert "epochs: Passes. Default: 50." in (Longer.__doc__ or "")


def test_a_class_can_not_lose_options_of_its_bases() -> None:
    with pytest.raises(TypeError, match=r"FittedOptions isn't a subclass of EstimatorOptions"):
        with_options(FittedOptions)(KerasRegressor)


@pytest.mark.parametrize("cls", CLASSES)
def test_params_are_pickled_with_their_checks(cls: type[OptionParams]) -> None:
    copy = pickle.loads(pickle.dumps(cls(predictionCol="p")))
    assert copy._options() == cls.options_class(prediction_col="p")
    with pytest.raises(OptionError, match="scoreBatchSize can't have this value"):
        copy.setScoreBatchSize(0)


@pytest.mark.parametrize("use", [lambda model: model.keras(), lambda model: model._to_saved()])
def test_a_model_that_was_not_fitted_says_so(use: Any) -> None:
    with pytest.raises(SavedModelError, match="This KerasClassifierModel holds no model"):
        use(KerasClassifierModel())


def test_help_shows_the_signature_in_lines_that_fit_and_the_docstring_after_it() -> None:
    lines = pydoc.render_doc(KerasClassifier, renderer=pydoc.plaintext).splitlines()
    end = next(number for number, line in enumerate(lines) if "Estimator that trains a Keras classifier" in line)
    start = next(number for number, line in enumerate(lines) if line.startswith(" |  KerasClassifier("))
    signature = lines[start:end]
    assert max(map(len, signature)) < 120
    assert " labelCol='label'," in "\n".join(signature)
    assert inspect.signature(KerasClassifier).parameters["numWorkers"].default == 1
