"""`OptunaSearch`: an Estimator that searches the options of another one, trial by trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from pyspark.ml.base import Estimator, Model
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.util import MLWritable
from pyspark.sql import DataFrame

from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.fit.initial_model import display_name
from spark_dl.fit.progress import Progress
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import cores_now, setting_of, slots_of
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.ml.shared_rows import SharedRows
from spark_dl.options import options_of
from spark_dl.redaction import redacted_errors
from spark_dl.spark.session import master_of
from spark_dl.track import Record, tracker
from spark_dl.tune.objective import Objective
from spark_dl.tune.space import Space, SpaceLike
from spark_dl.tune.study import open_study
from spark_dl.tune.trials import Trials

if TYPE_CHECKING:
    from pyspark.ml._typing import ParamMap

    from spark_dl.options import EstimatorOptions

__all__ = ["OptunaSearch", "OptunaSearchModel"]

# Models have other names in each call, and can't be compared by them.
_MODELS = ("model", "warmStart")
# Values that their repr describes; others are described by their names.
_PLAIN = (str, int, float, dict, type(None))


class OptunaSearchModel(Model, MLWritable):
    """Result of a search: the model of the best trial, which it scores and saves.

    Attributes:
        bestModel: The fitted model of the best trial.
        bestParams: The values of that trial, by option.
        bestValue: Its value of the metric.
        study: The Optuna study, with all trials.
    """

    def __init__(
        self, bestModel: KerasModel, bestParams: dict[str, Any], bestValue: float, study: optuna.Study
    ) -> None:
        super().__init__()
        self._resetUid(bestModel.uid)  # a Pipeline saves the best model in its place
        self.bestModel, self.bestParams, self.bestValue, self.study = bestModel, bestParams, bestValue, study

    def copy(self, extra: ParamMap | None = None) -> OptunaSearchModel:
        """Return a copy whose best model has these params, too."""
        return OptunaSearchModel(self.bestModel.copy(extra), self.bestParams, self.bestValue, self.study)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        return self.bestModel.transform(dataset)

    def write(self) -> Any:
        """Return the writer of the best model; `load` of the best model's class reads what it saves."""
        return self.bestModel.write()


