"""Every option, declared once: name, meaning, default, check.

Spark params with their setters and getters, and the record that goes to the ranks, are derived from these declarations;
the launcher checks its arguments by them.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from spark_dl.errors import OptionError, explain, hint

__all__ = ["Option", "all_options", "declared"]


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
        on_resume: What a fit that goes on with an unfinished one needs of this option: the "same" value, or one that
            makes the same of the "model" or the "rows"; "any" value where it changes how, and not what, is trained.
            Not stated, the value must be the same.
    """

    name: str
    doc: str
    convert: Callable[[Any], Any]
    default: Any = None
    on_resume: Literal["same", "model", "rows", "any"] | None = field(default=None, kw_only=True)

    def __reduce__(self) -> tuple[Callable[[str], Option], tuple[str]]:
        """Pickled by its name, as what is declared: its check may be a function within another."""
        return declared, (self.name,)

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


def all_options() -> list[Option]:
    """Every declared option."""
    return [value for value in globals().values() if isinstance(value, Option)]


def declared(name: str) -> Option:
    """The option of this name."""
    return next(option for option in all_options() if option.name == name)


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
        raise _RefusedError("a list of names")
    if not value:
        raise _RefusedError("at least one name")
    return list(value)


def _named_columns(several: bool) -> Callable[[Any], list[str] | dict[str, Any]]:
    """A list of columns, or a dict of them by name; of several for a name, where that is asked for."""

    def convert(value: Any) -> list[str] | dict[str, Any]:
        if not isinstance(value, Mapping):
            return _names(value)
        if not value or not all(isinstance(name, str) for name in value):
            raise _RefusedError("a dict with at least one name")
        return {name: _names(v) if several and not isinstance(v, str) else _text(v) for name, v in value.items()}

    return convert


def _shapes(value: Any) -> dict[str, list[int]]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _RefusedError("a dict from column to the shape of one row, such as {'steps': [20, 8]}")
    for shape in value.values():
        if isinstance(shape, str) or not isinstance(shape, Sequence):
            raise _RefusedError("a dict from column to the shape of one row, such as {'steps': [20, 8]}")
    return {name: [_integer(1)(size) for size in shape] for name, shape in value.items()}


def _null_policy(value: Any) -> str | dict[str, Any]:
    policy = _choice("error", "drop")
    if not isinstance(value, Mapping):
        return policy(value)
    checked: dict[str, Any] = {}
    for name, given in value.items():
        filled = isinstance(given, Mapping) and set(given) == {"fill"} and isinstance(given["fill"], (int, float, str))
        if not filled and given not in ("error", "drop"):
            raise _RefusedError(f"'error', 'drop' or {{'fill': value}} for each column, {name!r} among them")
        checked[name] = dict(given) if filled else given
    return checked


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


def _function(value: Any) -> Any:
    if not callable(value):
        raise _RefusedError("a function")
    return value


