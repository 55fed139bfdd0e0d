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
        columns: The columns, their roles and their statistics, from which the code was generated.
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

    - Numbers are standardized by the DataFrame's mean and variance. Missing ones are imputed with the mean, and have an
      indicator input. Skewed positive numbers are also fed as logarithms.
    - Strings with few values are one-hot encoded, with more values embedded, with very many values hashed and embedded;
      strings of several words that rarely repeat become bags of words. Other strings that rarely repeat, such as row
      names, are excluded.
    - Arrays and Vectors of numbers are standardized. Images, as files or as Spark reads them, pass a small
      convolutional network.
    - The output is the sum of a linear model of all features and of hidden layers. With few rows the linear part
      dominates: hidden layers are smaller, and weights more strongly regularized.

    Spark computes the statistics, in a few jobs over the whole DataFrame: pass the training rows only.

    Args:
        dataset: The training rows.
        labelCol: The label: class indices from 0, or a number to predict.
        task: "classification" or "regression"; not set, by the label: whole numbers from 0 with at most 20 values are
            classes.

    Raises:
        OptionError: There is no such task.
        DataError: The label can't be used, there are no rows, or no column can be used.

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
