"""The records that enter and leave a rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.io.store import Store
from spark_dl.options import TrainingOptions
from spark_dl.train.checkpoint import Checkpoint
from spark_dl.train.learning_rate import LearningRate

__all__ = ["INITIAL_MODEL", "PROFILE", "TrainPlan", "TrainResult"]

# The compiled model that every rank starts from, in the plan's workspace.
INITIAL_MODEL = "initial.keras"
# Rank 0's trace, in the plan's workspace, where it was asked for.
PROFILE = "rank0.xplane.pb"


@dataclass(frozen=True)
class TrainPlan:
    """All that a rank needs to know: plain values, frozen on the driver.

    Attributes:
        dataset: the converted rows.
        workspace: directory of this fit; holds the initial model and takes the final one.
        checkpoints: directory for the checkpoints of this fit.
        custom_objects: cloudpickled dict of the objects registered with Keras on the driver.
        callbacks: cloudpickled list of the user's callbacks.
        reader: name of the reader.
        options: the options of the training loop.
        monitor: the metric that tells the best epoch, also where the option leaves it open.
        learning_rate: of the warm-up; None where there is none.
        class_weights: of each class, in training; empty where they all weigh 1.
        augment: cloudpickled Keras layer, or dict of them by input, for features in training; empty for none.
        initial_model: the model's file in the workspace: as the user gave it, or the checkpoint to go on from.
        start: that checkpoint's record; None at the beginning.
        callback_state: the file in the workspace with what callbacks remembered there; empty where there is none.
        attempt: which attempt this is, from 1.
    """

    dataset: ConvertedDataset
    workspace: Store
    checkpoints: Store
    custom_objects: bytes
    callbacks: bytes
    reader: str
    options: TrainingOptions
    monitor: str
    learning_rate: LearningRate | None = None
    class_weights: tuple[float, ...] = ()
    augment: bytes = b""
    initial_model: str = INITIAL_MODEL
    start: Checkpoint | None = None
    callback_state: str = ""
    attempt: int = 1


@dataclass(frozen=True)
class TrainResult:
    """What training came to; plain values, the same on every rank but for `non_finite`, which is rank 0's to tell.

    Attributes:
        history: each metric's value after each epoch; a list where it has several, such as one for each class.
        rows: training rows in an epoch, over all ranks.
        validation_rows: validation rows, over all ranks.
        seconds: from the first step to the last, validation included.
        best_epoch: the best epoch by the monitored metric, from 0; -1 where it wasn't there.
        model_file: the final model's file in the workspace.
        non_finite: the path of the final model's first variable that isn't finite; empty for none.
    """

    history: dict[str, list[Any]]
    rows: int
    validation_rows: int
    seconds: float
    best_epoch: int
    model_file: str
    non_finite: str = ""
