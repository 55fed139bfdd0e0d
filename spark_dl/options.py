"""Every option, declared once: name, meaning, default, check.

Spark params with their setters and getters, and the record that goes to the ranks, are derived from these declarations;
the launcher checks its arguments by them.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spark_dl.errors import OptionError, explain, hint

__all__ = ["Option"]


class _RefusedError(Exception):
    """A check's word for what it expected."""


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: in Spark's camelCase.
        doc: one sentence, for explainParams and the documentation.
        convert: gives the value in its proper type, or refuses.
        default: the value where none is set; None for "not set".
    """

    name: str
    doc: str
    convert: Callable[[Any], Any]
    default: Any = None

    def check(self, value: Any) -> Any:
        """The value in its proper type; None where the option may be unset.

        Raises:
            OptionError: the value can't be used.
        """
        if value is None and self.default is None:
            return None
        try:
            return self.convert(value)
        except _RefusedError as refused:
            raise OptionError(
                explain(
                    f"{self.name} can't have this value.",
                    expected=refused,
                    received=f"{self.name}={value!r} ({type(value).__name__})",
                    fix=f"{self.name}: {self.doc}",
                )
            ) from None


def _integer(at_least: int, at_most: float = math.inf) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float, np.integer, np.floating))
            or not float(value).is_integer()
        ):
            raise _RefusedError("an integer")
        if not at_least <= value <= at_most:
            limits = f">= {at_least}" if at_most == math.inf else f"from {at_least} to {at_most:g}"
            raise _RefusedError(f"an integer {limits}")
        return int(value)

    return convert


def _number(at_least: float, below: float = math.inf) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise _RefusedError("a number")
        if not at_least <= value < below:
            raise _RefusedError(f"a number in [{at_least:g}, {below:g})")
        return float(value)

    return convert


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _RefusedError("True or False")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _RefusedError("a string")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _choice(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            near = hint(value, choices) if isinstance(value, str) else ""
            known = "one of " + ", ".join(map(repr, choices))
            raise _RefusedError(f"{known}. {near.rstrip('?')}" if near.startswith("Did") else known)
        return str(value)

    return convert


def _names(value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
        raise _RefusedError("a list of column names")
    if not value:
        raise _RefusedError("at least one column name")
    return list(value)


def _class_weights(value: Any) -> str | dict[int, float]:
    if isinstance(value, str) and value == "balanced":
        return value
    if not isinstance(value, Mapping) or not value:
        raise _RefusedError("'balanced', or a dict of weights by class index, such as {0: 1.0, 1: 5.0}")
    weigh = _number(0)
    # A saved dict has its keys as text.
    known = {_integer(0)(int(k) if isinstance(k, str) and k.isdecimal() else k): weigh(w) for k, w in value.items()}
    return dict(sorted(known.items()))


def _interface(value: Any) -> str:
    text = _text(value)
    try:
        if "/" in text:
            ipaddress.IPv4Network(text)
    except ValueError as error:
        raise _RefusedError(f"an interface's name, or an IPv4 network such as 10.0.0.0/8 ({error})") from None
    if not text:
        raise _RefusedError("an interface's name, or an IPv4 network such as 10.0.0.0/8")
    return text


def _anything(value: Any) -> Any:
    return value


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


# --- columns -----------------------------------------------------------------------------------------------
FEATURES_COL = Option(
    "featuresCol",
    "The feature column: a Vector, an array of numbers, a number, a string (for a model that takes strings), or binary "
    "(see binaryFormat).",
    _text,
    "features",
)
INPUT_COLS = Option(
    "inputCols",
    "Several feature columns, joined in this order into the model's input, in place of featuresCol.",
    _names,
)
BINARY_FORMAT = Option(
    "binaryFormat",
    "What a binary feature column holds: 'image' (JPEG, PNG, GIF or BMP, decoded; resized where it has another size "
    "than the model's input), or 'raw' (uint8 numbers, as many as the model's input has).",
    _choice("image", "raw"),
    "image",
)
LABEL_COL = Option("labelCol", "The label column: a number, or an array or Vector of numbers.", _text, "label")
WEIGHT_COL = Option("weightCol", "The column of sample weights; every row weighs 1 without it.", _text)
CLASS_WEIGHTS = Option(
    "classWeights",
    "Weights of the classes in training, by class index ({1: 5.0}; others weigh 1), or 'balanced': rows / (classes x "
    "rows of the class). They multiply the rows' own weights, and validation goes without them, as in Keras.",
    _class_weights,
)
PREDICTION_COL = Option("predictionCol", "The column that the prediction is written to.", _text, "prediction")
PROBABILITY_COL = Option(
    "probabilityCol",
    "The column that the class probabilities are written to, as a Vector; '' for none.",
    _text,
    "probability",
)
RAW_PREDICTION_COL = Option(
    "rawPredictionCol",
    "The column that the logits are written to, as a Vector; '' for none.",
    _text,
    "rawPrediction",
)
VALIDATION_COL = Option("validationCol", "A boolean column that is true in the rows for validation.", _text)
VALIDATION_FRACTION = Option(
    "validationFraction", "The part of the rows that is drawn, by the seed, for validation.", _number(0, 1), 0.0
)
NULL_POLICY = Option(
    "nullPolicy",
    "What to do with rows that have a null or NaN in a feature, the label or the weight: 'error' or 'drop'.",
    _choice("error", "drop"),
    "error",
)

# --- model -------------------------------------------------------------------------------------------------
MODEL = Option(
    "model", "The Keras model to train, built, with one input and one output. It is never changed.", _anything
)
OPTIMIZER = Option("optimizer", "A Keras optimizer or its name, in place of the compiled model's.", _anything)
LOSS = Option("loss", "A Keras loss or its name, in place of the compiled model's.", _anything)
METRICS = Option("metrics", "Keras metrics or their names, in place of the compiled model's.", _list)
CALLBACKS = Option("callbacks", "Keras callbacks. Each rank runs a copy of its own.", _list)

# --- training ----------------------------------------------------------------------------------------------
BATCH_SIZE = Option("batchSize", "Rows in a batch of one worker.", _integer(1), 32)
GLOBAL_BATCH_SIZE = Option(
    "globalBatchSize",
    "Rows in a batch of all workers together, in place of batchSize; the batches then follow from the seed alone, "
    "however many workers there are.",
    _integer(1),
)
GRADIENT_ACCUMULATION = Option(
    "gradientAccumulation",
    "Gradients of so many steps are added up, joined over the workers and applied at once; an epoch's last ones too.",
    _integer(1),
    1,
)
LEARNING_RATE_SCALING = Option(
    "learningRateScaling",
    "The optimizer's learning rate times numWorkers ('linear'), times its root ('sqrt'), or as it is ('none').",
    _choice("none", "linear", "sqrt"),
    "none",
)
WARMUP_EPOCHS = Option(
    "warmupEpochs",
    "Epochs, or a part of one, in which the learning rate rises step by step: from the rate of one worker where it is "
    "scaled, else from 0.",
    _number(0),
    0.0,
)
COMPRESSION = Option(
    "compression",
    "How float32 gradients travel between workers: as they are ('none'), or as float16 ('fp16'), half as many bytes "
    "(docs/benchmarks.md tells what that costs in accuracy).",
    _choice("none", "fp16"),
    "none",
)
EPOCHS = Option("epochs", "Passes over the training rows.", _integer(1), 1)
SHUFFLE = Option("shuffle", "Whether rows are shuffled anew in each epoch.", _boolean, True)
SEED = Option("seed", "Seed of the validation draw, the shuffle, and dropout.", _integer(0), 0)
RESTORE_BEST_WEIGHTS = Option(
    "restoreBestWeights",
    "Return the weights of the epoch that was best by `monitor`, not of the last.",
    _boolean,
    False,
)
MONITOR = Option(
    "monitor", "The metric that tells the best epoch; val_loss, or loss where there is no validation.", _text
)
MONITOR_MODE = Option(
    "monitorMode",
    "Whether `monitor` is best when least ('min') or greatest ('max'); 'auto' asks the metric.",
    _choice("auto", "min", "max"),
    "auto",
)

# --- cluster -----------------------------------------------------------------------------------------------
NUM_WORKERS = Option("numWorkers", "Number of Horovod ranks; each takes one slot.", _integer(1), 1)
CPUS_PER_WORKER = Option("cpusPerWorker", "Cores of a worker's task; not set, spark.task.cpus.", _integer(1))
GPUS_PER_WORKER = Option(
    "gpusPerWorker", "GPUs of a worker's task; not set, spark.task.resource.gpu.amount.", _integer(0)
)
THREADS_PER_WORKER = Option(
    "threadsPerWorker", "Computing threads of a worker; 0 for as many as its task has cores.", _integer(0), 0
)
NETWORK_INTERFACE = Option(
    "networkInterface",
    "The network between the workers: the name of an interface, or a CIDR such as 10.0.0.0/8; not set, the one that "
    "leads to rank 0.",
    _interface,
)
ALLOW_PLAINTEXT = Option(
    "allowPlaintext",
    "Train although Spark is told to encrypt: workers speak plain TCP, on a network that you trust.",
    _boolean,
    False,
)
SLOT_TIMEOUT = Option("slotTimeout", "Seconds to wait until all workers have a slot.", _number(0), 60.0)
CACHE_DIR = Option(
    "cacheDir",
    "A directory or URL that driver and executors share, for the converted data of a running fit; a temporary "
    "directory where they are on one machine.",
    _text,
)
CACHE_DATA = Option(
    "cacheData",
    "Where a worker keeps the rows that it has read, for the epochs that follow: 'memory', 'disk' (of its host), or "
    "'none' to read them anew; 'auto' does so until a worker waits for rows more than a fifth of an epoch, and then "
    "keeps them on disk where there is room.",
    _choice("auto", "none", "memory", "disk"),
    "auto",
)
CHECKPOINT_DIR = Option(
    "checkpointDir",
    "A directory or URL that driver and executors share, where checkpoints are kept. A fit that was not finished "
    "goes on from there when fit is called again.",
    _text,
)
KEEP_CHECKPOINTS = Option("keepCheckpoints", "How many of the latest checkpoints are kept.", _integer(1), 2)
CHECKPOINT_STEPS = Option(
    "checkpointSteps",
    "Write a checkpoint also after so many steps within an epoch; not set, at its end only.",
    _integer(1),
)
MAX_RESTARTS = Option(
    "maxRestarts",
    "How often training is started again, from its last checkpoint, after workers were lost.",
    _integer(0),
    3,
)
MIN_WORKERS = Option(
    "minWorkers", "With how few workers training goes on after others were lost; not set, with no fewer.", _integer(1)
)
COLLECTIVE_TIMEOUT = Option(
    "collectiveTimeout", "Seconds after which a worker that does not answer the others counts as lost.", _integer(1), 30
)
STALL_TIMEOUT = Option(
    "stallTimeout",
    "Seconds without a step after which training is given up, naming the worker that stands.",
    _number(1),
    600.0,
)

# --- what the user sees --------------------------------------------------------------------------------------
TRACKING = Option("tracking", "Where the fit is logged: 'mlflow', or None for nowhere.", _text_or_none, "mlflow")
EXPERIMENT_NAME = Option("experimentName", "The MLflow experiment; the current one without it.", _text)
RUN_NAME = Option("runName", "The name of the MLflow run that the fit opens.", _text)
PROFILE = Option(
    "profile",
    "Trace some steps of rank 0 with TensorFlow's profiler; the run's artifact `profile` opens in TensorBoard.",
    _boolean,
    False,
)
VERBOSE = Option("verbose", "0: silent, 1: a progress bar, 2: one line for each epoch.", _integer(0, 2), 1)
SCORE_BATCH_SIZE = Option("scoreBatchSize", "Rows that the model scores at once in transform.", _integer(1), 4096)
