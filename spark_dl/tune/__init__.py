"""Search of options with Optuna (extra `tune`).

Example:

    >>> import keras
    >>> import optuna
    >>> from optuna.distributions import FloatDistribution
    >>> from pyspark.sql import SparkSession
    >>> from spark_dl import KerasRegressor
    >>> from spark_dl.tune import OptunaSearch
    >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
    >>> rows = spark.range(100).selectExpr("id / 100 AS x", "id / 50 AS y", "id % 4 = 0 AS held")
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> regressor = KerasRegressor(
    ...     model=model, inputCols=["x"], labelCol="y", validationCol="held", tracking=None, verbose=0
    ... )
    >>> space = {"learningRate": FloatDistribution(1e-3, 1e-1, log=True), "batchSize": [10, 20]}
    >>> found = OptunaSearch(regressor, space, trials=2, study=optuna.create_study()).fit(rows)
    >>> sorted(found.bestParams), len(found.study.trials)
    (['batchSize', 'learningRate'], 2)
    >>> spark.stop()
"""

from __future__ import annotations

from spark_dl.errors import OptionError, explain

try:
    import optuna  # noqa: F401
except ImportError as error:
    raise OptionError(
        explain(
            "Optuna isn't installed.",
            expected="the extra `tune`",
            received=str(error),
            fix='pip install "spark_dl[tune]"',
        )
    ) from error

from spark_dl.tune.search import OptunaSearch, OptunaSearchModel

__all__ = ["OptunaSearch", "OptunaSearchModel"]
