"""Training in the driver, as streams do, gives the weights of a fit by one worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cloudpickle
import keras
import numpy as np
import pytest
from plans import written_plan
from rows import packed_arrays

from spark_dl.collectives import SoloCollectives
from spark_dl.data.column import Column
from spark_dl.data.convert import append_rows
from spark_dl.data.readers import reader
from spark_dl.data.shards import Segment
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.io.store import Store
from spark_dl.options import TrainingOptions
from spark_dl.streaming.learner import Learner
from spark_dl.train.loop import train
from spark_dl.train.model.serialization import from_bytes, to_bytes
from spark_dl.world import solo

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(50, 5)).astype("float32")
Y = RANDOM.integers(0, 3, 50).astype("int32")


def a_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(6, "relu"), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_a_learner_takes_the_steps_of_one_rank_batch_after_batch(tmp_path: Path) -> None:
    content, options = to_bytes(a_model()), TrainingOptions(batch_size=8, epochs=2, shuffle=False)
    dataset = packed_arrays(tmp_path / "data", X, Y, rows=50)
    learner = Learner(content, cloudpickle.dumps({}), b"", dataset.tensors, options)
    for _ in range(2):  # the second fit begins with the optimizer's state of the first
        plan = replace(written_plan(tmp_path, content, dataset), options=options)
        result = train(plan, SoloCollectives(solo()), lambda report: None).result
        metrics = learner.train([X, Y], [0])
        assert metrics["loss"] == pytest.approx(result.history["loss"][-1], rel=1e-5)
        content = plan.workspace.read(result.model_file)
        for mine, theirs in zip(
            from_bytes(learner.content()).get_weights(), from_bytes(content).get_weights(), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
    other = Learner(content, cloudpickle.dumps({}), b"", dataset.tensors, options)
    other.train([X, Y], [1])
    assert learner.take(other.content())  # into the graphs that are there
    content = other.content()
    for one in (learner, other):
        one.train([X, Y], [2])
    pairs = zip(from_bytes(learner.content()).get_weights(), from_bytes(other.content()).get_weights(), strict=True)
    assert all(np.array_equal(mine, theirs) for mine, theirs in pairs)
    assert learner.take(content)
    frozen = from_bytes(content)
    frozen.layers[0].trainable = False
    assert not learner.take(to_bytes(frozen))
    slower = from_bytes(content)
    slower.optimizer.learning_rate = 0.001
    assert learner.take(to_bytes(slower))
    slower.optimizer.clipnorm = 0.1  # no variable: it is in the graphs
    assert not learner.take(to_bytes(slower))
    assert learner.take(content)
    expected = from_bytes(content).evaluate(X, Y, verbose=0, return_dict=True)
    assert learner.test([X, Y]) == pytest.approx(expected, rel=1e-5)


def test_rows_in_memory_become_blocks_beside_the_converted_ones(tmp_path: Path) -> None:
    dataset = packed_arrays(tmp_path / "data", X, Y, rows=20)
    conversion = ConversionSpec(
        Store(""),
        (FeatureSpec((Column("x", "array", "float32", 5),), (5,), "float32"),),
        (LabelSpec(Column("y", "number", "int32", 1), (), "int32", 3),),
    )
    more = append_rows(dataset, conversion, [X[:7], Y[:7]])
    assert (more.rows(validation=False), len(more.blocks)) == (57, len(dataset.blocks) + 1)
    assert more.tensors == conversion.tensors
    (arrays,) = reader("arrow", more.store.url)(more, [Segment(more.blocks[-1], 0, 7)])
    assert [part.tolist() for part in arrays] == [X[:7].tolist(), Y[:7].tolist()]
    assert replace(more, blocks=dataset.blocks, bytes=dataset.bytes) == dataset
