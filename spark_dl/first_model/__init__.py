"""A first model for a DataFrame, as Keras code made from its columns' types, statistics and categories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame

from spark_dl.first_model.columns import Columns, described_columns
from spark_dl.first_model.source import source_of
from spark_dl.spark.session import use_driver_python

__all__ = ["Suggestion", "suggest"]


@dataclass(frozen=True)
class Suggestion:
    """A suggested model: Python code to keep and change, and the estimator that it makes.

    Attributes:
        code: The source text. It imports Keras and `spark_dl` and defines `build`, which returns the Keras model, and
            `estimator`.
        columns: What the code was made from: the columns, their roles and their statistics.
    """

    code: str
    columns: Columns

    def __str__(self) -> str:
        return self.code

    def estimator(self, **options: Any) -> Any:
        """Return the estimator of the code, not fitted.

        Args:
            options: Params of the estimator to set instead of the code's, such as epochs, numWorkers or tracking.

        Raises:
            OptionError: There is no param of a name, or a value can't be used.
        """
        names: dict[str, Any] = {"__name__": "suggested_model"}
        exec(compile(self.code, "<suggested model>", "exec"), names)  # noqa: S102 (the code that `source_of` has made)
        return names["estimator"].setParams(**options)


def suggest(dataset: DataFrame, labelCol: str = "label", task: str | None = None) -> Suggestion:
    """Suggest a first model for a DataFrame: a network for all columns that a model can use, in readable code.

    - Numbers are standardised by the DataFrame's own mean and variance; where they may be missing, the mean takes
      their place and a further input says so. Skewed positive numbers also enter as logarithms.
    - Strings with few values become one-hot vectors, with more embeddings, with very many hashed embeddings; strings of
      several words that rarely repeat become bags of words. Others that rarely repeat, such as names of rows, are left
      out.
    - Arrays and Vectors of numbers enter whole. Images, as files or as Spark reads them, go through a small
      convolutional network.
    - All of it also goes to the output directly, as in a linear model. With few rows, this part
      dominates: hidden layers are small then, and weights are held down more.

    Spark computes the statistics, in a few jobs over the whole DataFrame: use the training rows only.

    Args:
        dataset: The training rows.
        labelCol: The label: class indices from 0, or a number to predict.
        task: "classification" or "regression"; not set, by the label: whole numbers from 0 with at most 20 values are
            classes.

    Raises:
        OptionError: There is no such task.
        DataError: The label can't be learnt, there are no rows, or no column can be used.

    Example:

        >>> from pyspark.sql import SparkSession
        >>> import spark_dl
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> rows = spark.range(100).selectExpr("id / 10 AS age", "id % 3 AS n", "string(id % 2) AS sex", "id % 2 AS y")
        >>> suggestion = spark_dl.suggest(rows, "y")
        >>> [column.role for column in suggestion.columns.used]
        ['number', 'number', 'category']
        >>> fitted = suggestion.estimator(epochs=2, tracking=None, verbose=0).fit(rows)
        >>> spark.stop()
    """
    use_driver_python(dataset.sparkSession)
    columns = described_columns(dataset, labelCol, task)
    return Suggestion(source_of(columns), columns)
