"""The MLflow flavor `spark_dl`: log, save and load fitted models, and serve them without Spark.

    import spark_dl.mlflow

    info = spark_dl.mlflow.log_model(fitted, "model", registered_model_name="price")
    fitted = spark_dl.mlflow.load_model("models:/price@champion")      # a Transformer again
    mlflow.pyfunc.load_model("models:/price@champion").predict(rows)   # pandas, NumPy, dicts; no Spark

`mlflow models serve` and `mlflow.pyfunc.spark_udf` take the same URIs. `mlflow.keras.load_model` loads the plain Keras
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spark_dl.errors import SavedModelError
from spark_dl.redaction import warn
from spark_dl.score.serving import Served, Serving
from spark_dl.track import LoggedModel, LoggedStage, flavor, flavor_reading

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo
    from pyspark.ml import Model

    from spark_dl.ml.model import KerasModel

__all__ = ["follow", "load_model", "log_model", "save_model"]


def log_model(  # noqa: PLR0913
    model: KerasModel | Model,
    name: str = "model",
    *,
    cache_dir: str | None = None,
    registered_model_name: str | None = None,
    code_paths: Sequence[str] = (),
    pip_requirements: Sequence[str] | None = None,
    input_example: Any = None,
    typed_arrays: bool = True,
) -> ModelInfo:
    """Log a fitted model to the active MLflow run.

    The signature has the feature columns of the fit. Integers of any width are longs, and floats are doubles, as in
    JSON. A number for which nullPolicy sets a fill value has the type "any", since pandas holds it as int64, float64
    or object, depending on whether values are missing.

    A fitted Pipeline (or CrossValidatorModel, or TrainValidationSplitModel) is logged as Spark ML saves it, for
    `load_model`. Only a `KerasModel` can be served without Spark.

    Args:
        model: The fitted model, or a fitted Pipeline, CrossValidatorModel or TrainValidationSplitModel.
        name: The name of the logged model.
        cache_dir: A directory or URL that driver and executors share, for the files of a Pipeline; not needed if they
            run on one host.
        registered_model_name: The registered model to add a version to; None for no registration.
        code_paths: Files and directories with custom code, such as registered layers. Their modules are imported when
            the model is loaded.
        pip_requirements: The pip requirements of the model; the versions installed in this process by default.
        input_example: Example rows, in a form that `predict` of the pyfunc takes; a synthetic row by default.
        typed_arrays: Whether the signature has the types of columns of arrays. MLflow compares each row with them, a
            server does so twice. With False their type is "any", and a large request takes about half the time. The
            model itself checks the arrays in both cases.

    Returns:
        MLflow's ModelInfo, with `model_uri`.

    Raises:
        ModelError: The model is of another class, or was saved by a release that didn't save its columns.
    """
    from spark_dl.ml.logged import logged

    content = _typed(logged(model, cache_dir), typed_arrays)
    return flavor.log(content, name, registered_model_name, code_paths, pip_requirements, input_example)


def save_model(
    model: KerasModel | Model,
    path: str,
    *,
    cache_dir: str | None = None,
    code_paths: Sequence[str] = (),
    pip_requirements: Sequence[str] | None = None,
    input_example: Any = None,
    typed_arrays: bool = True,
) -> None:
    """Save a fitted model to a new local directory, in MLflow's format.

    Args:
        model: See `log_model`.
        path: The directory; it must not exist.
        cache_dir: See `log_model`.
        code_paths: See `log_model`.
        pip_requirements: See `log_model`.
        input_example: See `log_model`.
        typed_arrays: See `log_model`.

    Raises:
        ModelError: The model is of another class, or was saved by a release that didn't save its columns.
        SavedModelError: The path exists.
    """
    from spark_dl.ml.logged import logged

    content = _typed(logged(model, cache_dir), typed_arrays)
    flavor.save_model(path, content, None, code_paths, pip_requirements, input_example)


def _typed(content: LoggedModel | LoggedStage, typed_arrays: bool) -> LoggedModel | LoggedStage:
    """Return the record of a model, whose columns of arrays have the type "any" unless `typed_arrays` is set."""
    if typed_arrays or not isinstance(content, LoggedModel) or content.inputs is None:
        return content
    return replace(content, inputs=[(name, kind if isinstance(kind, str) else "any") for name, kind in content.inputs])


def load_model(model_uri: str, *, cache_dir: str | None = None) -> Any:
    """Load a fitted model or Pipeline as a Transformer of its original class.

    Args:
        model_uri: A directory, or a URI such as "models:/name@alias", "models:/name/2" or "runs:/run/model".
        cache_dir: See `log_model`.

    Raises:
        SavedModelError: There is no model, or it is damaged, of another flavor, or of a newer release.
    """
    from spark_dl.ml.fetched import fetched_model

    return fetched_model(model_uri, cache_dir)


def follow(model_uri: str) -> Callable[[], Any]:
    """Follow a registry alias in a long-running job: return a function that loads the model it currently points to.

        champion = spark_dl.mlflow.follow("models:/price@champion")
        stream.writeStream.foreachBatch(lambda rows, _: champion().transform(rows).write.save(...)).start()

    Args:
        model_uri: The registry URI: "models:/name@alias" or "models:/name/latest".

    Returns:
        A function that returns the model. Each call asks the registry, and loads the model if the version has changed.
        If the version can't be found or loaded, it warns and returns the model that it has.

    Raises:
        SavedModelError: There is no such model now, or the registry doesn't answer.
    """
    current = _Current(model_uri)
    current.model()
    return current.model


class _Current:
    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._pinned = ""
        self._model: Any = None

    def model(self) -> Any:
        try:
            pinned = flavor_reading.pinned(self._uri)
            if pinned != self._pinned:
                self._model, self._pinned = load_model(pinned), pinned
        except SavedModelError as error:
            if self._model is None:
                raise
            warn(f"Continuing with {self._pinned}. {error}")
        return self._model


class _Pyfunc:
    """The pyfunc model that MLflow calls; it scores in this process, without Spark."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        found = self._served.predict(model_input)
        # JSON and Spark's conversion to Arrow take lists, not NumPy arrays.
        arrays = [name for name in found if len(found) and isinstance(found[name].iloc[0], np.ndarray)]
        return found.assign(**{name: [row.tolist() for row in found[name]] for name in arrays})


def _load_pyfunc(path: str) -> _Pyfunc:
    """Load the pyfunc model; MLflow calls this function by its name."""
    flavor_reading.import_code(Path(path))
    serving, content = flavor_reading.served_content(Path(path))
    return _Pyfunc(Served(Serving.of_json(serving), content))
