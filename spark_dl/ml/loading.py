"""Loading of a fitted model of any class, wherever it is saved."""

from __future__ import annotations

import posixpath
from typing import Any

from pyspark.ml import PipelineModel
from pyspark.ml.util import DefaultParamsReader
from pyspark.sql import SparkSession

from spark_dl.errors import SavedModelError, explain
from spark_dl.io.paths import spark_path, spark_pattern
from spark_dl.io.store import Store
from spark_dl.ml.class_names import class_name, current_name
from spark_dl.ml.classifier import KerasClassifierModel
from spark_dl.ml.fetched import fetched_model
from spark_dl.ml.model import KerasModel
from spark_dl.ml.regressor import KerasRegressorModel
from spark_dl.ml.spark_files import first_line, has_files
from spark_dl.ml.tagger import KerasTaggerModel

__all__ = ["load_keras_file", "load_model"]

_OF_MLFLOW = ("models:/", "runs:/")
_PIPELINES = ("pyspark.ml.pipeline.PipelineModel", "org.apache.spark.ml.PipelineModel")


def load_model(spark: SparkSession, path: str) -> Any:
    """Load a fitted model or Pipeline of the class that was saved.

    Args:
        spark: The Spark session.
        path: A path or URL that Spark can read, a directory in MLflow's format, or an MLflow URI.

    Raises:
        SavedModelError: There is no model, or it is damaged, of another class, or of a newer release.
    """
    if path.startswith(_OF_MLFLOW) or has_files(spark, posixpath.join(path, "MLmodel")):
        return fetched_model(path)
    try:
        metadata = DefaultParamsReader.loadMetadata(spark_pattern(spark_path(path)), spark)
        name = current_name(str(metadata["class"]))
    except Exception as error:
        raise SavedModelError(
            explain(
                f"There is no saved model in {path}.",
                expected="a fitted model or Pipeline, saved by write().save() or by MLflow",
                received=first_line(error),
                fix="Give the path to which the model was saved.",
            )
        ) from error
    known = (KerasModel, KerasClassifierModel, KerasRegressorModel, KerasTaggerModel)
    kinds: dict[str, Any] = {class_name(kind): kind for kind in known}
    kinds |= dict.fromkeys(_PIPELINES, PipelineModel)
    if name not in kinds:
        raise SavedModelError(
            explain(
                f"{path} can't be loaded.",
                expected=f"one of {', '.join(kinds)}",
                received=name,
                fix="Load it with its own class.",
            )
        )
    return kinds[name].load(path)


def load_keras_file(path: str) -> Any:
    """Load a Keras model from a `.keras` file, in Keras's safe mode.

    Args:
        path: The path or URL of the file.

    Raises:
        StoreError: The file can't be read.
        SavedModelError: The file is damaged or unsafe.
    """
    from spark_dl.train.model.serialization import from_bytes

    folder, name = posixpath.split(path)
    return from_bytes(Store.at(folder or ".").read(name))
