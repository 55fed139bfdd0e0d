"""What a federated fit refuses before any Spark job, and the silos that it does."""

from __future__ import annotations

from typing import Any

import keras
import models
import pytest
from pyspark.sql.types import ArrayType, DoubleType, FloatType, StringType, StructType

from spark_dl import KerasClassifier
from spark_dl.errors import ClusterError, DataError, ModelError, OptionError
from spark_dl.federated.checks import check_arguments, check_model, check_options, check_silo_column
from spark_dl.federated.silos import Silo, check_named, check_slots
from spark_dl.fit.spec import build_fit_spec

COLUMNS = StructType().add("features", ArrayType(FloatType())).add("label", DoubleType()).add("hospital", StringType())
SILOS = [Silo("a", 10), Silo("b", 20)]


class OwnStep(keras.Model):
    """A model with a train step of its own."""

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": keras.Model}, "estimator can't be used"),
        ({"rounds": 0}, "rounds can't be used"),
        ({"local_epochs": 1.5}, "localEpochs can't be used"),
        ({"proximal": -1.0}, "proximal can't be used"),
        ({"silos": "ab"}, "silos can't be used"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    usable = {"estimator": KerasClassifier(), "rounds": 5, "local_epochs": 1, "proximal": 0, "silos": ["a", "b"]}
    check_arguments(**usable)
    with pytest.raises(OptionError, match=message):
        check_arguments(**{**usable, **arguments})


@pytest.mark.parametrize(
    "options", [{"epochs": 3}, {"globalBatchSize": 8}, {"checkpointDir": "/c"}, {"learningRateScaling": "sqrt"}]
)
def test_options_of_joined_batches_are_refused(options: dict[str, Any]) -> None:
    check_options(KerasClassifier(batchSize=8, restoreBestWeights=True)._options())
    with pytest.raises(OptionError, match=rf"can't have {next(iter(options))}: .*Leave"):
        check_options(KerasClassifier(**options)._options())


@pytest.mark.parametrize(
    ("name", "message"),
    [("hospitl", r"isn't a column.*hospital"), (3, "isn't a column"), ("features", "can't name silos.*array<float>")],
)
def test_the_column_of_silos_is_checked(name: Any, message: str) -> None:
    check_silo_column(COLUMNS, "hospital")
    with pytest.raises(DataError, match=message):
        check_silo_column(COLUMNS, name)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtypePolicy": "mixed_float16"}, ModelError, "an optimizer that scales the loss"),
        ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, OptionError, "read the logs of each step.*TerminateOnNaN"),
        ({"callbacks": [keras.callbacks.EarlyStopping("loss")]}, None, ""),
    ],
)
def test_models_and_callbacks_that_need_joined_steps_are_refused(options: Any, error: Any, message: str) -> None:
    estimator = KerasClassifier(model=models.classifier(), numWorkers=2, **options)
    spec = build_fit_spec(estimator, COLUMNS, estimator._options())
    if error is None:
        check_model(spec)
    else:
        with pytest.raises(error, match=message):
            check_model(spec)


def test_a_model_with_its_own_step_is_refused() -> None:
    whole = models.classifier()
    model = OwnStep(whole.inputs, whole.outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    estimator = KerasClassifier(model=model, numWorkers=2)
    with pytest.raises(ModelError, match="a custom train_step or compute_loss"):
        check_model(build_fit_spec(estimator, COLUMNS, estimator._options()))


def test_silos_are_those_that_were_named() -> None:
    check_named(SILOS, None, "hospital")
    check_named(SILOS, ["b", "a"], "hospital")
    with pytest.raises(DataError, match=r"Silos have no rows: 'c'\."):
        check_named(SILOS, ["a", "b", "c"], "hospital")
    with pytest.raises(DataError, match=r"no rows: '0'\..*Received: ward: 0\."):
        check_named([Silo(0, 5)], ["0"], "ward")
    with pytest.raises(DataError, match=r"aren't named in silos: b\."):
        check_named(SILOS, ["a"], "hospital")


def test_each_silo_has_a_rank_and_a_slot() -> None:
    check_slots(SILOS, None, None)
    check_slots(SILOS, 2, 2)
    with pytest.raises(OptionError, match=r"numWorkers=3, but there are 2 silos.*a, b"):
        check_slots(SILOS, 3, 4)
    with pytest.raises(ClusterError, match=r"2 silos are more than the cluster's 1 slots.*a, b"):
        check_slots(SILOS, None, 1)
