"""Evaluator of predictions with a class for each position, computed in Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.ml.evaluation import Evaluator
from pyspark.ml.param import TypeConverters
from pyspark.ml.param.shared import HasLabelCol, HasPredictionCol
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl._compat.spark_ml import class_param
from spark_dl.data.column import quoted
from spark_dl.errors import DataError, OptionError, explain, hint
from spark_dl.ml.persistence import Saved

__all__ = ["TokenEvaluator"]

_METRICS = ("accuracy", "f1", "microF1")


def _metric(value: Any) -> str:
    """Return the name of a metric.

    Raises:
        OptionError: There is no such metric.
    """
    if value not in _METRICS:
        raise OptionError(
            explain(
                f"There is no metric {value!r}.",
                expected=f"one of {', '.join(_METRICS)}",
                received=f"metricName={value!r}",
                fix=hint(str(value), _METRICS),
            )
        )
    return str(value)


class TokenEvaluator(HasLabelCol, HasPredictionCol, Saved, Evaluator):
    """Evaluator that compares arrays of tags position by position, for CrossValidator and on its own.

    A row counts as many positions as it has true tags: predictions beyond them are those of padding, and true tags
    beyond the predictions, of words that were cut, count as not found.

    It is saved and loaded as Spark's evaluators are, also within a CrossValidator.

    Args:
        labelCol: The column of true tags, an array for each row: class indices, or names.
        predictionCol: The column of predicted tags, such as the predictionCol or the tagsCol of a KerasTaggerModel.
        metricName: "accuracy"; "f1", the mean of the F1 of all tags that occur; or "microF1", the F1 of all tags
            together.
        ignored: True tags whose positions don't count, such as that of padding.
        maskCol: A column of arrays of numbers or booleans: positions with 0 or false don't count. None for no mask.
        outside: Predicted and true tags that aren't counted in F1, such as "O" of named entities. Positions with them
            still count as errors of other tags.

    Example:

        >>> from pyspark.sql import SparkSession
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> scored = spark.sql("SELECT array(0, 1, 1, -1) AS label, array(0D, 1D, 0D, 1D) AS prediction")
        >>> round(TokenEvaluator(ignored=[-1]).evaluate(scored), 3)
        0.667
        >>> {tag: round(f1, 3) for tag, f1 in TokenEvaluator(ignored=[-1]).f1ByTag(scored).items()}
        {0: 0.667, 1: 0.667}
        >>> spark.stop()
    """

    metricName = class_param("metricName", f"The metric: {', '.join(_METRICS)}.", _metric)
    ignored = class_param("ignored", "True tags whose positions don't count.", TypeConverters.toList)
    maskCol = class_param("maskCol", "The column of masks: positions with 0 or false don't count.", str)
    outside = class_param("outside", "Tags that aren't counted in F1.", TypeConverters.toList)

    def __init__(
        self,
        *,
        labelCol: str = "label",
        predictionCol: str = "prediction",
        metricName: str = "accuracy",
        ignored: Sequence[Any] = (),
        maskCol: str | None = None,
        outside: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self._setDefault(labelCol="label", predictionCol="prediction", metricName="accuracy", ignored=[], outside=[])
        masked = {} if maskCol is None else {"maskCol": maskCol}
        given = {"metricName": metricName, "ignored": list(ignored), "outside": list(outside), **masked}
        self.setParams(labelCol=labelCol, predictionCol=predictionCol, **given)

    def setParams(self, **values: Any) -> TokenEvaluator:
        """Set several params, by the names of the constructor's arguments.

        Raises:
            OptionError: There is no param of a name, or a value can't be used.
        """
        names = [param.name for param in self.params]
        for name in values:
            if name not in names:
                raise OptionError(
                    explain(
                        f"TokenEvaluator has no param {name!r}.",
                        expected=f"one of {', '.join(names)}",
                        received=name,
                        fix=hint(name, names),
                    )
                )
        self._set(**values)
        return self

    def getMetricName(self) -> str:
        """Return the name of the metric."""
        return str(self.getOrDefault(self.metricName))

    def _to_saved(self) -> tuple[dict[str, Any], None, dict[str, Any]]:
        """Return what `Writer` saves: no metadata of its own, no model, and the params."""
        return {}, None, {param.name: self.getOrDefault(param) for param in self.params if self.isSet(param)}

    @classmethod
    def _from_saved(cls, facts: dict[str, Any], content: bytes | None) -> TokenEvaluator:
        """Make an evaluator; `Reader` sets its params."""
        return cls()

    def isLargerBetter(self) -> bool:
        """Return True: all metrics are better when larger."""
        return True

    def f1ByTag(self, dataset: DataFrame) -> dict[Any, float]:
        """Return the F1 of each tag that occurs among the true or the predicted ones, by the tag.

        Args:
            dataset: The DataFrame with both columns.

        Raises:
            DataError: A column is missing, an array is null or a mask of another length, or no position counts.
        """
        counts = self._counts(dataset)
        tags = sorted(self._tags(counts), key=lambda tag: (str(type(tag)), tag))
        return {tag: _f1(counts, {tag}) for tag in tags}

    def _evaluate(self, dataset: DataFrame) -> float:
        if self.getMetricName() == "f1":
            each = self.f1ByTag(dataset)
            return sum(each.values()) / len(each) if each else 0.0
        counts = self._counts(dataset)
        if self.getMetricName() == "microF1":
            return _f1(counts, self._tags(counts))
        return sum(rows for (true, found), rows in counts.items() if true == found) / sum(counts.values())

    def _tags(self, counts: Mapping[tuple[Any, Any], int]) -> set[Any]:
        """Return the tags that count in F1."""
        return {tag for pair in counts for tag in pair if tag is not None} - set(self.getOrDefault(self.outside))

    def _counts(self, dataset: DataFrame) -> dict[tuple[Any, Any], int]:
        """Count the positions by true and predicted tag, which is None beyond the predictions."""
        ignored = self.getOrDefault(self.ignored)
        mask_col = self.getOrDefault(self.maskCol) if self.isDefined(self.maskCol) else None
        names = [self.getLabelCol(), self.getPredictionCol(), *([mask_col] if mask_col else [])]
        for name in names:
            if name not in dataset.columns:
                raise DataError(
                    explain(
                        f"The DataFrame has no column {name!r}.",
                        expected=", ".join(names),
                        received=f"columns {', '.join(dataset.columns)}",
                        fix=hint(name, dataset.columns),
                    )
                )
        true, found, *mask = (F.col(quoted(name)) for name in names)
        alike = true.isNotNull() & found.isNotNull()
        for column in mask:
            alike = alike & F.coalesce(F.size(column) == F.size(true), F.lit(False))
        kept = [F.transform(column, lambda value: value.cast("double") != 0) for column in mask]
        found = F.slice(found, 1, F.size(true))
        parts = F.arrays_zip(true.alias("true"), found.alias("found"), *(column.alias("kept") for column in kept))
        positions = dataset.select(F.when(alike, parts).alias("parts"), alike.alias("alike"))
        each = positions.select("alike", F.explode_outer("parts").alias("at"))
        each = each.select("alike", *(F.col(f"at.{field}") for field in ("true", "found", "kept")[: len(names)]))
        if mask:
            each = each.where("kept OR NOT alike")
        rows = each.groupBy("alike", "true", "found").count().collect()
        if wrong := sum(row["count"] for row in rows if not row["alike"]):
            raise DataError(
                explain(
                    "Rows have no true or predicted tags, or a mask of another length.",
                    expected="two arrays in each row, and in maskCol one as long as the true tags",
                    received=f"{wrong} row{'s' * (wrong != 1)} with a null or another length",
                    fix=f"Check the columns {', '.join(names)}.",
                )
            )
        counts = {
            (_tag(row["true"]), _tag(row["found"])): row["count"]
            for row in rows
            if row["true"] is not None and _tag(row["true"]) not in ignored
        }
        if not counts:
            raise DataError(
                explain(
                    "No position counts.",
                    expected="at least one true tag that is neither ignored nor masked",
                    received=f"ignored={ignored}, maskCol={mask_col!r}",
                    fix="Check the filter of the rows, ignored and maskCol.",
                )
            )
        return counts


def _tag(value: Any) -> Any:
    """Return a class index as an integer, whatever type its column has; other tags as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _f1(counts: Mapping[tuple[Any, Any], int], tags: set[Any]) -> float:
    """Return the F1 of some tags together: 2 * right / (true + predicted)."""
    right = sum(rows for (true, found), rows in counts.items() if true == found and true in tags)
    both = sum(rows * ((true in tags) + (found in tags)) for (true, found), rows in counts.items())
    return 2 * right / both if both else 0.0
