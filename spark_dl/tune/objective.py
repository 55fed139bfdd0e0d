"""What a search optimizes: a metric of the fit, or a Spark evaluator's value on the validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle
import optuna
from pyspark.ml.evaluation import Evaluator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl.data.column import quoted
from spark_dl.errors import OptionError, explain, hint
from spark_dl.fit.monitor_check import with_metrics
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.tune.space import Space

if TYPE_CHECKING:
    import keras

    from spark_dl.fit.spec import FitSpec
    from spark_dl.options import EstimatorOptions

__all__ = ["Objective"]


@dataclass(frozen=True)
class Objective:
    """What a search optimizes.

    Attributes:
        name: The name of the metric.
        direction: "minimize" or "maximize".
        evaluator: The evaluator; None for a metric of the fit.
        rows: The rows that the evaluator gets.
    """

    name: str
    direction: str
    evaluator: Evaluator | None = None
    rows: DataFrame | None = None

    @staticmethod
    def of(estimator: KerasEstimator, metric: str | Evaluator, dataset: DataFrame, space: Space) -> Objective:
        """Find the direction of a metric, or the rows of an evaluator, by an estimator's options.

        Args:
            estimator: The estimator.
            metric: The name of a metric, or an evaluator.
            dataset: The rows.
            space: The space, a point of which has a model whose metrics say their direction.

        Raises:
            OptionError: The direction is unknown, or there are no validation rows for an evaluator.
        """
        options = estimator._options()
        if isinstance(metric, str):
            _check_validated(options, metric)
            return Objective(metric, "maximize" if _mode(estimator, metric, dataset, space) == "max" else "minimize")
        if options.validation_data is None and options.validation_col is None:
            raise OptionError(
                explain(
                    "There are no rows for the evaluator.",
                    expected="validationCol or validationData, or a metric's name in place of the evaluator",
                    received=f"validationFraction={options.validation_fraction}",
                    fix="Set validationCol to a column that marks the validation rows.",
                )
            )
        rows = options.validation_data
        if rows is None:
            rows = dataset.where(F.col(quoted(options.validation_col or "")).cast("boolean"))
        direction = "maximize" if metric.isLargerBetter() else "minimize"
        name = metric.getOrDefault("metricName") if metric.hasParam("metricName") else type(metric).__name__
        return Objective(name, direction, metric, rows)

    def value(self, model: KerasModel, best_epoch: bool) -> float:
        """Measure a fitted model: by its validation rows, or in the epoch whose weights it has.

        Args:
            model: The fitted model.
            best_epoch: Whether it has the weights of its best epoch (restoreBestWeights), and not of the last.
        """
        if self.evaluator is not None and self.rows is not None:
            return float(self.evaluator.evaluate(model.transform(self.rows)))
        summary = model.summary
        known = best_epoch and summary.best_epoch >= 0
        return float(summary.history[self.name][summary.best_epoch - summary.first_epoch if known else -1])

    def of_epoch(self, metrics: dict[str, Any]) -> float:
        """Return the metric of an epoch.

        Raises:
            OptionError: The fit has no such metric, or one with several values.
        """
        value = metrics.get(self.name)
        if not isinstance(value, (int, float)):
            numbers = [name for name, one in metrics.items() if isinstance(one, (int, float))]
            raise OptionError(
                explain(
                    f"The fit has no metric {self.name!r} with one value.",
                    expected=f"one of {', '.join(numbers)}",
                    received=self.name,
                    fix=hint(self.name, numbers),
                )
            )
        return float(value)


def _check_validated(options: EstimatorOptions, metric: str) -> None:
    validated = options.validation_col or options.validation_fraction or options.validation_data is not None
    if metric.startswith("val_") and not validated:
        raise OptionError(
            explain(
                f"The metric {metric!r} needs validation rows.",
                expected="validationCol, validationFraction or validationData",
                received="none of them",
                fix="Set one of them, or search by a metric of the training rows.",
            )
        )


def _mode(estimator: KerasEstimator, metric: str, dataset: DataFrame, space: Space) -> str:
    if metric.endswith("loss"):
        return "min"
    options = estimator._options()
    if metric == options.monitor and options.monitor_mode != "auto":
        return options.monitor_mode
    from spark_dl.train.metrics.best import mode_of  # late import: loads Keras

    point = space.suggest(optuna.create_study().ask())
    spec, _ = space.estimator(point)._checked(dataset)
    mode = mode_of(_with_metrics(spec), metric)
    if not mode:
        raise OptionError(
            explain(
                f"It is unknown whether {metric!r} is better when lower or higher.",
                expected="a metric of the model with a known direction",
                received=metric,
                fix=f"Set monitor={metric!r} and monitorMode='min' or 'max' on the estimator; or check the name: "
                "metrics of validation rows begin with val_.",
            )
        )
    return mode


def _with_metrics(spec: FitSpec) -> keras.Model:
    """Return a copy of a fit's model, with its metrics built if Keras can build them before the first step."""
    from spark_dl.train.model.examples import examples_of_model  # late imports: load Keras
    from spark_dl.train.model.serialization import from_bytes

    model = from_bytes(spec.content, cloudpickle.loads(spec.custom_objects))
    inputs = {one.name: (one.shape, one.dtype) for one in spec.inputs}
    examples = examples_of_model(model, spec.conversion.tensors)
    return with_metrics(model, inputs, examples, spec.conversion.weight is not None) or model
