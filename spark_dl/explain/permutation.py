"""`PermutationImportance`: how much worse a model gets when a column's values are shuffled among the rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl.data.column import quoted
from spark_dl.data.columns import kind_of
from spark_dl.errors import DataError, OptionError, explain, hint
from spark_dl.explain.checks import check_count
from spark_dl.figures import importance_figure
from spark_dl.ml.evaluation import evaluate, keras_stage, rows_for
from spark_dl.ml.model import KerasModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ColumnImportance", "Importances", "PermutationImportance"]

# Rows among which values are exchanged: enough that hardly any row keeps its own, and few enough for images.
_GROUP = 512


@dataclass(frozen=True)
class ColumnImportance:
    """Importance of one column.

    Attributes:
        column: The column's name.
        importance: The mean over the repeats of how much worse the metric is with the column shuffled.
        standardError: The standard error of that mean; NaN for one repeat.
        values: How much worse it was in each repeat.
    """

    column: str
    importance: float
    standardError: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Importances:
    """Importances of a model's columns, the most important one first.

    Attributes:
        metric: The name of the metric.
        baseline: The metric on the rows as they are.
        columns: The importance of each column.
    """

    metric: str
    baseline: float
    columns: tuple[ColumnImportance, ...]

    def figure(self) -> Figure:
        """Plot the importances with their standard errors."""
        return importance_figure(
            {one.column: (one.importance, one.standardError) for one in self.columns}, self.metric, self.baseline
        )


class PermutationImportance:
    """Permutation importance of columns for a fitted model or Pipeline: how much a metric worsens without the column.

    Each column's values are permuted within random groups of rows, and the model is evaluated on the cluster. Unlike
    gradients, it needs no differentiable model, and measures a column's effect on a metric of test rows. Correlated
    columns share their importance, so that each alone seems unimportant.

    Source: Breiman: Random Forests, Machine Learning 45, 2001; Fisher, Rudin and Dominici, JMLR 20, 2019.

    Args:
        model: A KerasModel, or a PipelineModel or a search's result with one, as `spark_dl.evaluate` takes.
        metric: The name of the metric in `evaluate`'s result.
        columns: The columns; None for the model's feature columns. For a Pipeline, its input columns must be named.
        repeats: The number of times that each column is shuffled.
        seed: The seed of the shuffles.
        largerIsBetter: Whether larger values of the metric are better; None to take the metric's own direction.

    Raises:
        OptionError: repeats is no integer from 1 on, columns is no list of names, or is missing for a Pipeline.
        ModelError: There is no Keras model.
    """

    def __init__(
        self,
        model: Any,
        *,
        metric: str = "loss",
        columns: Sequence[str] | None = None,
        repeats: int = 5,
        seed: int = 0,
        largerIsBetter: bool | None = None,
    ) -> None:
        check_count("repeats", repeats)
        if columns is not None and (isinstance(columns, str) or not len(columns)):
            raise OptionError(
                explain(
                    "columns can't be used.",
                    expected="a list of the names of columns, or None",
                    received=repr(columns),
                    fix=f"Write [{columns!r}] for one column." if columns else "Leave columns out.",
                )
            )
        self._model, self._stage = model, keras_stage(model)
        if columns is None and not isinstance(model, KerasModel):
            raise OptionError(
                explain(
                    "It isn't known which columns of a Pipeline to shuffle.",
                    expected="columns=<the Pipeline's input columns>",
                    received="columns=None",
                    fix="Name the columns that go into the Pipeline's first stages.",
                )
            )
        self._columns = None if columns is None else list(dict.fromkeys(columns))
        self._metric, self._repeats, self._seed, self._larger = metric, repeats, seed, largerIsBetter

    def compute(self, dataset: DataFrame) -> Importances:
        """Compute the importances on rows with labels: those of a validation or test set.

        The rows are read once for the metric itself and once for each shuffle; cache what takes long to compute.

        Raises:
            DataError: A column is missing, or a column or value can't be converted for the model.
            OptionError: A column is a label or the weight, too; the model has no such metric, or it isn't known whether
                larger values of it are better.
        """
        columns = self._shuffled_columns(dataset)
        self._check_labels(dataset, columns)
        dataset = self._evaluated(dataset)
        rows = dataset.count()
        baseline = self._measured(dataset)
        sign = -1.0 if self._larger_is_better(dataset) else 1.0
        found = []
        for index, column in enumerate(columns):
            values = tuple(
                sign
                * (
                    self._measured(_shuffled(dataset, column, rows, self._seed + index * self._repeats + repeat))
                    - baseline
                )
                for repeat in range(self._repeats)
            )
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            found.append(ColumnImportance(column, statistics.fmean(values), error, values))
        return Importances(self._metric, baseline, tuple(sorted(found, key=lambda one: -one.importance)))

    def _shuffled_columns(self, dataset: DataFrame) -> list[str]:
        columns = self._columns
        if columns is None:
            features = self._stage._scoring(dataset.schema).features
            columns = list(dict.fromkeys(column.name for spec in features for column in spec.columns))
        for name in columns:
            if name not in dataset.columns:
                raise DataError(
                    explain(
                        f"The DataFrame has no column {name!r}.",
                        expected="the columns to shuffle",
                        received=f"columns {', '.join(dataset.columns)}",
                        fix=hint(name, dataset.columns),
                    )
                )
        return columns

    def _check_labels(self, dataset: DataFrame, columns: Sequence[str]) -> None:
        """Check that no column is a label, too, as of an autoencoder: its copy would be shuffled with it."""
        conversion = self._stage._evaluation(rows_for(self._model, dataset).schema).conversion
        others = [column.name for spec in conversion.labels for column in spec.columns]
        others += [conversion.weight.name] if conversion.weight else []
        for name in columns:
            if name in others:
                raise OptionError(
                    explain(
                        f"The column {name!r} can't be shuffled: the metric reads it as a label or weight, too.",
                        expected="columns that are only features",
                        received=f"labels and weight {', '.join(others)}",
                        fix="Copy the label to a column of another name, and set labelCol of the model to it.",
                    )
                )

    def _evaluated(self, dataset: DataFrame) -> DataFrame:
        """Return the rows that evaluation keeps under nullPolicy, so that those of each shuffle are the same rows."""
        if not isinstance(self._model, KerasModel):
            return dataset  # the Pipeline's stages make the columns
        for column in self._stage._evaluation(dataset.schema).conversion.columns:
            if column.drop:
                dataset = dataset.where(kind_of(column).is_present(column))
        return dataset

    def _measured(self, dataset: DataFrame) -> float:
        found = evaluate(self._model, dataset)
        value = found.get(self._metric)
        if not isinstance(value, (int, float)):
            numbers = [name for name, one in found.items() if isinstance(one, (int, float))]
            raise OptionError(
                explain(
                    f"The model has no metric {self._metric!r} with one value.",
                    expected=f"one of {', '.join(numbers)}",
                    received=self._metric,
                    fix=hint(self._metric, numbers),
                )
            )
        return float(value)

    def _larger_is_better(self, dataset: DataFrame) -> bool:
        if self._larger is not None:
            return self._larger
        from spark_dl.train.metrics.best import mode_of  # late import: loads Keras

        mode = mode_of(self._stage._evaluation(rows_for(self._model, dataset).schema).load()[0], self._metric)
        if not mode:
            raise OptionError(
                explain(
                    f"It isn't known whether larger values of {self._metric!r} are better.",
                    expected="largerIsBetter=True or False",
                    received="None, and a metric without a known direction",
                    fix="Set largerIsBetter.",
                )
            )
        return mode == "max"


def _shuffled(dataset: DataFrame, column: str, rows: int, seed: int) -> DataFrame:
    """Exchange a column's values among the rows of random groups, by expressions that any column type takes.

    Args:
        dataset: The rows.
        column: The column.
        rows: The number of rows.
        seed: The seed.
    """
    groups = max(1, rows // _GROUP)
    own, others = F.struct(quoted(column)), [quoted(name) for name in dataset.columns if name != column]
    # In structs, as collect_list would leave nulls out; both lists have the same order.
    lists = dataset.groupBy(F.floor(F.rand(seed) * groups).alias("group")).agg(
        F.collect_list(F.struct(*others)).alias("others"), F.collect_list(own).alias("own")
    )
    pairs = lists.select(F.explode(F.arrays_zip("others", F.shuffle("own", seed).alias("own"))).alias("pair"))
    return pairs.select("pair.others.*", "pair.own.*").select([quoted(name) for name in dataset.columns])
