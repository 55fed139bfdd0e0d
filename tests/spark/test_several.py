"""Models with several inputs and outputs: fit, transform, evaluate, save, score; nested arrays; filled columns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier, KerasEstimator, KerasModel, KerasRegressor
from spark_dl.errors import DataError, OptionError

# Ranks can't import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
QUIET = {"tracking": None, "verbose": 0}
ROWS = 120


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    """id, steps (array of 3 arrays of 2), count (long, null in every tenth row), word, price, kind, held."""
    random = np.random.default_rng(0)
    rows = [
        (
            i,
            random.normal(size=(3, 2)).tolist(),
            None if i % 10 == 0 else int(random.integers(0, 5)),
            ["red", "green", "blue"][i % 3],
            float(random.normal()),
            i % 4,
            i % 5 == 0,
        )
        for i in range(ROWS)
    ]
    schema = "id long, steps array<array<double>>, count long, word string, price double, kind int, held boolean"
    return spark.createDataFrame(rows, schema).repartitionByRange(3, "id").cache()


def network() -> keras.Model:
    """A tensor, a number and a text; a price and a kind, as a dict."""
    keras.utils.set_random_seed(3)
    steps, number = keras.Input((3, 2), name="steps"), keras.Input((1,), name="number")
    text = keras.Input((1,), dtype="string", name="text")
    looked_up = keras.layers.StringLookup(vocabulary=["red", "green", "blue"], output_mode="one_hot")(text)
    hidden = keras.layers.Dense(8, "tanh")(
        keras.layers.Concatenate()([keras.layers.LSTM(4)(steps), number, keras.layers.Flatten()(looked_up)])
    )
    outputs = {
        "price": keras.layers.Dense(1, name="price")(hidden),
        "kind": keras.layers.Dense(4, "softmax", name="kind")(hidden),
    }
    return keras.Model([steps, number, text], outputs)


COLUMNS = {
    "inputCols": {"steps": "steps", "number": "count", "text": "word"},
    "labelCols": {"price": "price", "kind": "kind"},
    "nullPolicy": {"count": {"fill": 2}},
}
LOSSES = {"price": "mse", "kind": "sparse_categorical_crossentropy"}


def an_estimator(**options: Any) -> KerasEstimator:
    return KerasEstimator(
        **{
            "model": network(),
            "loss": LOSSES,
            "metrics": {"kind": ["accuracy"]},
            "lossWeights": {"price": 0.5, "kind": 2.0},
            "batchSize": 16,
            **COLUMNS,
            **QUIET,
            **options,
        }
    )


def arrays(rows: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    x = {
        "steps": np.array([row.steps for row in rows], np.float32),
        "number": np.array([[2 if row["count"] is None else row["count"]] for row in rows], np.float32),
        "text": np.array([[row.word] for row in rows], object),
    }
    return x, {"price": np.array([[row.price] for row in rows]), "kind": np.array([row.kind for row in rows])}


def predicted(model: keras.Model, rows: list[Any]) -> dict[str, np.ndarray]:
    import tensorflow as tf

    x, _ = arrays(rows)
    return {name: value.numpy() for name, value in model({k: tf.constant(v) for k, v in x.items()}).items()}


OPTIONS = {"epochs": 2, "validationCol": "held"}


@pytest.fixture(scope="module")
def fitted(data: DataFrame) -> KerasModel:
    return an_estimator(**OPTIONS).fit(data)


def test_training_is_that_of_plain_keras(data: DataFrame) -> None:
    import tensorflow as tf

    model = network()
    before = model.get_weights()
    fitted = an_estimator(model=model, optimizer="sgd", batchSize=ROWS, epochs=3, shuffle=False).fit(data)
    # The user's model is as it was.
    assert not model.compiled
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    model.compile("sgd", LOSSES, metrics={"kind": ["accuracy"]}, loss_weights={"price": 0.5, "kind": 2.0})
    x, y = arrays(data.orderBy("id").collect())
    x["text"] = tf.constant(x["text"])
    history = [model.train_on_batch(x, y, return_dict=True) for _ in range(3)]
    assert set(fitted.summary.history) >= {"loss", "price_loss", "kind_loss", "kind_accuracy"}
    # train_on_batch tells the mean over all batches so far.
    assert fitted.summary.history["loss"][0] == pytest.approx(float(history[0]["loss"]), rel=1e-5)
    for ours, theirs in zip(fitted.keras().get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_each_output_has_its_column(fitted: KerasModel, data: DataFrame) -> None:
    scored = fitted.transform(data)
    assert dict(scored.dtypes).items() >= {"prediction_kind": "array<float>", "prediction_price": "double"}.items()
    rows = scored.orderBy("id").collect()
    expected = predicted(fitted.keras(), rows)
    np.testing.assert_allclose([row.prediction_kind for row in rows], expected["kind"], atol=1e-6)
    np.testing.assert_allclose([[row.prediction_price] for row in rows], expected["price"], atol=1e-6)


def test_columns_of_outputs_can_be_chosen(fitted: KerasModel, data: DataFrame) -> None:
    scored = fitted.copy({fitted.outputCols: {"kind": "k"}}).transform(data)
    assert set(scored.columns) - set(data.columns) == {"k"}
    with pytest.raises(OptionError, match="outputCols doesn't match the model's outputs"):
        fitted.copy({fitted.outputCols: ["k"]}).transform(data)


def test_a_saved_model_scores_and_evaluates_the_same(fitted: KerasModel, data: DataFrame, tmp_path: Path) -> None:
    fitted.write().save(f"{tmp_path}/model")
    loaded = KerasModel.load(f"{tmp_path}/model")
    assert loaded.transform(data).orderBy("id").collect() == fitted.transform(data).orderBy("id").collect()
    assert loaded.evaluate(data) == fitted.evaluate(data)


def test_a_saved_estimator_trains_the_same(fitted: KerasModel, data: DataFrame, tmp_path: Path) -> None:
    an_estimator(**OPTIONS).write().save(f"{tmp_path}/estimator")
    again = KerasEstimator.load(f"{tmp_path}/estimator").fit(data)
    for ours, theirs in zip(again.keras().get_weights(), fitted.keras().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_evaluation_is_that_of_plain_keras(fitted: KerasModel, data: DataFrame) -> None:
    import tensorflow as tf

    x, y = arrays(data.orderBy("id").collect())
    x["text"] = tf.constant(x["text"])
    expected = fitted.keras().evaluate(x, y, batch_size=ROWS, verbose=0, return_dict=True)
    for size in (7, 1000):
        evaluated = fitted.copy({fitted.scoreBatchSize: size}).evaluate(data)
        for name in ("loss", "kind_accuracy"):
            assert evaluated[name] == pytest.approx(float(expected[name]), rel=1e-5)
    held = fitted.evaluate(data.where("held"))
    assert held["loss"] == pytest.approx(fitted.summary.history["val_loss"][-1], rel=1e-5)
    assert held["kind_accuracy"] == pytest.approx(fitted.summary.history["val_kind_accuracy"][-1], rel=1e-5)


def test_evaluation_heeds_weights_and_refuses_what_fit_refuses(data: DataFrame) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    weighted = data.withColumn("w", F.col("id") % 3)
    regressor = KerasRegressor(model=model, featuresCol="price", labelCol="kind", weightCol="w", **QUIET)
    fitted = regressor.fit(weighted)
    rows = weighted.collect()
    price, kind, weights = (np.array([row[name] for row in rows], np.float32) for name in ("price", "kind", "w"))
    squares = (fitted.keras()(price[:, None]).numpy()[:, 0] - kind) ** 2
    assert fitted.evaluate(weighted)["loss"] == pytest.approx(float(np.mean(squares * weights)), rel=1e-5)
    with pytest.raises(DataError, match="no rows to evaluate"):
        fitted.evaluate(weighted.where("id < 0"))
    with pytest.raises(DataError, match="column 'price': 40 rows with a null"):
        fitted.evaluate(weighted.withColumn("price", F.expr("if(id % 3 = 0, null, price)")))
    with pytest.raises(DataError, match="no column 'kind'"):
        fitted.evaluate(weighted.drop("kind"))


def test_parquet_is_scored_the_same(fitted: KerasModel, data: DataFrame, tmp_path: Path) -> None:
    data.write.parquet(f"{tmp_path}/in")
    assert fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out") == ROWS
    written = data.sparkSession.read.parquet(f"{tmp_path}/out").orderBy("id").collect()
    for one, other in zip(written, fitted.transform(data).orderBy("id").collect(), strict=True):
        assert one.asDict().keys() == other.asDict().keys()
        assert one.prediction_price == pytest.approx(other.prediction_price, abs=1e-6)
        np.testing.assert_allclose(one.prediction_kind, other.prediction_kind, atol=1e-6)


def test_a_list_gives_columns_in_the_order_of_a_model_that_was_built_on_a_list(
    fitted: KerasModel, data: DataFrame
) -> None:
    columns = {"inputCols": ["steps", "count", "word"]}
    estimator = an_estimator(**columns, **OPTIONS)
    told = [" ".join(line.split()) for line in str(estimator.plan(data)).splitlines()[2:]]
    assert told == [
        "steps array<array<double>> float32 (3, 2) input steps (3, 2) an error",
        "count bigint float32 (1,) input number (1,) 2 for each",
        "word string string (1,) input text (1,) an error",
        "kind int int32 (), classes 0 to 3 label of output kind (4,) an error",
        "price double float32 () label of output price (1,) an error",
        "held boolean bool () true for validation an error",
    ]
    for ours, theirs in zip(estimator.fit(data).keras().get_weights(), fitted.keras().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"inputCols": None}, "several inputs"),
        ({"labelCols": None}, "several outputs"),
        ({"labelCols": ["price", "kind"]}, "labelCols is a list, but the model was built on a dict"),
        ({"outputCols": ["p", "k"]}, "outputCols is a list, but the model was built on a dict"),
        ({"inputCols": ["steps", "count"]}, "inputCols doesn't match the model's inputs"),
        ({"nullPolicy": {"cuont": "drop"}}, "nullPolicy names 'cuont'.*Did you mean 'count'"),
        ({"outputCols": {"prise": "p"}}, "outputCols doesn't match the model's outputs"),
    ],
)
def test_what_does_not_match_the_model_is_refused_before_any_job(data: DataFrame, options: Any, told: str) -> None:
    for refused in (an_estimator(**options).plan, an_estimator(**options).fit):
        with pytest.raises(OptionError, match=told):
            refused(data)


def test_rows_for_validation_may_come_from_another_dataframe(fitted: KerasModel, data: DataFrame) -> None:
    train, held = (
        data.where("not held").drop("held"),
        data.where("held").select("kind", "price", "word", "count", "steps"),
    )
    estimator = an_estimator(epochs=2, validationData=held)
    assert "spark_dl_validation" in str(estimator.plan(train))
    validated = estimator.fit(train)
    assert (validated.summary.rows, validated.summary.validation_rows) == (96, 24)
    assert validated.summary.history["val_loss"] == pytest.approx(fitted.summary.history["val_loss"], rel=0.2)
    for refused, error, told in (
        (held.drop("word"), DataError, r"validationData doesn't have the column 'word'.*columns kind, price"),
        (
            held.withColumn("kind", F.lit("a")),
            DataError,
            "'kind' as the training rows have it.*kind: int.*kind: string",
        ),
        ("rows", OptionError, "validationData can't be used.*a DataFrame.*str"),
    ):
        with pytest.raises(error, match=told):
            an_estimator(validationData=refused).fit(train)
    with pytest.raises(OptionError, match="validationData excludes validationCol"):
        an_estimator(validationData=held, validationFraction=0.5).fit(train)


def test_rows_without_a_value_are_told_where_no_policy_is_set(data: DataFrame) -> None:
    with pytest.raises(DataError, match=r"column 'count': 12 rows with a null.*nullPolicy=\{column: \{'fill'"):
        an_estimator(nullPolicy="error").fit(data)
    assert an_estimator(nullPolicy={"count": "drop"}).fit(data).summary.rows == ROWS - 12


def test_an_open_shape_is_given_by_column(data: DataFrame) -> None:
    steps = keras.Input((None, 2), name="steps")
    model = keras.Model(steps, keras.layers.Dense(4, "softmax")(keras.layers.GRU(3)(steps)))
    with pytest.raises(Exception, match=r"'steps' isn't fixed.*columnShapes"):
        KerasClassifier(model=model, featuresCol="steps", labelCol="kind", **QUIET).fit(data)
    shaped = KerasClassifier(
        model=model, featuresCol="steps", labelCol="kind", columnShapes={"steps": [3, 2]}, **QUIET
    ).fit(data)
    rows = shaped.transform(data).orderBy("id").collect()
    expected = shaped.keras()(np.array([row.steps for row in rows], np.float32)).numpy()
    np.testing.assert_allclose([row.probability.toArray() for row in rows], expected, atol=1e-6)


class Subclassed(keras.Model):
    """Without symbolic inputs; its parts are made when it is built."""

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.first, self.last = keras.layers.Dense(5, "relu"), keras.layers.Dense(4, "softmax")

    def build(self, shape: Any) -> None:
        self.first.build(shape)
        self.last.build((*shape[:-1], 5))
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.last(self.first(inputs))


def test_a_subclassed_model_is_trained_and_scores(data: DataFrame) -> None:
    model = Subclassed()
    model.build((None, 2))
    fitted = KerasClassifier(
        model=model,
        inputCols=["price", "id"],
        labelCol="kind",
        loss="sparse_categorical_crossentropy",
        **QUIET,
    ).fit(data)
    rows = fitted.transform(data).orderBy("id").collect()
    expected = fitted.keras()(np.array([[row.price, row.id] for row in rows], np.float32)).numpy()
    np.testing.assert_allclose([row.probability.toArray() for row in rows], expected, atol=1e-6)
