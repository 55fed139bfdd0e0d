"""One to four Horovod ranks against one plain Keras process: the same weights, for every case of a table.

All cases of a number of ranks run in one launch. The reference trains on the global batches; for Adam it sums the
same partial gradients in the same order, because Adam divides gradients near zero by roots near zero and so makes
rounding visible: the difference to a process with the global batch is that of any two ways to add.

`scripts/bench/equality.py` prints the table of docs/reliability.md, by these cases and functions.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasEstimator
from spark_dl.errors import OptionError
from spark_dl.fit.conversion import convert_rows
from spark_dl.fit.spec import build_fit_spec
from spark_dl.io.store import Store
from spark_dl.launch.launcher import run_ranks
from spark_dl.launch.settings import LaunchSettings
from spark_dl.layers import CRF, CRFLoss
from spark_dl.options import TrainingOptions
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.plan import INITIAL_MODEL, TrainPlan
from spark_dl.world import Rank

# The ranks can't import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
WIDTH, EPOCHS, CLASSES = 6, 2, 3


@dataclass(frozen=True)
class Case:
    """What is trained: rows, batch of a rank, optimizer; with weights, an embedding, two inputs and outputs, or not.

    `tags` are a class for each of WIDTH positions: "masked" by the tokens, also under a "CRF", "ignored" where they
    are 0.
    """

    rows: int
    batch: int
    optimizer: str
    weighted: bool = False
    class_weights: tuple[float, ...] = ()
    embedding: bool = False
    several: bool = False
    tags: str = ""
    accumulation: int = 1


CASES = {
    "batches that divide": Case(96, 8, "momentum"),
    "a short last batch": Case(101, 8, "momentum"),
    "a rank empty at the end": Case(37, 9, "momentum"),
    "ranks with one row each": Case(4, 3, "momentum"),
    "weights of samples": Case(101, 8, "momentum", weighted=True),
    "weights of classes": Case(101, 8, "momentum", class_weights=(0.5, 3.0, 1.0)),
    "AdamW": Case(101, 8, "adamw"),
    "Adam": Case(101, 8, "adam"),
    "Adam, weights of samples": Case(61, 8, "adam", weighted=True),
    "an embedding": Case(101, 8, "momentum", embedding=True),
    "two inputs and two outputs": Case(101, 8, "momentum", several=True),
    "two inputs and two outputs, weights of samples": Case(61, 8, "momentum", weighted=True, several=True),
    "a masked LSTM": Case(101, 8, "momentum", tags="masked"),
    "a masked LSTM, a rank empty at the end": Case(37, 9, "momentum", tags="masked"),
    "a masked LSTM, weights of positions": Case(101, 8, "momentum", tags="masked", weighted=True),
    "weights of positions": Case(61, 8, "momentum", tags="plain", weighted=True),
    "ignore_class": Case(61, 8, "momentum", tags="ignored"),
    "a masked LSTM, accumulated gradients": Case(101, 4, "momentum", tags="masked", accumulation=2),
    "a masked CRF": Case(61, 8, "momentum", tags="CRF"),
}


def optimizer(name: str) -> keras.optimizers.Optimizer:
    return {
        "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        "adamw": lambda: keras.optimizers.AdamW(0.01),
        "adam": lambda: keras.optimizers.Adam(0.01),
    }[name]()


def network(case: Case) -> keras.Model:
    keras.utils.set_random_seed(5)
    if case.several:
        return two_by_two(case)
    if case.tags:
        return tagger(case)
    first = [keras.layers.Embedding(20, 4), keras.layers.Flatten()] if case.embedding else []
    dtype = "int32" if case.embedding else "float32"
    hidden = keras.layers.Dense(16, "tanh")
    model = keras.Sequential([keras.Input((WIDTH,), dtype=dtype), *first, hidden, keras.layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(case.optimizer), loss, jit_compile=False)
    return model


def two_by_two(case: Case) -> keras.Model:
    left, right = keras.Input((WIDTH,), name="left"), keras.Input((WIDTH,), name="right")
    hidden = keras.layers.Dense(16, "tanh")(keras.layers.Concatenate()([left, keras.layers.Dense(4)(right)]))
    outputs = {"kind": keras.layers.Dense(CLASSES)(hidden), "value": keras.layers.Dense(1)(hidden)}
    model = keras.Model([left, right], outputs)
    losses = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "value": "mse"}
    model.compile(optimizer(case.optimizer), losses, loss_weights={"kind": 1.0, "value": 0.3}, jit_compile=False)
    return model


def tagger(case: Case) -> keras.Model:
    masked = case.tags in ("masked", "CRF")
    hidden = keras.layers.LSTM(8, return_sequences=True) if case.tags == "masked" else keras.layers.Dense(8, "tanh")
    layers = [keras.layers.Embedding(20, 4, mask_zero=masked), hidden, keras.layers.Dense(CLASSES)]
    if case.tags == "CRF":
        model = keras.Sequential([keras.Input((WIDTH,), dtype="int32"), *layers, CRF()])
        model.compile(optimizer(case.optimizer), CRFLoss(), jit_compile=False)
        return model
    model = keras.Sequential([keras.Input((WIDTH,), dtype="int32"), *layers])
    ignored = 0 if case.tags == "ignored" else None
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)
    model.compile(optimizer(case.optimizer), loss, jit_compile=False)
    return model


def fed(case: Case, features: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    """What the network takes as x and y."""
    if case.several:
        return {"left": features, "right": features}, {"kind": labels, "value": labels}
    return features, labels


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(case.rows)
    features = random.normal(size=(case.rows, WIDTH)).astype(np.float32)
    if case.embedding:
        features = random.integers(0, 20, (case.rows, WIDTH)).astype(np.int32)
    if case.tags:
        features = random.integers(1, 20, (case.rows, WIDTH)).astype(np.int32)
        # Half of the sequences have one token.
        lengths = np.where(np.arange(case.rows) * 2 < case.rows, 1, WIDTH)
        features[np.arange(WIDTH) >= lengths[:, None]] = 0
    each = (case.rows, WIDTH) if case.tags else case.rows
    weights = random.uniform(0.2, 3, each).astype(np.float32)
    return features, random.integers(0, CLASSES, each).astype(np.int32), weights


def frame(spark: SparkSession, case: Case) -> DataFrame:
    kind = "int" if case.embedding or case.tags else "float"
    label, weight = ("array<int>", "array<float>") if case.tags else ("int", "float")
    rows = [(f.tolist(), y.tolist(), w.tolist()) for f, y, w in zip(*arrays(case), strict=True)]
    return spark.createDataFrame(rows, f"features array<{kind}>, label {label}, weight {weight}").coalesce(1)


def parts(case: Case, size: int) -> Iterator[list[np.ndarray]]:
    """For each step the rows of each rank."""
    bounds = [case.rows * rank // size for rank in range(size + 1)]
    ranges = [np.arange(a, b) for a, b in itertools.pairwise(bounds)]
    for step in range(-(-max(map(len, ranges)) // case.batch)):
        yield [own[step * case.batch : (step + 1) * case.batch] for own in ranges]


def joined_batches(case: Case, size: int) -> keras.Model:
    """A plain Keras process on the global batches."""
    model, (features, labels, weights) = network(case), arrays(case)
    for _ in range(EPOCHS):
        steps = [np.concatenate(step) for step in parts(case, size)]
        for start in range(0, len(steps), case.accumulation):
            rows = np.concatenate(steps[start : start + case.accumulation])
            model.train_on_batch(
                *fed(case, features[rows], labels[rows]),
                weights[rows] if case.weighted else None,
                class_weight=dict(enumerate(case.class_weights)) or None,
            )
    return model


def partial_sums(case: Case, size: int) -> keras.Model:
    """A plain process that sums the gradients of the same parts."""
    model, (features, labels, weights) = network(case), arrays(case)

    def gradients(rows: np.ndarray) -> list[Any]:
        with tf.GradientTape() as tape:
            guess = model(features[rows], training=True)
            loss = model.compute_loss(
                x=features[rows], y=labels[rows], y_pred=guess, sample_weight=weights[rows] if case.weighted else None
            )
        return [g * len(rows) for g in tape.gradient(loss, model.trainable_variables)]

    for _ in range(EPOCHS):
        for step in parts(case, size):
            each = [gradients(rows) for rows in step if len(rows)]
            total = sum(map(len, step))
            model.optimizer.apply([sum(same) / total for same in zip(*each, strict=True)], model.trainable_variables)
    return model


def apart(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference of two variables, relative to the norm of the second."""
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6)) for a, b in zip(one, other, strict=True))


