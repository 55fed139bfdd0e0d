"""Evaluation in a task, without Spark."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest

from spark_dl.score.evaluate import _in_a_graph


def test_tensorflow_does_not_warn_of_the_steps_of_many_models(caplog: pytest.LogCaptureFixture) -> None:
    """Permutation importance evaluates a model in one worker again and again."""
    with caplog.at_level(logging.WARNING, "tensorflow"):
        logging.getLogger("tensorflow").addHandler(caplog.handler)
        for _ in range(8):
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
            model.compile(loss="mse")
            _in_a_graph(model.test_step)((np.ones((2, 1), "float32"), np.ones((2, 1), "float32")))
    logging.getLogger("tensorflow").removeHandler(caplog.handler)
    assert caplog.messages == []
