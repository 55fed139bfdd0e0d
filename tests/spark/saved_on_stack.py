"""Save the pipeline of `test_stacks.py` on the stack that runs this: python saved_on_stack.py NAME, in tests/spark."""

from __future__ import annotations

import json
import sys
from pathlib import Path

# Run as a program, it has only its own folder.
sys.path.append(str(Path(__file__).parents[1]))

import keras
import models
import numpy as np
import pyspark
from pyspark.ml import Pipeline
from pyspark.ml.feature import VectorAssembler
from sessions import session

from spark_dl import KerasClassifier

ROWS = 30
SAVED = Path(__file__).parent / "saved"


def save(stack: str) -> None:
    """Write a fitted pipeline, and beside it what it predicts here."""
    classifier = KerasClassifier(
        model=models.classifier(),
        optimizer=keras.optimizers.Adam(0.05),
        epochs=5,
        featuresCol="v",
        tracking=None,
        verbose=0,
    )
    with session("local[2]") as spark:
        data = models.frame(spark, rows=ROWS)
        assembler = VectorAssembler(inputCols=["f0", "f1", "f2", "f3"], outputCol="v")
        pipeline = Pipeline(stages=[assembler, classifier]).fit(data)
        pipeline.write().overwrite().save(str(SAVED / stack))
        rows = pipeline.transform(data).orderBy("id").collect()
    expected = {
        "spark": pyspark.__version__,
        "numpy": np.__version__,
        "rows": [[row.id, row.prediction, row.probability.toArray().tolist()] for row in rows],
    }
    (SAVED / f"{stack}.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    save(sys.argv[1])