def plan_of(spark: SparkSession, case: Case, directory: Path) -> TrainPlan:
    """What `fit` would tell the ranks, over blocks that Spark has written."""
    weight = "weight" if case.weighted else None
    labels = {"kind": "label", "value": "label"}
    several = {"inputCols": ["features", "features"], "labelCols": labels} if case.several else {}
    estimator = KerasEstimator(
        model=network(case), weightCol=weight, batchSize=case.batch, epochs=EPOCHS, shuffle=False, **several
    )
    estimator.setNumWorkers(2).setGradientAccumulation(case.accumulation)
    if case.tags == "CRF":
        estimator.setLabelShapes({"label": [WIDTH]})
    options = estimator._options()
    workspace = Store.at(str(directory))
    rows = frame(spark, case)
    job = build_fit_spec(estimator, rows.schema, options)
    dataset = convert_rows(rows, job.conversion, workspace)
    workspace.write(INITIAL_MODEL, job.content)
    return TrainPlan(
        options=options.part(TrainingOptions),
        monitor="loss",
        dataset=dataset,
        workspace=workspace,
        checkpoints=workspace.child("checkpoints"),
        custom_objects=cloudpickle.dumps({}),
        callbacks=cloudpickle.dumps([]),
        reader="petastorm",
        class_weights=case.class_weights,
    )


