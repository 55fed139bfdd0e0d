"""What Horovod documents for its KerasEstimator, done with this package: the examples' tasks, written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier, KerasEstimator

QUIET = {"tracking": None, "verbose": 0}


def xor(spark: SparkSession, rows: int = 400) -> DataFrame:
    random = np.random.default_rng(0)
    bits = random.integers(0, 2, (rows, 2))
    data = [(float(a), float(b), float(a ^ b)) for a, b in bits.tolist()]
    return spark.createDataFrame(data, "x1 float, x2 float, y float")


def xor_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((2,)), layers.Dense(8, "tanh"), layers.Dense(1, "sigmoid")])


XOR: dict[str, Any] = {
    "optimizer": keras.optimizers.SGD(0.5),
    "loss": "binary_crossentropy",
    "inputCols": ["x1", "x2"],
    "labelCol": "y",
    "batchSize": 8,
    **QUIET,
}


def wrong(scored: DataFrame) -> int:
    return scored.where("(prediction > 0.5) <> (y > 0.5)").count()


def test_the_xor_model_keeps_checkpoints_and_goes_on_from_one(spark: SparkSession, tmp_path: Path) -> None:
    frame = xor(spark)
    first = KerasEstimator(
        model=xor_model(), epochs=4, keepCheckpoints=9, checkpointDir=str(tmp_path), metrics=["accuracy"], **XOR
    ).fit(frame)
    checkpoints = sorted(tmp_path.glob("*/*.keras"))
    assert len(checkpoints) == 4
    last = keras.saving.load_model(checkpoints[-1])
    for ours, theirs in zip(last.get_weights(), first.keras().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # From the checkpoint, or from the fitted model: both are models as any other.
    second = KerasEstimator(model=last, initialEpoch=4, epochs=24, metrics=["accuracy"], **XOR).fit(frame)
    assert second.summary.history["accuracy"][-1] > 0.99
    assert wrong(second.transform(frame)) == 0
    assert len(sorted(tmp_path.glob("*/*.keras"))) == 4


def test_sample_weights_decide_what_is_learned(spark: SparkSession) -> None:
    """Every row twice, once with the wrong label, which weighs nothing."""
    right = xor(spark).selectExpr("*", "1.0D AS weight")
    frame = right.unionAll(right.selectExpr("x1", "x2", "1 - y AS y", "0.0D AS weight"))
    fitted = KerasEstimator(model=xor_model(), weightCol="weight", epochs=20, **XOR).fit(frame)
    assert wrong(fitted.transform(right)) == 0


def test_several_inputs_are_several_columns(spark: SparkSession) -> None:
    frame = xor(spark)
    one, two = keras.Input((1,), name="one"), keras.Input((1,), name="two")
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(8, "tanh")(layers.Concatenate()([one, two]))
    model = keras.Model([one, two], layers.Dense(1, "sigmoid")(hidden))
    fitted = KerasEstimator(model=model, epochs=20, **{**XOR, "inputCols": {"one": "x1", "two": "x2"}}).fit(frame)
    assert wrong(fitted.transform(frame)) == 0


def test_a_cnn_on_images_of_28_by_28_by_two_workers(spark: SparkSession) -> None:
    """A bar that stands or lies, in noise: as arrays of 784 numbers, as the MNIST example has them."""
    random, rows = np.random.default_rng(0), []
    for index in range(200):
        image = random.normal(0.1, 0.1, (28, 28))
        at = int(random.integers(4, 24))
        image[(slice(None), at) if index % 2 else (at, slice(None))] += 1.0
        rows.append((image.ravel().tolist(), index % 2))
    frame = spark.createDataFrame(rows, "features array<float>, label int")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(4),
            layers.Flatten(),
            layers.Dropout(0.1),
            layers.Dense(2, "softmax"),
        ]
    )
    classifier = KerasClassifier(
        model=model, optimizer=keras.optimizers.Adam(0.01), metrics=["accuracy"], numWorkers=2, batchSize=16, **QUIET
    )
    fitted = classifier.fit(frame, {classifier.epochs: 6, classifier.validationFraction: 0.2})
    assert fitted.summary.history["val_accuracy"][-1] > 0.9
    assert fitted.transform(frame).where("prediction = label").count() > 180
