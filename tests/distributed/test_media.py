"""Texts on several ranks, some of which run out of rows."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers
from pyspark.sql import SparkSession

from spark_dl import KerasClassifier

WORDS = ["good", "bad thing", "good good", "bad", "good thing", "awful bad"]


def test_ranks_without_texts_left_train_as_one(spark: SparkSession) -> None:
    rows = [(word, index % 2, index in (1, 10)) for index, word in enumerate(WORDS * 3)]
    frame = spark.createDataFrame(rows, "text string, label int, held boolean").coalesce(1)
    vectorize = layers.TextVectorization(output_sequence_length=2)
    vectorize.adapt(WORDS)
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            vectorize,
            layers.Embedding(vectorize.vocabulary_size(), 3),
            layers.Flatten(),
            layers.Dense(1, "sigmoid"),
        ]
    )
    options = {"featuresCol": "text", "validationCol": "held", "tracking": None, "verbose": 0, "epochs": 3}
    one, two = (
        KerasClassifier(
            model=model, optimizer=keras.optimizers.SGD(0.5), numWorkers=workers, globalBatchSize=5, **options
        ).fit(frame)
        for workers in (1, 2)
    )
    for mine, other in zip(one.keras().get_weights(), two.keras().get_weights(), strict=True):
        if mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, other, atol=1e-5)
    for name, values in one.summary.history.items():
        np.testing.assert_allclose(values, two.summary.history[name], rtol=1e-4, err_msg=name)
