"""Losses that aren't means over rows: ranks compute those of the global batch, in training and in validation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from plans import written_plan
from rows import on_ranks, pack

from spark_dl.data.column import Column
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.io.store import Store
from spark_dl.train.loop import train
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.plan import TrainPlan

STEPS, CLASSES, EPOCHS = 6, 3, 2


@dataclass(frozen=True)
class Case:
    """A model's masks, loss and weights, and the rows and the batch of a rank."""

    loss: Callable[[], Any]
    rows: int = 37
    batch: int = 5
    masked: bool = False
    weights: tuple[int, ...] | None = None
    accumulation: int = 1
    regularized: bool = False
    all_masked: int = 0


def crossentropy(**arguments: Any) -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def own(y_true: Any, y_pred: Any) -> Any:
    """A loss of the user's for each position."""
    chosen = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), CLASSES)
    return keras.ops.sum(keras.ops.square(chosen - y_pred), axis=-1)


CASES = {
    "whole rows and batches masked": Case(crossentropy, batch=3, masked=True, all_masked=20),
    "masks and weights per row, a rank empty at the end": Case(crossentropy, 22, 9, masked=True, weights=(1,)),
    "ignore_class and masks": Case(lambda: crossentropy(ignore_class=0), masked=True),
    "a mean over masked weights": Case(
        lambda: crossentropy(reduction="mean_with_sample_weight"), masked=True, weights=(STEPS,)
    ),
    "a loss of the user's, and a regularizer": Case(lambda: own, masked=True, regularized=True),
    "accumulated gradients, whole rows masked": Case(
        crossentropy, batch=3, masked=True, accumulation=2, all_masked=20, regularized=True
    ),
}


def network(case: Case) -> keras.Model:
    keras.utils.set_random_seed(3)
    tokens = keras.Input((STEPS, 1))
    masked = keras.layers.Masking()(tokens) if case.masked else tokens
    hidden = keras.layers.Dense(5, "tanh")(masked)  # which passes the mask on
    rule = keras.regularizers.L2(0.1) if case.regularized else None
    model = keras.Model(tokens, keras.layers.Dense(CLASSES, kernel_regularizer=rule)(hidden))
    metrics = {"metrics": ["accuracy"], "weighted_metrics": [keras.metrics.SparseCategoricalCrossentropy(name="each")]}
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), case.loss(), jit_compile=False, **metrics)
    return model


def rows_of(case: Case) -> tuple[np.ndarray, ...]:
    """Numbers, tags and weights; 0 ends a sequence, which has from 1 to all steps."""
    random = np.random.default_rng(case.rows)
    tokens = random.normal(size=(case.rows, STEPS, 1)).astype(np.float32)
    lengths = np.where(random.random(case.rows) < 0.5, 1, STEPS)
    lengths[: case.all_masked] = 0
    tokens[np.arange(STEPS) >= lengths[:, None]] = 0
    tags = random.integers(0, CLASSES, (case.rows, STEPS)).astype(np.int32)
    weights = random.choice([0.0, 0.5, 2.0], (case.rows, *(case.weights or ()))).astype(np.float32)
    return (tokens, tags, weights) if case.weights else (tokens, tags)


def plan_of(case: Case, directory: Path, held: np.ndarray) -> TrainPlan:
    workspace = Store.at(str(directory))
    parts = rows_of(case)
    columns = {
        name: pa.array(list(part.reshape(case.rows, -1))) for name, part in zip(("x", "y", "w"), parts, strict=False)
    }
    if case.weights == (1,):
        columns["w"] = pa.array(parts[2][:, 0])
    columns["v"] = pa.array(held)
    weight = Column("w", "array" if case.weights == (STEPS,) else "number", "float32", (case.weights or (1,))[0])
    conversion = ConversionSpec(
        store=workspace.child("data"),
        features=(FeatureSpec((Column("x", "array", "float32", STEPS),), (STEPS, 1), "float32"),),
        labels=(LabelSpec(Column("y", "array", "int32", STEPS), (STEPS,), "int32", CLASSES),),
        weight=weight if case.weights else None,
        weight_shape=case.weights or (),
        validation_col=Column("v", "boolean", "bool", 1),
    )
    conversion.store.make()
    dataset, errors = pack(conversion, *pa.table(columns).to_batches())
    assert not errors
    options = {"batch_size": case.batch, "epochs": EPOCHS, "gradient_accumulation": case.accumulation}
    others = {"shuffle": False, "reader": "petastorm", "objects": {"own": own}}
    return written_plan(directory, network(case), dataset, **options, **others)


def joined(case: Case, places: np.ndarray, size: int, steps: int = 1) -> list[tuple[np.ndarray, ...]]:
    """The batches of all ranks, which read contiguous, equal ranges of the rows; or of several steps of them."""
    bounds = [len(places) * rank // size for rank in range(size + 1)]
    ranges = [places[a:b] for a, b in itertools.pairwise(bounds)]
    count = -(-max(map(len, ranges)) // case.batch)
    chosen = [np.concatenate([r[i * case.batch : (i + 1) * case.batch] for r in ranges]) for i in range(count)]
    chosen = [np.concatenate(chosen[i : i + steps]) for i in range(0, count, steps)]
    return [tuple(part[rows] for part in rows_of(case)) for rows in chosen]


def in_one_process(
    case: Case, training: Sequence[Any], validation: Sequence[Any]
) -> tuple[list[np.ndarray], dict[str, list[float]]]:
    """The weights and the history of plain Keras on the global batches; without graphs, which would take longer."""
    model = network(case)
    model.run_eagerly = True
    history: dict[str, list[float]] = {}

    def batches(parts: Sequence[Any]) -> Any:
        kinds = [(None, *part.shape[1:]) for part in parts[0]]
        signature = tuple(tf.TensorSpec(s, p.dtype) for s, p in zip(kinds, parts[0], strict=True))
        return tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=signature)

    for _ in range(EPOCHS):
        told = model.fit(
            batches(training), validation_data=batches(validation) if validation else None, shuffle=False, verbose=0
        )
        for name, values in told.history.items():
            history.setdefault(name, []).extend(values)
    return model.get_weights(), history


@pytest.mark.parametrize("name", CASES)
def test_ranks_divide_by_all_valid_positions_of_the_joined_batch(name: str, tmp_path: Path) -> None:
    size, case = 3, CASES[name]
    held = np.arange(case.rows) % 4 == 3
    plan = plan_of(case, tmp_path, held)
    result = on_ranks(size, lambda rank: train(plan, rank, lambda content: None).result)[0]
    weights = from_bytes(plan.workspace.read(result.model_file), {"own": own}).get_weights()
    training = joined(case, np.flatnonzero(~held), size, case.accumulation)
    expected, history = in_one_process(case, training, joined(case, np.flatnonzero(held), size))
    for mine, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    if case.accumulation == 1:  # the loss of accumulated steps is that of each step
        assert result.history.keys() == history.keys()
        for metric, values in history.items():
            assert result.history[metric] == pytest.approx(values, rel=1e-5), metric
