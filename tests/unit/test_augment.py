"""Augmentation that changes more than features: labels are blended with their images, or the layers are refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pyspark.sql import types as T

from spark_dl import KerasClassifier, KerasEstimator
from spark_dl.errors import OptionError
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.train.augment import augment_features

L = keras.layers
PIXELS, CLASSES = T.ArrayType(T.FloatType()), T.ArrayType(T.IntegerType())


@pytest.mark.parametrize(
    "layers",
    [
        L.MixUp(0.9),
        L.CutMix(0.9),
        L.Pipeline([L.RandomFlip(), L.MixUp(0.9)]),
        keras.Sequential([L.RandomFlip(), L.MixUp(0.9)]),
    ],
    ids=["MixUp", "CutMix", "Pipeline", "Sequential"],
)
def test_labels_are_blended_with_their_images(layers: Any) -> None:
    model = keras.Sequential()
    model.train_step = lambda data: data
    augment_features(model, layers, rank=0)
    images = np.arange(6, dtype="float32")[:, None, None, None] * np.ones((6, 4, 4, 1), "float32")
    mixed, labels, weights = model.train_step((images, np.eye(6, dtype="float32"), "weights"))
    assert np.asarray(labels).max(axis=1).min() < 1  # an image of value n has class n
    if not isinstance(layers, L.CutMix):  # whose patches have not quite the size that labels have
        expected = np.asarray(labels) @ np.arange(6)
        np.testing.assert_allclose(np.asarray(mixed).mean(axis=(1, 2, 3)), expected, atol=1e-4)
    assert weights == "weights"


def classifier(layers: Any, loss: str) -> FitSpec:
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(3, "softmax")])
    rows = T.StructType([T.StructField("features", PIXELS), T.StructField("label", T.IntegerType())])
    estimator = KerasClassifier(model=model, loss=loss, augment=layers)
    return build_fit_spec(estimator, rows, estimator._options())


def segmenter(layers: Any) -> FitSpec:
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Conv2D(3, 1, activation="softmax")])
    rows = T.StructType([T.StructField("features", PIXELS), T.StructField("label", CLASSES)])
    estimator = KerasEstimator(model=model, loss="sparse_categorical_crossentropy", augment=layers)
    return build_fit_spec(estimator, rows, estimator._options())


def test_layers_after_which_labels_would_be_wrong_are_refused() -> None:
    assert classifier(L.MixUp(), "categorical_crossentropy").augment
    assert classifier(L.RandomFlip(), "sparse_categorical_crossentropy").augment
    with pytest.raises(OptionError, match=r"blends the rows of a batch by MixUp.*labels label of shape \(batch\)"):
        classifier(L.MixUp(), "sparse_categorical_crossentropy")
    with pytest.raises(OptionError, match=r"by CutMix.*; layers scaled"):
        classifier(keras.Sequential([L.Rescaling(2.0, name="scaled"), L.CutMix()]), "categorical_crossentropy")
    with pytest.raises(OptionError, match=r"moves the pixels of images by RandomFlip.*shape \(batch, 4, 4\)"):
        segmenter(keras.Sequential([L.RandomFlip()]))
    assert segmenter(L.RandomBrightness(0.5)).augment
