"""The effect of `compression="fp16"` on accuracy: `python scripts/bench/half.py`.

Scikit-learn's handwritten digits: 1,437 training and 360 test rows, two ranks of 16 rows each, 20 epochs, a dense
network 64-128-64-10 with Adam, five seeds. The same with gradients as float32 and as float16: test accuracy and loss,
the largest difference of a weight at the end, and the bytes that a rank sent. Two trainings with float32 and one seed
are compared, too: they show the differences that aren't due to the option.
"""

import contextlib
import io
import re
import statistics
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from local import local_session
from pyspark.sql import DataFrame
from sklearn.datasets import load_digits

from spark_dl import KerasClassifier

SEEDS, EPOCHS, HELD_OUT = range(5), 20, 360


@dataclass(frozen=True)
class Trained:
    """What came of a training; megabytes that a rank handed over."""

    loss: float
    accuracy: float
    megabytes: float
    weights: list[np.ndarray]

    def apart(self, other: "Trained") -> float:
        """The largest difference of a weight."""
        return max(float(np.abs(a - b).max()) for a, b in zip(self.weights, other.weights, strict=True))


def network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    sizes = [layers.Dense(128, "relu"), layers.Dense(64, "relu"), layers.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((64,)), layers.Rescaling(1 / 16), *sizes])


def train(frame: DataFrame, seed: int, compression: str, features: np.ndarray, labels: np.ndarray) -> Trained:
    estimator = KerasClassifier(
        model=network(seed),
        optimizer=keras.optimizers.Adam(1e-3),
        metrics=["accuracy"],
        numWorkers=2,
        batchSize=16,
        epochs=EPOCHS,
        seed=seed,
        compression=compression,
        tracking=None,
        verbose=2,
    )
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        model = estimator.fit(frame).keras()
    loss, accuracy = model.evaluate(features, labels, verbose=0)
    megabytes = sum(float(amount.replace(",", "")) for amount in re.findall(r"\(([\d,.]+) MB\)", said.getvalue()))
    return Trained(loss, accuracy, megabytes, model.get_weights())


spark = local_session()
features, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
features, labels = features[order].astype(np.float32), labels[order]
rows = list(zip(features[HELD_OUT:].tolist(), labels[HELD_OUT:].tolist(), strict=True))
frame = spark.createDataFrame(rows, "features array<float>, label int").repartition(4).cache()
held_out = features[:HELD_OUT], labels[:HELD_OUT]
whole = [train(frame, seed, "none", *held_out) for seed in SEEDS]
half = [train(frame, seed, "fp16", *held_out) for seed in SEEDS]
again = train(frame, SEEDS[0], "none", *held_out)
spark.stop()

print("| gradients sent as | test accuracy, mean (min) | test loss, mean | MB per rank |")
print("|---|---|---|---|")
for name, trained in (("float32", whole), ("float16", half)):
    accuracies = [each.accuracy for each in trained]
    loss, megabytes = (statistics.mean(getattr(each, what) for each in trained) for what in ("loss", "megabytes"))
    print(f"| {name} | {statistics.mean(accuracies):.4f} ({min(accuracies):.4f}) | {loss:.4f} | {megabytes:.1f} |")
apart = max(a.apart(b) for a, b in zip(whole, half, strict=True))
largest = max(float(np.abs(weight).max()) for each in whole for weight in each.weights)
print(f"\nLargest difference of a weight: {apart:.4f}, where the largest weight is {largest:.2f};", end=" ")
print(f"of two trainings by float32: {whole[0].apart(again):.1e}.")
