"""More ranks change the speed and nothing else: two ranks against one plain Keras process with the global batch."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import models
import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier, KerasRegressor
from spark_dl.launch.launcher import run_ranks
from spark_dl.launch.settings import LaunchSettings
from spark_dl.world import Rank

OPTIONS = {"tracking": None, "verbose": 0, "numWorkers": 2, "shuffle": False}


def joined(features: np.ndarray, labels: np.ndarray, batch: int, size: int = 2) -> list[tuple[np.ndarray, np.ndarray]]:
    """The global batches of `size` ranks that read contiguous, equal ranges of the rows."""
    bounds = [len(labels) * rank // size for rank in range(size + 1)]
    ranges = [np.arange(a, b) for a, b in itertools.pairwise(bounds)]
    steps = -(-max(map(len, ranges)) // batch)
    chosen = [np.concatenate([r[i * batch : (i + 1) * batch] for r in ranges]) for i in range(steps)]
    return [(features[rows], labels[rows]) for rows in chosen]


def plain(model: keras.Model, optimizer: Any, loss: str, batches: list, epochs: int) -> keras.Model:
    """One process that trains on the given batches."""
    model.compile(optimizer, loss)
    for _ in range(epochs):
        for features, labels in batches:
            model.train_on_batch(features, labels)
    return model


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    # 201 rows on two ranks with batches of 20: the last batches have 20 and 1 rows, or 20 and none.
    return models.frame(spark, rows=201).cache()


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(20, id="a short last batch"),
        pytest.param(25, id="uneven last batches", marks=pytest.mark.stack),
        pytest.param(100, id="one rank empty at the end"),
        pytest.param(1, id="several steps in a call"),
    ],
)
def test_two_ranks_take_the_steps_of_one_process(batch: int, data: DataFrame) -> None:
    def optimizer() -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(0.05, momentum=0.9)

    epochs = 1 if batch == 1 else 2  # rounding grows with the number of steps
    estimator = KerasClassifier(
        model=models.classifier(),
        optimizer=optimizer(),
        batchSize=batch,
        epochs=epochs,
        metrics=["accuracy"],
        **OPTIONS,
    )
    fitted = estimator.fit(data)
    features, labels = models.blobs(201)
    expected = plain(
        models.classifier(), optimizer(), "sparse_categorical_crossentropy", joined(features, labels, batch), epochs
    )
    for ours, theirs in zip(fitted.keras().get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.stack
def test_metrics_are_those_of_all_rows(data: DataFrame) -> None:
    class GreatestError(keras.metrics.Metric):
        """Its state is a maximum."""

        def __init__(self, name: str = "greatest_error", **kwargs: Any) -> None:
            super().__init__(name=name, **kwargs)
            self.kept = self.add_weight(name="kept", initializer="zeros")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            actual = keras.ops.cast(keras.ops.reshape(y_true, (-1,)), y_pred.dtype)
            apart = keras.ops.abs(actual - keras.ops.reshape(y_pred, (-1,)))
            self.kept.assign(keras.ops.maximum(self.kept, keras.ops.max(apart)))

        def result(self) -> Any:
            return self.kept.value

    # Without training (a rate of 0) every metric can be told from the initial weights.
    auc = keras.metrics.AUC(num_thresholds=50, name="auc")
    at = keras.metrics.Precision(thresholds=[0.3, 0.6], name="precision_at")  # two values
    metrics = ["accuracy", auc, at, GreatestError(), keras.metrics.MeanAbsoluteError(name="mae")]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    frame = data.withColumn("label", (data.label > 0).cast("double"))
    estimator = KerasClassifier(
        model=model, optimizer=keras.optimizers.SGD(0.0), metrics=metrics, validationCol="held", batchSize=16, **OPTIONS
    )
    fitted = estimator.fit(frame)
    history = fitted.summary.history
    features, labels = models.blobs(201)
    labels = (labels > 0).astype(np.float32)
    held = np.arange(201) % 5 == 0
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=metrics)
    for prefix, rows in (("", ~held), ("val_", held)):
        alone = model.evaluate(features[rows], labels[rows], return_dict=True, verbose=0)
        for name, value in alone.items():
            np.testing.assert_allclose(history[f"{prefix}{name}"][0], value, atol=1e-6, err_msg=f"{prefix}{name}")
    assert len(history["precision_at"][0]) == 2
    # The held out rows again, by tasks that have some of them each.
    for name, value in fitted.evaluate(frame.where("held").repartition(3)).items():
        np.testing.assert_allclose(value, history[f"val_{name}"][0], atol=1e-6, err_msg=name)


def test_float16_trains_as_float32_where_gradients_are_beyond_what_it_holds(data: DataFrame) -> None:
    frame = data.withColumn("label", F.col("label") * 1e6)

    def rooted(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.sqrt(keras.ops.mean(keras.ops.square(y_true - y_pred)))

    def weights(compression: str) -> list[np.ndarray]:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.set_weights([np.zeros((4, 1)), np.zeros(1)])
        estimator = KerasRegressor(
            model=model, optimizer=keras.optimizers.SGD(1e-3), loss="mse", compression=compression, **OPTIONS
        )
        # What isn't that of the global batch is said at the fit.
        with pytest.warns(RuntimeWarning, match=r"The metric 'rooted' .* depends on which rows share a batch"):
            return estimator.setMetrics([rooted]).fit(frame).keras().get_weights()

    for half, exact in zip(weights("fp16"), weights("none"), strict=True):
        np.testing.assert_allclose(half, exact, rtol=5e-3)


def test_the_same_seed_gives_the_same_bits(data: DataFrame) -> None:
    def weights() -> list[np.ndarray]:
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
        )
        model.set_weights([np.full(w.shape, 0.1, np.float32) for w in model.get_weights()])
        estimator = KerasClassifier(model=model, epochs=2, **{**OPTIONS, "shuffle": True, "seed": 5})
        return estimator.fit(data).keras().get_weights()

    for first, second in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_all_ranks_stop_when_one_wants_to(data: DataFrame) -> None:
    class StopOnRankOne(keras.callbacks.Callback):
        """Wants to stop after the second step, on one rank only."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            import horovod.tensorflow as hvd

            if hvd.rank() == 1 and batch == 1:
                self.model.stop_training = True

    estimator = KerasRegressor(
        model=models.regressor(), callbacks=[StopOnRankOne()], batchSize=5, epochs=3, optimizer="sgd", **OPTIONS
    )
    fitted = estimator.fit(data)
    assert len(fitted.summary.history["loss"]) == 1
    # The wish travels with the third step's gradients: all stop after it.
    assert fitted.keras().optimizer.iterations == 3