def train_all(plans: dict[str, TrainPlan], rank: Rank) -> dict[str, str]:
    from spark_dl.collectives import make_collectives
    from spark_dl.train.loop import train

    return {
        name: train(plan, make_collectives(rank.world), lambda content: None).result.model_file
        for name, plan in plans.items()
    }


def weights_of_ranks(spark: SparkSession, plans: dict[str, TrainPlan], size: int) -> dict[str, list[np.ndarray]]:
    """The weights to which a number of ranks train each case, in one launch."""
    plans = {n: replace(plan, checkpoints=plan.checkpoints.child(f"{size}-ranks")) for n, plan in plans.items()}
    files = run_ranks(spark, functools.partial(train_all, plans), size, LaunchSettings(threads_per_worker=1))[0]
    return {name: from_bytes(plans[name].workspace.read(file)).get_weights() for name, file in files.items()}


def deviation(name: str, size: int, weights: list[np.ndarray]) -> float:
    """How far the ranks' weights for a case are from those of its plain process."""
    reference = partial_sums if CASES[name].optimizer == "adam" else joined_batches
    return apart(weights, reference(CASES[name], size).get_weights())


@pytest.fixture(scope="module")
def plans(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainPlan]:
    """The plan of each case, the same for any number of ranks."""
    directory = tmp_path_factory.mktemp("equal")
    return {name: plan_of(spark, case, directory / name.replace(" ", "-")) for name, case in CASES.items()}


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def trained(
    request: pytest.FixtureRequest, spark: SparkSession, plans: dict[str, TrainPlan]
) -> tuple[int, dict[str, list[np.ndarray]]]:
    """The number of ranks, and the weights to which they train each case."""
    return request.param, weights_of_ranks(spark, plans, request.param)


@pytest.mark.parametrize("name", CASES)
def test_ranks_are_one_process(name: str, trained: tuple[int, dict[str, list[np.ndarray]]]) -> None:
    size, weights = trained
    assert deviation(name, size, weights[name]) < 1e-5


def test_with_a_global_batch_size_the_number_of_workers_changes_nothing(spark: SparkSession) -> None:
    case = Case(203, 8, "momentum")

    def fitted(workers: int) -> list[np.ndarray]:
        estimator = KerasEstimator(
            model=network(case), numWorkers=workers, globalBatchSize=16, epochs=3, seed=4, tracking=None, verbose=0
        )
        return estimator.fit(frame(spark, case)).keras().get_weights()

    alone = fitted(1)
    for workers in (2, 4):
        assert apart(fitted(workers), alone) < 1e-5


def test_more_workers_than_can_share_a_batch_are_refused(spark: SparkSession) -> None:
    estimator = KerasEstimator(model=network(CASES["AdamW"]), numWorkers=4, globalBatchSize=3, tracking=None)
    with pytest.raises(OptionError, match="numWorkers <= 3 with globalBatchSize=3"):
        estimator.fit(frame(spark, CASES["AdamW"]))


