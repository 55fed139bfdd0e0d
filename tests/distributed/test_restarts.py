"""Workers that are lost while they train, on two executors of this host: training goes on from its last checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import mlflow
import models
import numpy as np
import pytest
from mlflow_stores import sqlite_store
from processes import ranks
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier
from spark_dl.errors import ClusterError, OptionError, RankError
from spark_dl.io.workspace import clean

EPOCHS = 4
# The ranks can't import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Once(keras.callbacks.Callback):
    """Does something to rank 1 at a step of an epoch, the first time that it gets there.

    Args:
        what: "kill" the rank's process, "kill task", the Spark worker that started it, "raise", or "stand" still.
        mark: a file that says that it has been done.
    """

    def __init__(self, what: str, mark: Path, epoch: int = 2, step: int = 3) -> None:
        super().__init__()
        self.what, self.mark, self.at = what, str(mark), (epoch, step)
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        import horovod.tensorflow as hvd

        if hvd.rank() == 1 and (self.epoch, batch) == self.at and not os.path.exists(self.mark):
            Path(self.mark).touch()
            if self.what == "raise":
                raise ArithmeticError("of the user's own")
            if self.what == "stand":
                stand_here()
            os.kill(os.getpid() if self.what == "kill" else os.getppid(), signal.SIGKILL)


class Trained(keras.callbacks.Callback):
    """Lets `Fragile` know that its rank has trained."""

    def on_train_end(self, logs: Any = None) -> None:
        os.environ["RANK_HAS_TRAINED"] = "yes"


class Fragile(keras.layers.Layer):
    """Kills rank 1 where it is called after the training."""

    def call(self, features: Any) -> Any:
        if os.environ.get("RANK_HAS_TRAINED") and os.environ.get("HOROVOD_RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return features


def stand_here() -> None:
    signal.pause()


def estimator(**options: Any) -> KerasClassifier:
    given: dict[str, Any] = {
        "numWorkers": 2,
        "batchSize": 10,
        "epochs": EPOCHS,
        "seed": 3,
        "tracking": None,
        "verbose": 2,
    }
    given["optimizer"] = keras.optimizers.Adam(0.01)
    return KerasClassifier(**{"model": models.classifier(), **given, **options})


def weights(fitted: Any) -> list[np.ndarray]:
    return fitted.keras().get_weights()


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark).cache()


@pytest.fixture(scope="module")
def undisturbed(data: DataFrame) -> list[np.ndarray]:
    """The weights of a training that nothing happens to."""
    return weights(estimator().fit(data))


def same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for mine, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_a_worker_that_is_lost_in_the_look_at_validation_costs_that_look_alone(
    data: DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), Fragile(), keras.layers.Dense(3, "softmax")])
    options = {"callbacks": [Trained()], "validationCol": "held", "tracking": "mlflow"}
    with sqlite_store(tmp_path, "looked at") as experiment:
        fitted = estimator(model=model, **options).fit(data)
        (run,) = mlflow.search_runs(experiment_names=[experiment], output_format="list")
        looked_at = mlflow.MlflowClient().list_artifacts(run.info.run_id, "validation")
    said = capsys.readouterr().err
    assert re.search(r"Trained; then: Rank 1 on host .* was lost", said), said
    assert "Restarting" not in said
    assert len(fitted.summary.history["val_loss"]) == EPOCHS
    assert fitted.transform(data).where("prediction is not null").count() == data.count()
    assert (run.info.status, looked_at) == ("FINISHED", [])


@pytest.mark.parametrize("what", [pytest.param("kill", marks=pytest.mark.stack), "kill task"])
def test_a_lost_worker_costs_the_work_since_the_last_checkpoint(
    what: str, data: DataFrame, undisturbed: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "done"
    fitted = estimator(callbacks=[Once(what, mark)], checkpointSteps=2).fit(data)
    said = capsys.readouterr().err
    assert mark.exists()
    # Of a task that is killed either Spark tells first, or the other rank that misses it; it may take some steps more.
    lost, step = ("Rank 1 on host .* was lost", "2") if what == "kill" else ("(Rank|The Spark job)", r"\d+")
    assert re.search(rf"In epoch 3: {lost}.* Restarting from step {step} of epoch 3, attempt 2 of 4\.", said), said
    assert len(fitted.summary.history["loss"]) == EPOCHS
    same(weights(fitted), undisturbed)


def test_an_exception_of_the_user_is_not_tried_again(
    data: DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RankError, match=r"Rank 1 on host .* raised ArithmeticError: of the user's own") as caught:
        estimator(callbacks=[Once("raise", tmp_path / "done")]).fit(data)
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert "Restarting" not in capsys.readouterr().err


def test_losses_are_bounded(data: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(
        RankError,
        match=r"Rank 1 on host .* was lost: its process was killed .SIGKILL., probably because .* out of memory",
    ):
        estimator(callbacks=[Once("kill", tmp_path / "done")], maxRestarts=0).fit(data)


def test_a_rank_that_stands_is_named_with_its_step_and_stack(data: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"Rank 1 on host .* has stood at epoch 3, step 4") as caught:
        estimator(callbacks=[Once("stand", tmp_path / "done")], stallTimeout=5).fit(data)
    assert "stand_here" in str(caught.value)
    assert "maxRestarts" not in str(caught.value)


class TestALaterFit:
    """A fit that failed leaves its checkpoints, and the same fit goes on from them."""

    def broken(self, data: DataFrame, tmp_path: Path, **options: Any) -> Path:
        directory = tmp_path / "checkpoints"
        given = {"callbacks": [Once("raise", tmp_path / "done")], "checkpointDir": str(directory), **options}
        with pytest.raises(RankError):
            estimator(**given).fit(data)
        (fit,) = directory.iterdir()
        assert not json.loads((fit / "fit.json").read_text())["finished"]
        return directory

    def test_goes_on_and_ends_with_the_same_weights(
        self, data: DataFrame, undisturbed: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        directory = self.broken(data, tmp_path)
        capsys.readouterr()
        fitted = estimator(checkpointDir=str(directory)).fit(data)
        said = capsys.readouterr().err
        (fit,) = directory.iterdir()
        assert f"Resuming the unfinished fit in file://{fit}." in said
        assert "Resuming from the end of epoch 2." in said
        assert len(fitted.summary.history["loss"]) == EPOCHS
        same(weights(fitted), undisturbed)
        assert json.loads((fit / "fit.json").read_text())["finished"]

    def test_of_another_model_leaves_it_alone(
        self, data: DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        directory = self.broken(data, tmp_path)
        (left,) = directory.iterdir()
        before = {path.name: path.read_bytes() for path in left.iterdir()}
        estimator(checkpointDir=str(directory), optimizer="sgd", epochs=1).fit(data)
        assert re.search(r"had another model\b[^:]*: it is left unchanged", capsys.readouterr().err)
        assert {path.name: path.read_bytes() for path in left.iterdir()} == before
        assert len(list(directory.iterdir())) == 2

    def test_with_fewer_workers_begins_the_epoch_anew(
        self, data: DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        directory = self.broken(data, tmp_path, checkpointSteps=2)
        fitted = estimator(checkpointDir=str(directory), numWorkers=1).fit(data)
        said = capsys.readouterr().err
        assert "2 workers reached step 2 of epoch 3: with 1, that epoch restarts." in said
        assert "Resuming from the end of epoch 2." in said
        assert len(fitted.summary.history["loss"]) == EPOCHS

    def test_passes_over_a_damaged_checkpoint(self, data: DataFrame, tmp_path: Path) -> None:
        directory = self.broken(data, tmp_path)
        (fit,) = directory.iterdir()
        (fit / "epoch-000002.keras").write_bytes(b"damaged")
        with pytest.warns(RuntimeWarning, match="epoch-000002.keras can't be used"):
            fitted = estimator(checkpointDir=str(directory)).fit(data)
        assert len(fitted.summary.history["loss"]) == EPOCHS


def test_a_checkpoint_directory_that_goes_is_told_and_costs_nothing_else(
    data: DataFrame, undisturbed: list[np.ndarray], tmp_path: Path
) -> None:
    class Remove(keras.callbacks.Callback):
        """Puts a file where the directory was."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            import shutil

            import horovod.tensorflow as hvd

            if epoch == 1 and hvd.rank() == 0:
                shutil.rmtree(str(tmp_path / "checkpoints"))
                (tmp_path / "checkpoints").touch()

    options = {"callbacks": [Remove()], "checkpointDir": str(tmp_path / "checkpoints")}
    same(weights(estimator(**options).fit(data)), undisturbed)


