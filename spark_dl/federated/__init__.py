"""Federated training: each silo's rows are trained on by one rank alone, and models are averaged in rounds.

Example:

    >>> import keras
    >>> from pyspark.sql import SparkSession
    >>> from spark_dl import KerasRegressor, federated
    >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
    >>> rows = spark.range(60).selectExpr("id / 60 AS x", "id / 30 AS y", "if(id % 3 = 0, 'a', 'b') AS hospital")
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> regressor = KerasRegressor(model=model, inputCols=["x"], labelCol="y", tracking=None, verbose=0)
    >>> fitted = federated.fit(regressor, rows, siloCol="hospital", rounds=2)
    >>> sorted(fitted.summary.history)
    ['loss', 'loss[silo=a]', 'loss[silo=b]']
    >>> spark.stop()
"""

from __future__ import annotations

from spark_dl.federated.training import fit

__all__ = ["fit"]
