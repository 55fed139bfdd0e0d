"""Federated rounds on real blocks, one rank for each silo: against plain training, silos trained alone, and NumPy."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from plans import written_plan
from rows import changed, on_ranks, packed_arrays

from spark_dl.collectives import SoloCollectives
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.readers import reader
from spark_dl.data.shards import Segment
from spark_dl.io.store import Store
from spark_dl.score.assess import Classes, assess
from spark_dl.score.heads import Classification
from spark_dl.train import feed
from spark_dl.train.checkpoint import latest
from spark_dl.train.loop import train
from spark_dl.train.model.serialization import from_bytes
from spark_dl.train.plan import FederatedRounds, TrainPlan, TrainResult
from spark_dl.world import solo

WIDTH = 4
RANDOM = np.random.default_rng(5)


def rows(count: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    x = (RANDOM.normal(size=(count, WIDTH)) + shift).astype("float32")
    return x, (x.sum(axis=1) > shift).astype("int32")


EQUAL = [rows(24, 0.0), rows(24, 1.0)]
UNEQUAL = [rows(30, 0.0), rows(90, 1.0)]


def network(optimizer: Any = None, *hidden: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((WIDTH,)), *hidden, keras.layers.Dense(2, activation="softmax")])
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def silos(
    directory: Path, parts: Sequence[tuple[np.ndarray, np.ndarray]], held: Sequence[int] = ()
) -> ConvertedDataset:
    """Blocks in a directory for each silo; `held` says every how many rows one is for validation."""
    found = []
    for number, (x, y) in enumerate(parts):
        validation = np.arange(len(y)) % held[number] == 0 if held else None
        made = packed_arrays(directory / f"silo-{number}" / "data", x, y, validation, rows=10)
        blocks = [replace(block, name=f"silo-{number}/data/{block.name}", silo=number) for block in made.blocks]
        found.append(replace(made, store=Store.at(str(directory)), blocks=tuple(blocks)))
    blocks = [block for part in found for block in part.blocks]
    return replace(found[0], blocks=tuple(blocks), bytes=sum(part.bytes for part in found))


def a_plan(directory: Path, dataset: ConvertedDataset, model: keras.Model, **others: Any) -> TrainPlan:
    defaults = {"batch_size": 8, "epochs": 1, "federated": FederatedRounds(("a", "b"))}
    return written_plan(directory, model, dataset, **{**defaults, **others})


def trained(plan: TrainPlan, collectives: Any) -> tuple[TrainResult, keras.Model | None]:
    result = train(plan, collectives, lambda report: None).result
    return result, fitted(plan, result, collectives)


def fitted(plan: TrainPlan, result: TrainResult, collectives: Any) -> keras.Model | None:
    return from_bytes(plan.workspace.read(result.model_file)) if collectives.world.rank == 0 else None


def together(plan: TrainPlan) -> tuple[TrainResult, keras.Model]:
    result, model = on_ranks(2, lambda collectives: trained(plan, collectives))[0]
    assert model is not None
    return result, model


def alone(plan: TrainPlan) -> tuple[TrainResult, keras.Model]:
    result, model = trained(plan, SoloCollectives(solo()))
    assert model is not None
    return result, model


def assert_same(mine: keras.Model, weights: Sequence[np.ndarray]) -> None:
    for found, expected in zip(mine.get_weights(), weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_one_local_step_on_equal_silos_is_plain_training(tmp_path: Path) -> None:
    """Momentum included: the state of the optimizer is averaged, too."""
    dataset = silos(tmp_path, EQUAL)
    federated = together(a_plan(tmp_path / "federated", dataset, network(), batch_size=24, epochs=4))
    joined = packed_arrays(tmp_path / "joined", *(np.concatenate(parts) for parts in zip(*EQUAL, strict=True)))
    plan = a_plan(tmp_path / "plain", joined, network(), batch_size=48, epochs=4, federated=None)
    plain = alone(plan)
    assert_same(federated[1], plain[1].get_weights())
    np.testing.assert_allclose(federated[0].history["loss"], plain[0].history["loss"], atol=1e-6)
    momenta = [[np.asarray(v) for v in model.optimizer.variables] for _, model in (federated, plain)]
    for mine, theirs in zip(*momenta, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)


def test_a_round_is_the_mean_of_silos_that_were_trained_alone(tmp_path: Path) -> None:
    """By rows, moving statistics too; the ranks take 8 and 24 steps. An optimizer's steps are those of the longest."""

    def model() -> keras.Model:
        return network(None, keras.layers.BatchNormalization())

    dataset = silos(tmp_path, UNEQUAL)
    rounds = FederatedRounds(("a", "b"), local_epochs=2)
    _, averaged = together(a_plan(tmp_path / "federated", dataset, model(), federated=rounds))
    parts = []
    for number in range(2):
        own = dataset.of_silo(number)
        parts.append(alone(a_plan(tmp_path / f"alone-{number}", own, model(), federated=None, epochs=2))[1])
    weights = [0.25 * a + 0.75 * b for a, b in zip(*(part.get_weights() for part in parts), strict=True)]
    assert max(np.abs(a - b).max() for a, b in zip(*(p.get_weights() for p in parts), strict=True)) > 0.1
    assert_same(averaged, weights)
    assert int(averaged.optimizer.iterations) == 24


