"""Training plans over blocks that are written already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
import keras
from rows import changed

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.io.store import Store
from spark_dl.options import TrainingOptions
from spark_dl.train.model.serialization import to_bytes
from spark_dl.train.plan import INITIAL_MODEL, TrainPlan

__all__ = ["written_plan"]


def written_plan(directory: Path, model: keras.Model | bytes, dataset: ConvertedDataset, **others: Any) -> TrainPlan:
    """A plan whose workspace is a directory, with the model to start from written there.

    `objects` and `callbacks` are pickled; the others are fields of the plan or of its options.
    """
    workspace = Store.at(str(directory))
    plan = TrainPlan(
        dataset=dataset,
        workspace=workspace,
        checkpoints=workspace.child("checkpoints"),
        custom_objects=cloudpickle.dumps(others.pop("objects", {})),
        callbacks=cloudpickle.dumps(others.pop("callbacks", [])),
        reader="arrow",
        options=TrainingOptions(),
        monitor="loss",
    )
    plan.checkpoints.make()
    workspace.write(INITIAL_MODEL, model if isinstance(model, bytes) else to_bytes(model))
    return changed(plan, **others)
