"""Membership inference on German credit, with and without differential privacy.

    python scripts/bench/membership.py DIR     # a directory with german.csv

500 rows are trained on, 500 aren't. The attacker has each row's loss, and predicts that rows with a small loss are
training rows (Yeom et al.: Privacy Risk in Machine Learning, CSF 2018): an AUC of 0.5 is random. Two random halves.
"""

import argparse
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
from local import local_session
from sklearn.metrics import roc_auc_score

from spark_dl import KerasClassifier
from spark_dl.privacy import DPSGD

EPOCHS, BATCH, HALVES = 60, 50, 2


def network(width: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "relu"), keras.layers.Dense(2, "softmax")]
    return keras.Sequential([keras.Input((width,)), *layers])


def rows_of(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """One-hot categories, and numbers divided by round constants, which tell nothing of the rows."""
    table = pd.read_csv(directory / "german.csv")
    labels = (table.pop(table.columns[-1]).to_numpy() == 2).astype(int)
    table["credit_amount"], table["month"], table["age"] = (
        table["credit_amount"] / 10_000,
        table["month"] / 50,
        table["age"] / 50,
    )
    return pd.get_dummies(table).to_numpy("float32"), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    features, labels = rows_of(parser.parse_args().directory)
    spark = local_session()
    print("| training | epsilon (delta 1e-4) | accuracy on training rows | on other rows | AUC of the attack |")
    print("|---|---|---|---|---|")
    for name, target in (("plain", None), ("DPSGD", 8.0), ("DPSGD", 2.0)):
        found = []
        for half in range(HALVES):
            members = np.random.default_rng(half).permutation(len(labels)) < len(labels) // 2
            columns = zip(features[members].tolist(), labels[members].tolist(), strict=True)
            rows = spark.createDataFrame(list(columns), "features array<float>, label int")
            options = {"optimizer": keras.optimizers.Adam(0.003), "epochs": EPOCHS, "batchSize": BATCH, "verbose": 0}
            estimator = KerasClassifier(model=network(features.shape[1]), tracking=None, **options)
            private = (
                estimator if target is None else DPSGD(estimator, l2NormClip=1.0, targetEpsilon=target, delta=1e-4)
            )
            fitted = private.fit(rows)
            chances = fitted.keras().predict(features, verbose=0)
            losses = -np.log(np.clip(chances[np.arange(len(labels)), labels], 1e-7, 1))
            right = chances.argmax(axis=1) == labels
            spent = fitted.summary.history.get("epsilon", [np.inf])[-1]
            found.append((spent, right[members].mean(), right[~members].mean(), roc_auc_score(members, -losses)))
        spent, training, others, area = (statistics.fmean(part) for part in zip(*found, strict=True))
        print(f"| {name} | {spent:.2g} | {training:.1%} | {others:.1%} | {area:.3f} |", flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