def _keywords(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _RefusedError("a dict of keyword arguments")
    return dict(value)


def _list(value: Any) -> list[Any] | dict[str, Any]:
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _thresholds(value: Any) -> list[float]:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise _RefusedError("a list of numbers")
    found = [_number(0)(number) for number in value]
    if sum(number == 0 for number in found) > 1:
        raise _RefusedError("a list of numbers > 0, at most one of them 0")
    return found


def _loss_weights(value: Any) -> list[float] | dict[str, float]:
    if isinstance(value, Mapping):
        return {str(name): _number(0)(weight) for name, weight in value.items()}
    if isinstance(value, (list, tuple)):
        return [_number(0)(weight) for weight in value]
    raise _RefusedError("a list of numbers, or a dict of them")


# --- columns -----------------------------------------------------------------------------------------------
FEATURES_COL = Option(
    "featuresCol",
    "The feature column: a Vector, an array of numbers, a number, a string (for a model that takes strings), binary "
    "(see binaryFormat), or Spark's image struct.",
    _text,
    "features",
    on_resume="same",
)
INPUT_COLS = Option(
    "inputCols",
    "Several feature columns, in place of featuresCol: a list, joined in this order into the model's input, or one for "
    "each of several inputs; or a dict from an input's name to its column or columns.",
    _named_columns(several=True),
    on_resume="same",
)
COLUMN_SHAPES = Option(
    "columnShapes",
    "The shape of one row of columns that feed inputs whose shape the model leaves open, such as {'steps': [20, 8]}.",
    _shapes,
    on_resume="same",
)
BINARY_FORMAT = Option(
    "binaryFormat",
    "What a binary feature column holds: 'image' (JPEG, PNG, GIF or BMP, decoded; resized where it has another size "
    "than the model's input), or 'raw' (uint8 numbers, as many as the model's input has).",
    _choice("image", "raw"),
    "image",
    on_resume="same",
)
SPARSE_VECTORS = Option(
    "sparseVectors",
    "Whether a Vector that feeds an input alone stays sparse until the batch, which takes 8 bytes for each number that "
    "isn't zero (16 for a float64 input), in place of 4 for each number: 'auto' (one of more than 4,096 numbers), "
    "'always', or 'never' (for wide Vectors that are mostly dense).",
    _choice("auto", "always", "never"),
    "auto",
    on_resume="same",
)
LABEL_COL = Option(
    "labelCol",
    "The label column: a number, or an array or Vector of numbers.",
    _text,
    "label",
    on_resume="same",
)
LABEL_COLS = Option(
    "labelCols",
    "The label columns of a model with several outputs: a list, in the model's order, or a dict from an output's name.",
    _named_columns(several=False),
    on_resume="same",
)
WEIGHT_COL = Option(
    "weightCol",
    "The column of sample weights; every row weighs 1 without it.",
    _text,
    on_resume="same",
)
CLASS_WEIGHTS = Option(
    "classWeights",
    "Weights of the classes in training, by class index ({1: 5.0}; others weigh 1), or 'balanced': rows / (classes x "
    "rows of the class). They multiply the rows' own weights, and validation goes without them, as in Keras.",
    _class_weights,
    on_resume="same",
)
PREDICTION_COL = Option(
    "predictionCol",
    "The column that the prediction is written to.",
    _text,
    "prediction",
    on_resume="any",
)
OUTPUT_COLS = Option(
    "outputCols",
    "The columns that several outputs are written to: a list, in the model's order, or a dict from an output's name, "
    "where others aren't written; not set, predictionCol with _ and the output's name.",
    _named_columns(several=False),
    on_resume="any",
)
OUTPUT_FORMAT = Option(
    "outputFormat",
    "What becomes of an output with several numbers a row (of a KerasModel, or of outputLayer): 'array', of floats, or "
    "'vector', a Spark ML Vector, which other stages of a Pipeline take.",
    _choice("array", "vector"),
    "array",
    on_resume="any",
)
PROBABILITY_COL = Option(
    "probabilityCol",
    "The column that the class probabilities are written to, as a Vector; '' for none.",
    _text,
    "probability",
    on_resume="any",
)
RAW_PREDICTION_COL = Option(
    "rawPredictionCol",
    "The column that the logits are written to, as a Vector; '' for none.",
    _text,
    "rawPrediction",
    on_resume="any",
)
OUTPUT_KIND = Option(
    "outputKind",
    "What the classifier's output units hold: 'logits' or 'probability'; not set, what the last activation or the loss "
    "says, or what is measured on made-up rows before training (`plan` tells which).",
    _choice("logits", "probability"),
    on_resume="model",
)
THRESHOLDS = Option(
    "thresholds",
    "A threshold for each class, at most one of them 0: the class of greatest probability / threshold is predicted.",
    _thresholds,
    on_resume="any",
)
TOP_K = Option(
    "topK",
    "How many of the most probable classes transform writes to topKCol; not set, none.",
    _integer(1),
    on_resume="any",
)
TOP_K_COL = Option(
    "topKCol",
    "The column of the topK most probable classes, the first ones first: an array of (label, probability).",
    _text,
    "topK",
    on_resume="any",
)
CLASS_LABELS = Option(
    "classLabels",
    "The classes' names in the order of their indices, for topKCol; not set, the indices.",
    _names,
    on_resume="any",
)
OUTPUT_LAYER = Option(
    "outputLayer",
    "The layer whose output transform writes to predictionCol (see outputFormat) in place of the model's own: an "
    "embedding.",
    _text,
    on_resume="any",
)
VALIDATION_COL = Option(
    "validationCol",
    "A boolean column that is true in the rows for validation.",
    _text,
    on_resume="rows",
)
VALIDATION_DATA = Option(
    "validationData",
    "A DataFrame of rows for validation, with the same columns.",
    _anything,
    on_resume="rows",
)
VALIDATION_FRACTION = Option(
    "validationFraction",
    "The part of the rows that is drawn, by the seed, for validation.",
    _number(0, 1),
    0.0,
    on_resume="rows",
)
STRATIFIED = Option(
    "stratified",
    "Whether validationFraction is drawn from each class, so that it is the same part of each.",
    _boolean,
    False,
    on_resume="rows",
)
BALANCE = Option(
    "balance",
    "Have all classes train alike: 'oversample' writes rows of rare classes several times, 'undersample' leaves out "
    "rows of frequent ones, by the seed; rows for validation stay as they are.",
    _choice("none", "oversample", "undersample"),
    "none",
    on_resume="same",
)
NULL_POLICY = Option(
    "nullPolicy",
    "What to do about a null, NaN or infinite number in a feature, a label or the weight: 'error', or 'drop' for rows "
    "left out of training; or a dict by column of 'error', 'drop' or {'fill': value}, which fills them in transform, "
    "too.",
    _null_policy,
    "error",
    on_resume="same",
)

# --- model -------------------------------------------------------------------------------------------------
MODEL = Option(
    "model",
    "The Keras model to train, built. It is never changed.",
    _anything,
    on_resume="model",
)
MODEL_FN = Option(
    "modelFn",
    "A function that builds the Keras model, in place of `model`; it is called on the driver, with modelParams.",
    _function,
    on_resume="model",
)
MODEL_PARAMS = Option(
    "modelParams",
    "Keyword arguments of modelFn, as a dict: hyperparameters that a grid can search.",
    _keywords,
    on_resume="model",
)
WARM_START = Option(
    "warmStart",
    "A fitted KerasModel whose Keras model training begins with, in place of `model`: its weights, and what it was "
    "compiled with where nothing else is given.",
    _anything,
    on_resume="model",
)
OPTIMIZER = Option(
    "optimizer",
    "A Keras optimizer or its name, in place of the compiled model's.",
    _anything,
    on_resume="model",
)
LOSS = Option(
    "loss",
    "A Keras loss or its name, in place of the compiled model's; of several outputs, a list or a dict by their names.",
    _anything,
    on_resume="model",
)
LOSS_WEIGHTS = Option(
    "lossWeights",
    "What the losses of several outputs count: a list, or a dict by the outputs' names.",
    _loss_weights,
    on_resume="model",
)
METRICS = Option(
    "metrics",
    "Keras metrics or their names, in place of the compiled model's; of several outputs, a dict by their names.",
    _list,
    on_resume="model",
)
CALLBACKS = Option(
    "callbacks",
    "Keras callbacks. Each rank runs a copy of its own.",
    _list,
    on_resume="same",
)

TRANSFORM_FN = Option(
    "transformFn",
    "Keras layers that change the features alike in training and in scoring, such as Normalization: one layer (or a "
    "Sequential), or a dict by the inputs' names. They become the front of the fitted model, and aren't trained.",
    _anything,
    on_resume="model",
)
AUGMENT = Option(
    "augment",
    "Keras layers that change the features in training only, such as RandomFlip: one layer (or a Sequential), or a "
    "dict by the inputs' names. They see the features before transformFn does. After lost workers their random draws "
    "begin anew.",
    _anything,
    on_resume="same",
)

# --- training ----------------------------------------------------------------------------------------------
BATCH_SIZE = Option(
    "batchSize",
    "Rows in a batch of one worker.",
    _integer(1),
    32,
    on_resume="same",
)
GLOBAL_BATCH_SIZE = Option(
    "globalBatchSize",
    "Rows in a batch of all workers together, in place of batchSize; the batches then follow from the seed alone, "
    "however many workers there are.",
    _integer(1),
    on_resume="same",
)
GRADIENT_ACCUMULATION = Option(
    "gradientAccumulation",
    "Gradients of so many steps are added up, joined over the workers and applied at once; an epoch's last ones too.",
    _integer(1),
    1,
    on_resume="same",
)
LEARNING_RATE_SCALING = Option(
    "learningRateScaling",
    "The optimizer's learning rate times numWorkers ('linear'), times its root ('sqrt'), or as it is ('none').",
    _choice("none", "linear", "sqrt"),
    "none",
    on_resume="same",
)
WARMUP_EPOCHS = Option(
    "warmupEpochs",
    "Epochs, or a part of one, in which the learning rate rises step by step: from the rate of one worker where it is "
    "scaled, else from 0.",
    _number(0),
    0.0,
    on_resume="same",
)
COMPRESSION = Option(
    "compression",
    "How float32 gradients travel between workers: as they are ('none'), or as float16 ('fp16'), half as many bytes "
    "(docs/benchmarks.md tells what that costs in accuracy).",
    _choice("none", "fp16"),
    "none",
    on_resume="same",
)
EPOCHS = Option(
    "epochs",
    "Passes over the training rows.",
    _integer(1),
    1,
    on_resume="any",
)
INITIAL_EPOCH = Option(
    "initialEpoch",
    "The epoch that training begins with, counted from 0, out of `epochs`, as in Keras.",
    _integer(0),
    0,
    on_resume="same",
)
DTYPE_POLICY = Option(
    "dtypePolicy",
    "Keras's dtype policy of all layers, in place of their own: 'float32', 'mixed_bfloat16' or 'mixed_float16'. The "
    "model's outputs stay float32.",
    _choice("float32", "mixed_bfloat16", "mixed_float16"),
    on_resume="same",
)
JIT_COMPILE = Option(
    "jitCompile",
    "Whether XLA compiles each worker's forward and backward pass; gradients are joined and applied outside of it.",
    _boolean,
    False,
    on_resume="any",
)
SHUFFLE = Option(
    "shuffle",
    "Whether rows are shuffled anew in each epoch.",
    _boolean,
    True,
    on_resume="same",
)
SEED = Option(
    "seed",
    "Seed of the validation draw, the shuffle, and dropout.",
    _integer(0),
    0,
    on_resume="same",
)
RESTORE_BEST_WEIGHTS = Option(
    "restoreBestWeights",
    "Return the weights of the epoch that was best by `monitor`, not of the last.",
    _boolean,
    False,
    on_resume="any",
)
MONITOR = Option(
    "monitor",
    "The metric that tells the best epoch; val_loss, or loss where there is no validation.",
    _text,
    on_resume="same",
)
MONITOR_MODE = Option(
    "monitorMode",
    "Whether `monitor` is best when least ('min') or greatest ('max'); 'auto' asks the metric.",
    _choice("auto", "min", "max"),
    "auto",
    on_resume="same",
)

# --- cluster -----------------------------------------------------------------------------------------------
NUM_WORKERS = Option(
    "numWorkers",
    "Number of Horovod ranks; each takes one slot.",
    _integer(1),
    1,
    on_resume="any",
)
CPUS_PER_WORKER = Option(
    "cpusPerWorker",
    "Cores of a worker's task; not set, spark.task.cpus.",
    _integer(1),
    on_resume="any",
)
GPUS_PER_WORKER = Option(
    "gpusPerWorker",
    "GPUs of a worker's task; not set, spark.task.resource.gpu.amount.",
    _integer(0),
    on_resume="any",
)
THREADS_PER_WORKER = Option(
    "threadsPerWorker",
    "Computing threads of a worker; 0 for as many as its task has cores.",
    _integer(0),
    0,
    on_resume="any",
)
NETWORK_INTERFACE = Option(
    "networkInterface",
    "The network between the workers: the name of an interface, or a CIDR such as 10.0.0.0/8; not set, the one that "
    "leads to rank 0.",
    _interface,
    on_resume="any",
)
ALLOW_PLAINTEXT = Option(
    "allowPlaintext",
    "Train although Spark is told to encrypt: workers speak plain TCP, on a network that you trust.",
    _boolean,
    False,
    on_resume="any",
)
SLOT_TIMEOUT = Option(
    "slotTimeout",
    "Seconds to wait until all workers have a slot.",
    _number(0),
    60.0,
    on_resume="any",
)
CACHE_DIR = Option(
    "cacheDir",
    "A directory or URL that driver and executors share, for the converted data of a running fit; a temporary "
    "directory where they are on one machine.",
    _text,
    on_resume="any",
)
CACHE_DATA = Option(
    "cacheData",
    "Where a worker keeps the rows that it has read, for the epochs that follow: 'memory', 'disk' (of its host), or "
    "'none' to read them anew; 'auto' does so until a worker waits for rows more than a fifth of an epoch, and then "
    "keeps them on disk where there is room.",
    _choice("auto", "none", "memory", "disk"),
    "auto",
    on_resume="any",
)
CHECKPOINT_DIR = Option(
    "checkpointDir",
    "A directory or URL that driver and executors share, where checkpoints are kept. A fit that was not finished "
    "goes on from there when the same fit is called again: with the same model, code, rows and options.",
    _text,
    on_resume="any",
)
KEEP_CHECKPOINTS = Option(
    "keepCheckpoints",
    "How many of the latest checkpoints are kept.",
    _integer(1),
    2,
    on_resume="any",
)
CHECKPOINT_STEPS = Option(
    "checkpointSteps",
    "Write a checkpoint also after so many steps within an epoch; not set, at its end only.",
    _integer(1),
    on_resume="any",
)
MAX_RESTARTS = Option(
    "maxRestarts",
    "How often training is started again, from its last checkpoint, after workers were lost.",
    _integer(0),
    3,
    on_resume="any",
)
MIN_WORKERS = Option(
    "minWorkers",
    "With how few workers training goes on after others were lost; not set, with no fewer.",
    _integer(1),
    on_resume="any",
)
COLLECTIVE_TIMEOUT = Option(
    "collectiveTimeout",
    "Seconds after which a worker that does not answer the others counts as lost.",
    _integer(1),
    30,
    on_resume="any",
)
STALL_TIMEOUT = Option(
    "stallTimeout",
    "Seconds without a step after which training is given up, naming the worker that stands.",
    _number(1),
    600.0,
    on_resume="any",
)

# --- what the user sees --------------------------------------------------------------------------------------
TRACKING = Option(
    "tracking",
    "Where the fit is logged: 'mlflow'; 'optional' for MLflow where it can be reached; or None for nowhere.",
    _text_or_none,
    "mlflow",
    on_resume="any",
)
EXPERIMENT_NAME = Option(
    "experimentName",
    "The MLflow experiment; the current one without it.",
    _text,
    on_resume="any",
)
RUN_NAME = Option(
    "runName",
    "The name of the MLflow run that the fit opens.",
    _text,
    on_resume="any",
)
REGISTERED_MODEL_NAME = Option(
    "registeredModelName",
    "The registered model of MLflow that the fitted model becomes a new version of.",
    _text,
    on_resume="any",
)
PROFILE = Option(
    "profile",
    "Trace some steps of rank 0 with TensorFlow's profiler; the run's artifact `profile` opens in TensorBoard.",
    _boolean,
    False,
    on_resume="any",
)
VERBOSE = Option(
    "verbose",
    "0: silent, 1: a progress bar, 2: one line for each epoch.",
    _integer(0, 2),
    1,
    on_resume="any",
)
SCORE_BATCH_SIZE = Option(
    "scoreBatchSize",
    "Rows that the model scores at once in transform.",
    _integer(1),
    4096,
    on_resume="any",
)