def test_a_nan_on_one_rank_ends_all(data: DataFrame) -> None:
    # Its error, squared, is beyond float32: the second rank's third step.
    broken = data.withColumn("label", F.when(F.col("id") == 113, 1e30).otherwise(F.col("label")))
    estimator = KerasRegressor(
        model=models.regressor(),
        callbacks=[keras.callbacks.TerminateOnNaN()],
        batchSize=5,
        epochs=3,
        optimizer="sgd",
        **OPTIONS,
    )
    fitted = estimator.fit(broken)
    assert len(fitted.summary.history["loss"]) == 1
    assert fitted.keras().optimizer.iterations == 4  # the wish travels with the fourth step's gradients


def test_early_stopping_acts_on_the_agreed_metric(data: DataFrame) -> None:
    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, min_delta=1e9)
    estimator = KerasRegressor(
        model=models.regressor(), callbacks=[stopping], validationCol="held", epochs=5, **OPTIONS
    )
    assert len(estimator.fit(data).summary.history["loss"]) == 2


def test_accumulated_gradients_are_those_of_a_larger_batch(data: DataFrame) -> None:
    def optimizer() -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(0.05, momentum=0.9)

    estimator = KerasClassifier(
        model=models.classifier(), optimizer=optimizer(), batchSize=10, gradientAccumulation=3, epochs=2, **OPTIONS
    )
    fitted = estimator.fit(data)
    batches = joined(*models.blobs(201), 30)
    expected = plain(models.classifier(), optimizer(), "sparse_categorical_crossentropy", batches, 2)
    for ours, theirs in zip(fitted.keras().get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert fitted.keras().optimizer.iterations == 2 * len(batches)


def test_a_scaled_rate_is_warmed_up_and_stays_in_the_model(data: DataFrame) -> None:
    estimator = KerasClassifier(
        model=models.classifier(),
        optimizer=keras.optimizers.SGD(0.05),
        learningRateScaling="linear",
        warmupEpochs=1,
        epochs=2,
        **OPTIONS,
    )
    assert float(estimator.fit(data).keras().optimizer.learning_rate) == pytest.approx(0.1)
    assert float(estimator.getOptimizer().learning_rate) == pytest.approx(0.05)


def test_float16_halves_the_bytes_between_ranks(spark: SparkSession) -> None:
    def travelled(rank: Rank) -> dict[bool, tuple[float, list[float]]]:
        import tensorflow as tf

        from spark_dl.collectives import make_collectives
        from spark_dl.train.optimizer import GradientReducer
        from spark_dl.train.speed import StepClock

        found = {}
        for half in (False, True):
            clock = StepClock()
            reducer = GradientReducer(make_collectives(rank.world), clock, fp16=half)
            reducer.begin(tf.constant([8, 24][rank.world.rank]))
            (mean,) = reducer.reduce([tf.fill([1000], [1.0, 3.0][rank.world.rank])], f"half.{half}")
            found[half] = (clock.take().bytes_reduced, mean.numpy()[[0, -1]].tolist())
        return found

    for ranks in run_ranks(spark, travelled, 2, LaunchSettings(threads_per_worker=1)):
        # Two numbers go along: the rows, and the wish to stop; with float16 the size of each variable's gradients.
        assert ranks[False] == (4 * 1000 + 8, [2.5, 2.5])
        assert ranks[True] == (2 * 1000 + 12, [2.5, 2.5])


def test_moving_statistics_are_the_mean_over_ranks(data: DataFrame) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(momentum=0.0), keras.layers.Dense(1)])
    estimator = KerasRegressor(model=model, optimizer=keras.optimizers.SGD(0.0), batchSize=101, **OPTIONS)
    mean = estimator.fit(data).keras().layers[0].moving_mean.numpy()
    features = models.blobs(201)[0]
    np.testing.assert_allclose(
        mean, (features[:100].mean(axis=0) + features[100:].mean(axis=0)) / 2, rtol=1e-4, atol=1e-5
    )
