"""Input and output records of a rank: the plan of a training and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.io.store import Store
from spark_dl.options import TrainingOptions
from spark_dl.train.checkpoint import Checkpoint
from spark_dl.train.learning_rate import LearningRate

__all__ = ["INITIAL_MODEL", "PROFILE", "FederatedRounds", "PrivateSteps", "RankTraining", "TrainPlan", "TrainResult"]

# Name of the compiled model that every rank starts from, in the plan's workspace.
INITIAL_MODEL = "initial.keras"
# Name of rank 0's profiler trace in the plan's workspace; written if profiling is on.
PROFILE = "rank0.xplane.pb"


@dataclass(frozen=True)
class PrivateSteps:
    """Settings of training steps with differential privacy, for `train/private.py`.

    Attributes:
        clip: The norm to which the gradient of each row is clipped.
        noise: The standard deviation of the noise, divided by `clip`.
        batch: The expected number of rows in a step, by which the noisy sum of gradients is divided.
        chance: The probability with which a step samples a row.
        steps: The number of steps in an epoch.
        seed: The secret seed of the noise and of the samples.
        epsilons: The epsilon after each epoch.
    """

    clip: float
    noise: float
    batch: float
    chance: float
    steps: int
    seed: int = field(repr=False)
    epsilons: tuple[float, ...] = ()


@dataclass(frozen=True)
class FederatedRounds:
    """Settings of federated training, for `train/federated.py`: each rank trains on one silo, an epoch is a round.

    Attributes:
        silos: The name of each rank's silo.
        local_epochs: The number of passes over its silo that a rank makes in a round.
        proximal: The factor of the proximal term (FedProx); 0 for none (FedAvg).
    """

    silos: tuple[str, ...]
    local_epochs: int = 1
    proximal: float = 0.0

    @property
    def params(self) -> dict[str, Any]:
        """Settings as they are logged, by the names of the arguments."""
        return {"silos": len(self.silos), "localEpochs": self.local_epochs, "proximal": self.proximal}


@dataclass(frozen=True)
class TrainPlan:
    """Everything a rank needs to train, as plain values that the driver has fixed.

    Attributes:
        dataset: The converted dataset.
        workspace: The directory of this fit; it holds the initial model and takes the final one.
        checkpoints: The directory of this fit's checkpoints.
        custom_objects: Cloudpickled dict of the objects registered with Keras on the driver.
        callbacks: Cloudpickled list of the user's callbacks.
        reader: The name of the block reader.
        options: The options of the training loop.
        monitor: The metric that decides which epoch is best, also if the option is unset.
        learning_rate: The learning rate schedule of the warm-up; None without a warm-up.
        class_weights: The weight of each class in training; empty if all are 1.
        augment: Cloudpickled Keras layer, or dict of layers by input, that augments features in training; empty for
            none.
        initial_model: The name of the model file to start from in the workspace: the user's model, or that of a
            checkpoint.
        start: The checkpoint to resume from; None to start from the beginning.
        callback_state: The name of the file in the workspace with the callbacks' state at that checkpoint; empty for
            none.
        attempt: The number of this attempt, from 1.
        asks_driver: Whether ranks ask the driver after each epoch whether to continue.
        state_rules: The join rules of the states of the user's layers, by their index in `non_trainable_variables`.
        privacy: The settings of private steps; None for plain ones.
        federated: The settings of federated training; None for gradients that are joined in each step.
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
    asks_driver: bool = False
    state_rules: tuple[tuple[int, str], ...] = ()
    privacy: PrivateSteps | None = None
    federated: FederatedRounds | None = None

    @property
    def passes(self) -> int:
        """Number of passes over the rows in an epoch of the history."""
        return self.federated.local_epochs if self.federated else 1


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run, as plain values.

    The driver uses rank 0's: `seconds` and `non_finite` are each rank's own measurements.

    Attributes:
        history: The values of each metric after each epoch; an epoch's value is a list if the metric has several, such
            as one per class.
        rows: The number of training rows in an epoch, over all ranks.
        validation_rows: The number of validation rows, over all ranks.
        seconds: The seconds from the start to the end of Keras's `fit`, validation and checkpoints included.
        best_epoch: The best epoch by the monitored metric, from 0; -1 if there is none.
        model_file: The name of the final model's file in the workspace.
        non_finite: The path of the final model's first variable with NaN or infinite values; empty if there is none.
    """

    history: dict[str, list[Any]]
    rows: int
    validation_rows: int
    seconds: float
    best_epoch: int
    model_file: str
    non_finite: str = ""


@dataclass(frozen=True)
class RankTraining:
    """Training of one rank that has ended.

    Attributes:
        result: The result.
        model: The rank's Keras model, with the weights of the last step.
        is_final: Whether rank 0 has written this model as the final one, and not that of the best epoch. Only rank 0
            knows.
        settings: Keras's settings with which the model computes.
        validation: The dataset of one pass over the rank's validation rows; None if there are none.
    """

    result: TrainResult
    model: Any
    is_final: bool
    settings: Mapping[str, Any]
    validation: Any
