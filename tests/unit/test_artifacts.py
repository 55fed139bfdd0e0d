"""What of a model is drawn and told in its run."""

from __future__ import annotations

import json

import keras
import pytest

from spark_dl.fit.trained import Trained
from spark_dl.ml import artifacts
from spark_dl.train.model.archive import config_text
from spark_dl.train.model.serialization import to_bytes
from spark_dl.train.plan import TrainResult
from spark_dl.train.reports import EpochReport, Speed


def graph(model: keras.Model) -> tuple[dict[str, str], list[tuple[str, str]]]:
    return artifacts._graph(json.loads(config_text(to_bytes(model))))


def test_a_sequential_model_is_a_chain() -> None:
    model = keras.Sequential(
        [keras.Input((2,), name="x"), keras.layers.Dense(3, name="a"), keras.layers.ReLU(name="b")]
    )
    assert graph(model) == ({"x": "InputLayer", "a": "Dense", "b": "ReLU"}, [("x", "a"), ("a", "b")])


def test_a_functional_model_has_the_edges_of_its_layers() -> None:
    one, other = keras.Input((2,), name="one"), keras.Input((2,), name="other")
    shared = keras.layers.Dense(3, name="shared")
    sum_ = keras.layers.Add(name="sum")([shared(one), shared(other)])
    attended = keras.layers.MultiHeadAttention(1, 2, name="attended")(sum_[:, None], value=sum_[:, None])
    nodes, edges = graph(keras.Model({"a": one, "b": other}, attended))
    assert {name for name, kind in nodes.items() if kind == "InputLayer"} == {"one", "other"}
    assert nodes["attended"] == "MultiHeadAttention"
    assert {("one", "shared"), ("other", "shared"), ("shared", "sum")} <= set(edges)
    assert len([edge for edge in edges if edge[1] == "attended"]) == 2
    files = artifacts.of_model(keras.Model({"a": one, "b": other}, attended), to_bytes(keras.Model([one, other], sum_)))
    assert b"<svg" in files["model_graph.svg"]()
    assert b"shared" in files["model_summary.txt"]()


class Own(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs: object) -> object:
        return self.dense(inputs)


def test_a_subclassed_model_has_a_summary_alone() -> None:
    model = Own()
    model.build((None, 2))
    assert list(artifacts.of_model(model, to_bytes(model))) == ["model_summary.txt"]


@pytest.mark.parametrize(("rates", "drawn"), [((0.1, 0.1), False), ((0.1, 0.05), True), ((None, 0.1), False)])
def test_a_learning_rate_is_drawn_if_it_changes(rates: tuple[float | None, ...], drawn: bool) -> None:
    epochs = [EpochReport(epoch, {}, rate, Speed()) for epoch, rate in enumerate(rates)]
    files = artifacts.of_training(Trained(TrainResult({"loss": [1.0, 0.5]}, 4, 0, 1.0, 1, ""), None, epochs), 0)
    assert set(files) == {"history.png", *(["learning_rate.png"] if drawn else [])}
