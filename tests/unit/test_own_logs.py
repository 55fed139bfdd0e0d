"""What a model's own test step or compute_metrics returns, joined over the tasks of an evaluation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from spark_dl.score.own_logs import OwnLogs, joined_logs
from spark_dl.train.metrics.step_logs import results_of

RANDOM = np.random.default_rng(2)
X, Y = RANDOM.normal(size=(9, 2)).astype("float32"), RANDOM.normal(size=(9, 1)).astype("float32")


class OwnStep(keras.Model):
    """Returns a loss of the batch, and a metric under another name."""

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self.error = keras.metrics.MeanAbsoluteError()

    def test_step(self, data: Any) -> Any:
        x, y = data
        guess = self(x, training=False)
        self.error.update_state(y, guess)
        return {"loss": keras.ops.mean((guess - y) ** 2), "absolute": self.error.result()}


class Derives(keras.Model):
    """Derives a value from a metric."""

    def compute_metrics(self, *args: Any, **others: Any) -> Any:
        found = super().compute_metrics(*args, **others)
        return {**found, "doubled": 2 * found["mae"]}


def net(kind: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2,))
    model = kind(inputs, keras.layers.Dense(1)(inputs))
    model.compile(loss="mse", metrics=["mae"] if kind is Derives else None)
    return model


def records(kind: Any, *batches: Any) -> list[dict[str, Any]]:
    model = net(kind)
    logs = OwnLogs(model)
    for rows in batches:
        logs.add(model.test_step((X[rows], Y[rows])), len(X[rows]))
    return logs.records()


@pytest.mark.parametrize(("kind", "names"), [(OwnStep, {"loss", "absolute"}), (Derives, {"loss", "mae", "doubled"})])
def test_values_of_all_tasks_are_those_of_all_rows(kind: Any, names: set[str]) -> None:
    tasks = [*records(kind, slice(0, 2), slice(2, 3)), *records(kind, slice(3, 9))]
    model = net(kind)
    expected = {name: float(value) for name, value in model.test_step((X, Y)).items()}  # whose states are those of all
    assert joined_logs(model, results_of(model), tasks) == pytest.approx(expected, rel=1e-5)
    assert expected.keys() == names
    assert joined_logs(model, {"loss": 1.0}, []) == {"loss": 1.0}
