"""Pipelines that were saved on each stack load on this one, predict the same, and can be saved and trained further."""

from __future__ import annotations

import json
from pathlib import Path

import models
import numpy as np
import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier, KerasClassifierModel
from spark_dl.diagnosis import machine
from spark_dl.diagnosis.stacks import STACKS, stack_of

from .saved_on_stack import ROWS, SAVED

SAVED_ON = ["primary", "newest"]


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=ROWS).cache()


@pytest.mark.stack
@pytest.mark.parametrize("stack", SAVED_ON)
def test_a_pipeline_saved_on_any_stack_predicts_the_same(stack: str, data: DataFrame, tmp_path: Path) -> None:
    expected = json.loads((SAVED / f"{stack}.json").read_text())
    lines = {name: ".".join(expected[name].split(".")[:2]) for name in ("spark", "numpy")}
    assert lines == {"spark": STACKS[stack]["pyspark"], "numpy": STACKS[stack]["numpy"]}
    loaded = PipelineModel.load(str(SAVED / stack))
    assert type(loaded.stages[-1]) is KerasClassifierModel
    loaded.write().save(str(tmp_path / "again"))
    for pipeline in (loaded, PipelineModel.load(str(tmp_path / "again"))):
        rows = pipeline.transform(data).orderBy("id").collect()
        for row, (number, prediction, probability) in zip(rows, expected["rows"], strict=True):
            assert (row.id, row.prediction) == (number, prediction)
            np.testing.assert_allclose(row.probability.toArray(), probability, atol=1e-6)


@pytest.mark.stack
def test_training_continues_from_a_model_saved_on_another_stack(data: DataFrame) -> None:
    here = stack_of("driver", machine.versions()).found
    (other,) = (stack for stack in SAVED_ON if stack != here) if here in SAVED_ON else SAVED_ON[:1]
    pipeline = PipelineModel.load(str(SAVED / other))
    rows = pipeline.stages[0].transform(data)
    further = KerasClassifier(warmStart=pipeline.stages[-1], featuresCol="v", epochs=1, tracking=None, verbose=0)
    losses = [model.summary.history["loss"][-1] for model in (pipeline.stages[-1], further.fit(rows))]
    assert losses[1] < losses[0]