def test_the_proximal_term_pulls_local_steps_back(tmp_path: Path) -> None:
    """Two full-batch steps of each silo against the gradients of softmax regression."""
    model = network(keras.optimizers.SGD(0.1))
    start = np.concatenate([model.get_weights()[0], model.get_weights()[1][None]])
    settings = FederatedRounds(("a", "b"), local_epochs=2, proximal=3.0)
    plan = a_plan(tmp_path / "federated", silos(tmp_path, UNEQUAL), model, federated=settings, batch_size=90, epochs=2)
    _, found = together(plan)
    expected = start
    for _ in range(2):
        ends = []
        for x, y in UNEQUAL:
            own, wide = expected, np.concatenate([x, np.ones((len(x), 1))], axis=1)
            for _ in range(2):
                logits = wide @ own
                errors = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(2)[y]
                own = own - 0.1 * (wide.T @ errors / len(x) + 3.0 * (own - expected))
            ends.append(own)
        expected = 0.25 * ends[0] + 0.75 * ends[1]
    assert_same(found, [expected[:-1], expected[-1]])


class Held(NamedTuple):
    """A training with validation rows in both silos, 15 of 30 and 30 of 90, and the blocks that each rank has read.

    The ranks evaluate the fitted model, too, as in a fit that is tracked.
    """

    dataset: ConvertedDataset
    result: TrainResult
    model: keras.Model
    evaluated: Any
    opened: dict[tuple[str, int], set[str]]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    directory = tmp_path_factory.mktemp("held")
    opened: dict[tuple[str, int], set[str]] = {}
    here = threading.local()  # set in the thread of each rank
    phases = ["training", "training"]

    def recording(name: str, url: str) -> Any:
        rank, read = here.rank, reader(name, url)

        def recorded(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[list[np.ndarray]]:
            opened.setdefault((phases[rank], rank), set()).update(segment.block.name for segment in segments)
            yield from read(dataset, segments)

        return recorded

    dataset = silos(directory, UNEQUAL, held=(2, 3))
    plan = a_plan(directory / "federated", dataset, network(), epochs=2)
    head = Classification(2, 2, from_logits=False)

    def on_rank(collectives: Any) -> tuple[TrainResult, keras.Model | None, Any]:
        here.rank = collectives.world.rank
        training = train(plan, collectives, lambda report: None)
        phases[here.rank] = "evaluation"
        evaluated = assess(head, plan, training, collectives, lambda report: None, lambda where: None)
        return training.result, fitted(plan, training.result, collectives), evaluated

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "reader", recording)
        result, model, evaluated = on_ranks(2, on_rank)[0]
    return Held(dataset, result, model, evaluated, opened)


def test_each_rank_opens_the_blocks_of_its_own_silo(held: Held) -> None:
    """All of them, of training and validation rows, and no others, in training and in the evaluation after it."""
    assert isinstance(held.evaluated, Classes)
    assert held.evaluated.rows == 45
    of_silo = [{block.name for block in held.dataset.blocks if block.silo == number} for number in range(2)]
    of_validation = {block.name for block in held.dataset.part(validation=True)}
    assert held.opened == {
        **{("training", rank): of_silo[rank] for rank in range(2)},
        **{("evaluation", rank): of_silo[rank] & of_validation for rank in range(2)},
    }


def test_metrics_are_of_each_silo_and_of_all(held: Held) -> None:
    history = held.result.history
    names = [f"{phase}{name}" for phase in ("", "val_") for name in ("accuracy", "loss")]
    assert set(history) == {*names, *(f"{name}[silo={silo}]" for name in names for silo in "ab")}
    for phase, counts in (("", (15, 60)), ("val_", (15, 30))):
        of_silos = [np.array(history[f"{phase}loss[silo={silo}]"]) for silo in "ab"]
        joined = sum(count * losses for count, losses in zip(counts, of_silos, strict=True)) / sum(counts)
        np.testing.assert_allclose(history[f"{phase}loss"], joined, rtol=1e-6)
    for (x, y), step, silo in zip(UNEQUAL, (2, 3), "ab", strict=True):
        found = held.model.evaluate(x[::step], y[::step], verbose=0, return_dict=True)
        assert history[f"val_loss[silo={silo}]"][-1] == pytest.approx(found["loss"], rel=1e-5)
        assert history[f"val_accuracy[silo={silo}]"][-1] == pytest.approx(found["accuracy"], rel=1e-5)


def test_a_lost_fit_goes_on_from_the_last_round(tmp_path: Path) -> None:
    """Three rounds are two and, from their checkpoint, a third."""
    dataset = silos(tmp_path, UNEQUAL)
    settings = FederatedRounds(("a", "b"), proximal=0.5)
    whole = together(a_plan(tmp_path / "whole", dataset, network(), epochs=3, federated=settings))
    plan = a_plan(tmp_path / "parts", dataset, network(), epochs=2, federated=settings)
    together(plan)
    found = latest(plan.checkpoints)
    assert found is not None
    plan.workspace.write("start.keras", found[1])
    result, model = together(changed(plan, start=found[0], initial_model="start.keras", epochs=3))
    assert_same(model, whole[1].get_weights())
    assert result.history.keys() == whole[0].history.keys()
    np.testing.assert_allclose(result.history["loss[silo=b]"], whole[0].history["loss[silo=b]"], atol=1e-6)