class OptunaSearch(Estimator[OptunaSearchModel]):
    """Estimator that searches the options of an estimator with Optuna, and returns the best model.

    The rows are converted once for all trials that need the same conversion. As many trials run in parallel as the
    cluster has slots for. A trial whose metric is worse than that of others is pruned after an epoch. With MLflow, the
    search is a run, and each trial a nested run. The study is stored, so that a search whose driver was killed resumes
    when it is called again with the same study.

    The best model is that of the trial itself. If an earlier driver has trained it, the trial is trained again; the
    same seed and number of workers give the same weights.

    Source: Akiba et al.: Optuna, KDD 2019.

    Args:
        estimator: The estimator.
        space: The options to vary: a dict whose values are Optuna's distributions or lists of choices, with
            `modelParams` as a dict by the parameters of modelFn; or a function of an `optuna.Trial` that returns values
            by option.
        metric: The name of a metric of the fit, such as "val_loss"; or a Spark evaluator, which scores the rows of
            `validationCol` or `validationData` and prunes nothing.
        trials: The number of trials, those of earlier calls with the same study included.
        timeout: The seconds after which no further trial starts; None for no limit.
        study: The name of a study in sqlite:///spark_dl_studies.db; None for a new one there; or an `optuna.Study` with
            its own storage, sampler and pruner. One driver at a time may use it.
        parallelism: The largest number of parallel trials; None for as many as the slots allow.

    Raises:
        OptionError: A value can't be used, or the estimator has no such option.

    `fit` raises OptionError for a study of another search or of other rows, and ModelError if no trial has a value.
    """

    def __init__(
        self,
        estimator: KerasEstimator,
        space: SpaceLike,
        metric: str | Evaluator = "val_loss",
        trials: int = 20,
        timeout: float | None = None,
        study: optuna.Study | str | None = None,
        parallelism: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(estimator, KerasEstimator):
            raise OptionError(
                explain(
                    "The estimator can't be searched.",
                    expected="a KerasEstimator, KerasClassifier, KerasRegressor or KerasTagger",
                    received=type(estimator).__name__,
                    fix="Fit the stages before it first; or search a Pipeline with Spark's CrossValidator.",
                )
            )
        for name, number in {"trials": trials, "parallelism": parallelism}.items():
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise _unusable(name, "an integer >= 1", number)
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
            raise _unusable("timeout", "a number of seconds, or None", timeout)
        if not isinstance(metric, (str, Evaluator)):
            raise _unusable("metric", "the name of a metric, or an evaluator", metric)
        if not (study is None or isinstance(study, optuna.Study)) and (not isinstance(study, str) or "://" in study):
            expected = "the name of a study, or optuna.create_study(study_name=..., storage=URL, load_if_exists=True)"
            raise _unusable("study", expected, study)
        self._estimator, self._space, self._metric = estimator, Space(space, estimator), metric
        self._trials, self._timeout, self._study, self._parallelism = trials, timeout, study, parallelism

    def copy(self, extra: ParamMap | None = None) -> OptunaSearch:
        """Return a copy whose estimator has these params, too."""
        that = super().copy(extra)
        that._estimator = self._estimator.copy(extra)
        that._space = self._space.of(that._estimator)
        return that

    @redacted_errors()
    def _fit(self, dataset: DataFrame) -> OptunaSearchModel:
        options = self._estimator._options()
        _check_unregistered(options)
        objective = Objective.of(self._estimator, self._metric, dataset, self._space)
        study = open_study(self._study, objective.direction, self._described(dataset), options.seed)
        record = Record(self._tracker(options), {"space": str(self._space), "metric": objective.name}, {})
        with Progress(options.verbose, options.epochs, steps=0) as progress, record, SharedRows() as shared:
            record.open()
            trials = Trials(self._space, objective, dataset, study, shared, record, progress)
            trials.run(self._trials, self._timeout, self._at_once(dataset, options))
            best = _best(study)
            values = self._space.suggest(FixedTrial(best.params))
            return OptunaSearchModel(trials.model_of(best, values), values, float(best.value or 0.0), study)

    def _described(self, dataset: DataFrame) -> dict[str, str]:
        """Describe what values of one study must have in common."""
        options = self._estimator._options()
        varied = (*_MODELS, *self._space.names)
        fixed = {
            option.name: repr(value) if isinstance(value, _PLAIN) else display_name(value)
            for option in options_of(type(options))
            if option.name not in varied and (option.on_resume != "any" or option.name == "epochs")
            for value in [getattr(options, option.field)]
            if value != option.default
        }
        metric = self._metric
        if isinstance(metric, Evaluator):
            params = {param.name: value for param, value in metric.extractParamMap().items()}
            metric = f"{type(metric).__name__} {sorted(params.items())}"
        return {
            "estimator": type(self._estimator).__name__,
            "space": str(self._space),
            "metric": metric,
            "columns": dataset.schema.simpleString(),
            "options": str(fixed),
        }

    def _tracker(self, options: EstimatorOptions) -> Any:
        return tracker(
            options.tracking,
            experiment_name=options.experiment_name,
            run_name=options.run_name,
            registered_model_name=None,
        )

    def _at_once(self, dataset: DataFrame, options: EstimatorOptions) -> int:
        spark = dataset.sparkSession
        slots = slots_of(master_of(spark), setting_of(spark), LaunchSettings.of(options))
        if slots is None:  # the settings don't say how many executors there are
            slots = (cores_now(spark) or 0) // (
                options.cpus_per_worker or int(setting_of(spark)("spark.task.cpus", "1"))
            )
        return min(max(1, slots // self._space.fewest_workers), self._parallelism or self._trials)


def _best(study: optuna.Study) -> FrozenTrial:
    """Return the best trial.

    Raises:
        ModelError: No trial has a value.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise ModelError(
            explain(
                "No trial of the search has a value.",
                expected="one trial that isn't pruned, whose metric is finite",
                received=f"{len(study.get_trials(deepcopy=False))} trials",
                fix="Allow more trials or time, or narrow the space (lower learning rates).",
            )
        )
    return study.best_trial


def _check_unregistered(options: EstimatorOptions) -> None:
    if options.registered_model_name is not None:
        raise OptionError(
            explain(
                "Each trial would register its model.",
                expected="an estimator without registeredModelName",
                received=options.registered_model_name,
                fix="Register the best one: spark_dl.mlflow.log_model(found.bestModel, registered_model_name=...).",
            )
        )


def _unusable(name: str, expected: str, received: Any) -> OptionError:
    return OptionError(
        explain(
            f"{name} can't be used.",
            expected=expected,
            received=f"{received!r} ({type(received).__name__})",
            fix=f"Set another {name}.",
        )
    )