class WriteState(keras.callbacks.Callback):
    """Each rank writes its weights and its loss scale to a file of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def on_train_end(self, logs: Any = None) -> None:
        state = {str(i): weight for i, weight in enumerate(self.model.get_weights())}
        np.savez(self.directory / f"{os.getpid()}.npz", scale=float(self.model.optimizer.dynamic_scale), **state)


def test_the_overflow_of_one_rank_skips_the_step_on_all(spark: SparkSession, tmp_path: Path) -> None:
    case = Case(96, 8, "momentum")
    features, labels, _ = arrays(case)
    features[70] = 6e4  # the second rank's; its sum is beyond what float16 holds

    def mixed() -> keras.Model:
        keras.utils.set_random_seed(5)
        layers = [keras.layers.Dense(16, "relu", dtype="mixed_float16"), keras.layers.Dense(CLASSES, dtype="float32")]
        model = keras.Sequential([keras.Input((WIDTH,)), *layers])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=2.0**10)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, jit_compile=False)
        return model

    rows = [(f.tolist(), int(y)) for f, y in zip(features, labels, strict=True)]
    data = spark.createDataFrame(rows, "features array<float>, label int").coalesce(1)
    estimator = KerasEstimator(
        model=mixed(), callbacks=[WriteState(tmp_path)], numWorkers=2, batchSize=8, shuffle=False, tracking=None
    )
    estimator.setVerbose(0).fit(data)
    first, second = (dict(np.load(file)) for file in sorted(tmp_path.glob("*.npz")))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    alone = mixed()
    for step in parts(case, 2):
        joined = np.concatenate(step)
        alone.train_on_batch(features[joined], labels[joined])
    assert first["scale"] == float(alone.optimizer.dynamic_scale) == 2.0**9
    for i, value in enumerate(alone.get_weights()):
        np.testing.assert_allclose(first[str(i)], value, atol=1e-3)


class TwoOptimizers(keras.Model):
    """A train_step of its own: the last layer has another optimizer than the others, as the parts of a GAN have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.second = keras.optimizers.SGD(0.02, momentum=0.5)

    def train_step(self, data: Any) -> dict[str, Any]:
        features, labels = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=features, y=labels, y_pred=self(features, training=True))
        *first, kernel, bias = self.trainable_variables
        gradients = tape.gradient(loss, [*first, kernel, bias])
        self.optimizer.apply(gradients[:-2], first)
        self.second.apply(gradients[-2:], [kernel, bias])
        return {"loss": loss}


def two_optimizers() -> keras.Model:
    keras.utils.set_random_seed(5)
    inputs = keras.Input((WIDTH,))
    model = TwoOptimizers(inputs, keras.layers.Dense(CLASSES)(keras.layers.Dense(8, "tanh")(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    return model


def halved(epoch: int, rate: float) -> float:
    return rate / 2


@pytest.mark.parametrize(
    ("model", "callbacks"),
    [
        (two_optimizers, []),
        (
            functools.partial(network, CASES["AdamW"]),
            [
                keras.callbacks.LearningRateScheduler(halved),
                keras.callbacks.ReduceLROnPlateau(monitor="loss", min_delta=100.0, patience=1),
            ],
        ),
    ],
    ids=["two optimizers", "callbacks that change the rate"],
)
def test_two_workers_do_what_one_does(
    model: Callable[[], keras.Model], callbacks: list[Any], spark: SparkSession
) -> None:
    options = {"globalBatchSize": 16, "epochs": 4, "seed": 2, "callbacks": callbacks, "tracking": None, "verbose": 0}

    def fitted(workers: int) -> tuple[list[np.ndarray], float]:
        estimator = KerasEstimator(model=model(), numWorkers=workers, **options)
        trained = estimator.fit(frame(spark, CASES["AdamW"])).keras()
        return trained.get_weights(), float(trained.optimizer.learning_rate)

    (alone, rate), (together, same_rate) = fitted(1), fitted(2)
    assert apart(together, alone) < 1e-4
    assert same_rate == pytest.approx(rate)
    if callbacks:
        assert rate < 0.01 / 2**4  # both have acted
