"""The evaluation of the fitted model by the ranks that have trained it: with their own models where these are it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
from plans import written_plan
from rows import on_ranks, packed_arrays
from sklearn.metrics import confusion_matrix

from spark_dl.score.assess import Classes, assess
from spark_dl.score.heads import Classification
from spark_dl.train.loop import train
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.plan import RankTraining, TrainPlan

RANDOM = np.random.default_rng(8)
X = RANDOM.normal(size=(60, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0.5)
HELD_OUT = np.arange(60) % 3 == 0


class CallsNumpy(keras.layers.Layer):
    """A layer that no graph can have."""

    def call(self, inputs: Any) -> Any:
        return inputs * float(np.abs(inputs.numpy()).max() > 0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def a_plan(directory: Path, *layers: keras.layers.Layer, rate: float = 0.1, **options: Any) -> TrainPlan:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3, "softmax")])
    eager = any(isinstance(layer, CallsNumpy) for layer in layers)
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", run_eagerly=eager)
    dataset = packed_arrays(directory / "data", X, Y, HELD_OUT, rows=10)
    defaults = {"epochs": 3, "batch_size": 5, "seed": 1, "monitor": "val_loss", "objects": {"CallsNumpy": CallsNumpy}}
    return written_plan(directory, model, dataset, **defaults, **options)


def evaluated(plan: TrainPlan, before: Callable[[int, RankTraining], None] | None = None) -> tuple[np.ndarray, Any]:
    """The confusion matrix that two ranks find, and the final model."""
    head, warnings = Classification(3, 3, from_logits=False), []

    def on_rank(collectives: Any) -> tuple[Any, bytes]:
        training = train(plan, collectives, lambda report: None)
        collectives.sum(np.zeros(1), "written")
        content = plan.workspace.read(training.result.model_file)
        collectives.sum(np.zeros(1), "read")
        if before is not None:
            before(collectives.world.rank, training)
        return assess(head, plan, training, collectives, warnings.append, lambda where: None), content

    (found, content), (same, _) = on_ranks(2, on_rank)
    assert warnings == []
    assert isinstance(found, Classes)
    np.testing.assert_array_equal(found.confusion, same.confusion)
    return found.confusion, from_bytes(content, cloudpickle.loads(plan.custom_objects))


def expected(model: keras.Model) -> np.ndarray:
    return confusion_matrix(Y[HELD_OUT], model.predict(X[HELD_OUT], verbose=0).argmax(axis=1), labels=range(3))


def test_ranks_need_no_other_model_than_the_one_that_they_have_trained(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, keras.layers.Dense(6, "tanh"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5))

    def remove_file(rank: int, training: RankTraining) -> None:
        if rank == 0:
            (tmp_path / training.result.model_file).unlink()

    found, model = evaluated(plan, remove_file)
    np.testing.assert_array_equal(found, expected(model))


def test_the_best_epochs_model_is_evaluated_where_it_is_the_final_one(tmp_path: Path) -> None:
    """With a rate that overshoots, the last epoch isn't the best."""
    plan = a_plan(tmp_path, rate=60.0, restore_best_weights=True)
    last: list[np.ndarray] = []

    def predict(rank: int, training: RankTraining) -> None:
        if rank == 0:
            assert training.result.best_epoch < 2
            last.append(expected(training.model))

    found, model = evaluated(plan, predict)
    np.testing.assert_array_equal(found, expected(model))
    assert (found != last[0]).any()


def test_a_rank_whose_model_is_another_one_evaluates_the_final_one(tmp_path: Path) -> None:
    """As after a callback that changes weights on one rank when training ends."""

    def change(rank: int, training: RankTraining) -> None:
        if rank == 1:
            kernel = training.model.trainable_variables[0]
            kernel.assign(-np.asarray(kernel))

    found, model = evaluated(a_plan(tmp_path), change)
    np.testing.assert_array_equal(found, expected(model))


def test_a_model_that_runs_eagerly_is_evaluated_so(tmp_path: Path) -> None:
    found, model = evaluated(a_plan(tmp_path, CallsNumpy()))
    model.run_eagerly = True
    np.testing.assert_array_equal(found, expected(model))
