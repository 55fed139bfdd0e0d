"""The space of a search and its study, without Spark."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import keras
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FixedTrial, TrialState
from pyspark.ml import Pipeline

from spark_dl import KerasClassifier
from spark_dl.errors import OptionError
from spark_dl.tune import OptunaSearch
from spark_dl.tune.objective import Objective
from spark_dl.tune.space import Space
from spark_dl.tune.study import check_rows, finished, open_study, tell

RATES = FloatDistribution(1e-4, 1e-1, log=True)


def build(width: int, depth: int = 1) -> keras.Model:
    hidden = [keras.layers.Dense(width, "relu") for _ in range(depth)]
    return keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(3, "softmax")])


def classifier(**options: Any) -> KerasClassifier:
    return KerasClassifier(modelFn=build, modelParams={"width": 3, "depth": 2}, numWorkers=2, **options)


def test_values_become_options() -> None:
    adam, sgd = keras.optimizers.Adam(0.1), keras.optimizers.SGD(0.1)
    space = Space(
        {
            "learningRate": RATES,
            "batchSize": IntDistribution(8, 64, log=True),
            "optimizer": [adam, sgd],
            "modelParams": {"width": [4, 8]},
        },
        classifier(),
    )
    choice = next(name for name in space._choices["optimizer"] if name.startswith("1:"))
    trial = FixedTrial({"learningRate": 0.01, "batchSize": 16, "optimizer": choice, "modelParams.width": 8})
    values = space.suggest(trial)
    assert (space.names, "0x" in str(space)) == ({"learningRate", "batchSize", "optimizer", "modelParams"}, False)
    assert values == {"learningRate": 0.01, "batchSize": 16, "optimizer": sgd, "modelParams": {"width": 8}}
    options = space.estimator(values)._options()
    assert (options.learning_rate, options.batch_size, options.optimizer) == (0.01, 16, sgd)
    assert options.model_params == {"width": 8, "depth": 2}  # what the space leaves out stays


def test_a_function_may_ask_for_one_value_by_another() -> None:
    def space(trial: Any) -> dict[str, Any]:
        depth = trial.suggest_int("depth", 1, 3)
        return {"modelParams": {"depth": depth, "width": trial.suggest_int("width", 1, 4 * depth)}}

    found = Space(space, classifier()).suggest(FixedTrial({"depth": 2, "width": 5}))
    assert found == {"modelParams": {"depth": 2, "width": 5}}
    with pytest.raises(OptionError, match=r"no option of the KerasClassifier.*Did you mean 'batchSize'"):
        Space(lambda trial: {"batchsize": 3}, classifier()).suggest(FixedTrial({}))
    with pytest.raises(OptionError, match=r"no space to search.*NoneType"):
        Space(lambda trial: None, classifier()).suggest(FixedTrial({}))


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ({}, "no space to search"),
        (7, "no space to search"),
        ({"learning_rate": RATES}, "'learning_rate', which is no option of the KerasClassifier.*'learningRate'"),
        ({"width": [1, 2]}, "'width', which is no option.*below modelParams"),
        ({"batchSize": [8, 0]}, "batchSize can't have this value.*batchSize=0"),
        ({"batchSize": IntDistribution(-1, 8)}, "batchSize can't have this value.*-1"),
        ({"learningRate": FloatDistribution(0.0, 1.0)}, "learningRate can't have this value.*0.0"),
        ({"epochs": FloatDistribution(1, 5)}, "epochs can't have this value.*an integer"),
        ({"compression": ["fp16", "fp8"]}, "compression can't have this value.*fp8"),
        ({"batchSize": 8}, r"can't take these values of batchSize.*Write \[8\]"),
        ({"modelParams": {"width": "wide"}}, "can't take these values of modelParams.width"),
        ({"epochs": []}, "no choices for epochs"),
        ({"modelParams": {"widht": [1, 2]}}, "modelFn has no parameter 'widht'.*Did you mean 'width'"),
    ],
)
def test_bad_spaces_are_refused(space: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        OptunaSearch(classifier(), space)


def test_model_params_need_a_function() -> None:
    estimator = KerasClassifier(model=build(2))
    with pytest.raises(OptionError, match="modelParams need a modelFn"):
        OptunaSearch(estimator, {"modelParams": {"width": [1, 2]}})
    Space({"modelFn": [build], "modelParams": {"width": [1, 2]}}, estimator)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"estimator": Pipeline(stages=[])}, "The estimator can't be searched.*Pipeline"),
        ({"trials": 0}, "trials can't be used"),
        ({"timeout": "60"}, "timeout can't be used"),
        ({"metric": None}, "metric can't be used"),
        ({"study": "sqlite:///s.db"}, r"study can't be used.*optuna.create_study\(.*storage=URL"),
        ({"space": {"registeredModelName": ["a", "b"]}}, "registeredModelName belongs to the search"),
        ({"parallelism": 1.5}, "parallelism can't be used"),
    ],
)
def test_bad_searches_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        OptunaSearch(**{"estimator": classifier(), "space": {"learningRate": RATES}, **options})


@pytest.mark.parametrize(("workers", "fewest"), [([4, 2], 2), (IntDistribution(3, 5), 3)])
def test_the_fewest_workers_of_a_trial_are_known(workers: Any, fewest: int) -> None:
    assert Space({"numWorkers": workers}, classifier()).fewest_workers == fewest
    assert Space({"learningRate": RATES}, classifier()).fewest_workers == 2


def stored(path: Path, name: str, direction: str = "minimize") -> optuna.Study:
    return optuna.create_study(
        storage=f"sqlite:///{path}/s.db", study_name=name, direction=direction, load_if_exists=True
    )


def test_a_killed_drivers_trials_are_tried_again(tmp_path: Path) -> None:
    search = {"space": "learningRate"}
    study = open_study(stored(tmp_path, "one"), "minimize", search, seed=0)
    done, left = study.ask({"learningRate": RATES}), study.ask({"learningRate": RATES})
    study.tell(done, 1.0)
    again = open_study(stored(tmp_path, "one"), "minimize", search, seed=0)
    states = [trial.state for trial in again.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING]
    assert again.ask({"learningRate": RATES}).params == left.params
    assert finished(again) == 1


def test_values_of_other_rows_are_not_compared(tmp_path: Path) -> None:
    study = stored(tmp_path, "one")
    check_rows(study, "as they are", "0c")
    study.tell(study.ask({"learningRate": RATES}), None, TrialState.FAIL)
    check_rows(study, "as they are", "1a")  # no value was measured on the rows before
    study.tell(study.ask({"learningRate": RATES}), 1.0)
    check_rows(stored(tmp_path, "one"), "as they are", "1a")
    check_rows(study, "weighted", "2b")  # the space varies the conversion
    with pytest.raises(OptionError, match="'one' has values of other rows"):
        check_rows(stored(tmp_path, "one"), "as they are", "3c")


def test_each_call_draws_points_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    points = []
    for _ in range(2):
        study = open_study("one", "minimize", {}, seed=0)
        for _ in range(2):
            trial = study.ask({"learningRate": RATES})
            points.append(trial.params["learningRate"])
            assert tell(study, trial, 1.0)
    assert len(set(points)) == 4


def test_ends_of_trials(tmp_path: Path) -> None:
    study = stored(tmp_path, "one")
    study.enqueue_trial({"width": 4})
    study = open_study(study, "minimize", {}, seed=0)  # what the user has planned is no other program's
    study.sampler = optuna.samplers.GridSampler({"width": [4, 8]})
    widths = {"width": IntDistribution(1, 8)}
    assert tell(study, study.ask(widths), float("nan"))
    assert tell(study, study.ask(widths), 1.0)
    assert not tell(study, study.ask(widths), None, TrialState.PRUNED)  # the grid's last point
    assert finished(study) == 3
    several = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(OptionError, match=r"has another direction.*Received: minimize, maximize"):
        open_study(several, "minimize", {}, seed=0)


def test_a_search_is_copied_with_the_params_of_its_estimator() -> None:
    estimator = classifier()
    search = OptunaSearch(estimator, {"learningRate": RATES})
    copied = search.copy({estimator.epochs: 7})
    assert copied._space.estimator({"learningRate": 0.5})._options().epochs == 7
    assert search._space.estimator({"learningRate": 0.5})._options().epochs == 1


def test_the_direction_is_the_metrics_own() -> None:
    estimator = classifier(validationFraction=0.2, monitor="val_accuracy", monitorMode="max")
    space = Space({"learningRate": RATES}, estimator)
    rows: Any = None  # not needed for these
    assert Objective.of(estimator, "val_loss", rows, space).direction == "minimize"
    assert Objective.of(estimator, "val_accuracy", rows, space).direction == "maximize"


def test_a_study_of_another_search_is_refused(tmp_path: Path) -> None:
    open_study(stored(tmp_path, "one"), "minimize", {"space": "a", "metric": "loss"}, seed=0)
    with pytest.raises(OptionError, match=r"'one' belongs to another search. Expected: space b. Received: space a"):
        open_study(stored(tmp_path, "one"), "minimize", {"space": "b", "metric": "loss"}, seed=0)
    other = stored(tmp_path, "two")
    other.tell(other.ask(), 1.0)
    with pytest.raises(OptionError, match="Received: trials of another program"):
        open_study(other, "minimize", {"space": "a"}, seed=0)
    with pytest.raises(OptionError, match="has another direction"):
        open_study(stored(tmp_path, "three", "maximize"), "minimize", {"space": "a"}, seed=0)


def test_without_optuna_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "spark_dl.tune")
    with pytest.raises(OptionError, match=r"Optuna isn't installed.*spark_dl\[tune\]"):
        importlib.import_module("spark_dl.tune")
