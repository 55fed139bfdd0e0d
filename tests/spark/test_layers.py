"""A model that ends with a CRF: trained by two workers as by one, scored, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from pyspark.sql import SparkSession

from spark_dl import KerasEstimator, KerasModel
from spark_dl.layers import CRF, CRFLoss

STEPS, TAGS = 6, 3


def tagger() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((STEPS,), dtype="int32"),
            keras.layers.Embedding(9, 4, mask_zero=True),
            keras.layers.LSTM(4, return_sequences=True),
            keras.layers.Dense(TAGS),
            CRF(),
        ]
    )


def test_two_workers_train_as_one_where_sequences_have_other_lengths(spark: SparkSession, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    words = random.integers(1, 9, (32, STEPS))
    tags = np.cumsum(words % 2, axis=1) % TAGS
    hot = np.eye(TAGS)[tags]
    for row in range(32):
        length = 1 if row % 2 else STEPS
        words[row, length:], hot[row, length:] = 0, 0
    rows = [(i, words[i].tolist(), hot[i].ravel().tolist()) for i in range(32)]
    data = spark.createDataFrame(rows, "id int, features array<int>, label array<float>").repartition(2).cache()
    fitted = {
        workers: KerasEstimator(
            model=tagger(),
            loss=CRFLoss(),
            optimizer="adam",
            learningRate=0.05,
            numWorkers=workers,
            globalBatchSize=8,
            epochs=2,
            tracking=None,
            verbose=0,
        ).fit(data)
        for workers in (1, 2)
    }
    one, two = (fitted[workers].keras() for workers in (1, 2))
    for ours, theirs in zip(two.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(two.layers[-1].get_weights()[0]).max() > 0.01  # the transitions were trained
    expected = two.evaluate(words, hot.astype("float32"), verbose=0)
    assert np.isclose(fitted[2].evaluate(data)["loss"], expected, rtol=1e-4)
    fitted[2].write().save(f"{tmp_path}/tagger")
    scored = KerasModel.load(f"{tmp_path}/tagger").transform(data).orderBy("id").collect()
    found = np.array([row.prediction for row in scored]).reshape(32, STEPS, TAGS)
    np.testing.assert_allclose(found, two.predict(words, verbose=0), atol=1e-5)