def test_more_workers_as_the_least_than_there_are_is_refused(data: DataFrame) -> None:
    with pytest.raises(OptionError, match="minWorkers is more than numWorkers"):
        estimator(minWorkers=3).fit(data)


def test_no_rank_outlives_its_fit(data: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ClusterError):
        estimator(numWorkers=3).fit(data)
    assert ranks() == []


DRIVER = """
import sys
import models
from sessions import session
from spark_dl import KerasClassifier
import keras, time

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.1)

with session("local-cluster[2,1,1024]") as spark:
    classifier = KerasClassifier(
        model=models.classifier(), numWorkers=2, batchSize=10, epochs=3, optimizer="adam",
        checkpointDir=sys.argv[1], cacheDir=sys.argv[2],
        callbacks=[Slow()], tracking=None, verbose=2, seed=3,
    )
    classifier.fit(models.frame(spark))
"""


def test_a_killed_driver_leaves_a_fit_that_the_next_one_ends(
    data: DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints, cache = str(tmp_path / "checkpoints"), str(tmp_path / "cache")
    command = [sys.executable, "-c", DRIVER, checkpoints, cache]
    tests = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        for line in first.stdout or []:
            if line.startswith("Epoch 1/"):
                first.kill()
    end = time.monotonic() + 60
    while ranks():  # the executors have to find out
        assert time.monotonic() < end
        time.sleep(0.05)
    capsys.readouterr()
    # This process is the next driver.
    options: dict[str, Any] = {"optimizer": "adam", "epochs": 3, "checkpointDir": checkpoints, "cacheDir": cache}
    fitted = estimator(**options).fit(data)
    said = capsys.readouterr().err
    assert "Resuming the unfinished fit in" in said, said[-3000:]
    assert "Resuming from the end of epoch 1." in said
    assert len(fitted.summary.history["loss"]) == 3
    # What the first one had converted is still there: it could not clean up.
    assert len(clean(cache)) == 1


def test_of_two_fits_with_slots_for_one_the_second_waits(data: DataFrame, undisturbed: list[np.ndarray]) -> None:
    # Built here, one after the other: Keras's seed belongs to the process, not to a thread.
    estimators = [estimator(slotTimeout=120) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(lambda each: weights(each.fit(data)), each) for each in estimators]
    for fitted in both:
        same(fitted.result(), undisturbed)
