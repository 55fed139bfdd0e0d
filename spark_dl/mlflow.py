"""spark_dl as an MLflow flavor: fitted models logged, saved and loaded, and served without Spark.

    import spark_dl.mlflow

    info = spark_dl.mlflow.log_model(fitted, "model", registered_model_name="price")
    fitted = spark_dl.mlflow.load_model("models:/price@champion")      # a Transformer again
    mlflow.pyfunc.load_model("models:/price@champion").predict(rows)   # pandas, NumPy, dicts; no Spark

`mlflow models serve` and `mlflow.pyfunc.spark_udf` take the same URIs, and `mlflow.keras.load_model` gives the plain
Keras model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spark_dl.errors import SavedModelError
from spark_dl.redaction import warn
from spark_dl.score.serving import Served, Serving
from spark_dl.track import flavor

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo
    from pyspark.ml import Model

    from spark_dl.ml.model import KerasModel

__all__ = ["follow", "load_model", "log_model", "save_model"]


def log_model(
    model: KerasModel | Model,
    name: str = "model",
    *,
    cache_dir: str | None = None,
    registered_model_name: str | None = None,
    code_paths: Sequence[str] = (),
    pip_requirements: Sequence[str] | None = None,
    input_example: Any = None,
) -> ModelInfo:
    """Log a fitted model into the active run.

    Its signature is that of the feature columns that it was fitted on; whole numbers of any width are longs there, and
    fractions doubles, as JSON has them. A number for which nullPolicy has a fill value is of the type "any", since
    pandas holds it as int64, float64 or an object, as values are missing or not.

    A fitted Pipeline (or CrossValidatorModel, or TrainValidationSplitModel) is logged as Spark's own writer writes it:
    `load_model` gives it back. What serves without Spark is a `KerasModel` alone.

    Args:
        model: a fitted model, or a fitted Pipeline.
        name: of the logged model.
        cache_dir: a directory or URL that driver and executors share, for a Pipeline on its way; not needed where all
            are on one machine.
        registered_model_name: the registered model that it becomes a version of, if any.
        code_paths: files and directories with your own code, such as registered layers: modules that are imported
            where the model is loaded.
        pip_requirements: in place of those that this process has.
        input_example: rows as `predict` of the pyfunc takes them.

    Returns:
        MLflow's record, with `model_uri`.

    Raises:
        ModelError: the model was saved by a release that didn't note its columns.
    """
    from spark_dl.ml.logged import logged

    content = logged(model, cache_dir)
    return flavor.log(content, name, registered_model_name, code_paths, pip_requirements, input_example)


def save_model(
    model: KerasModel | Model,
    path: str,
    *,
    cache_dir: str | None = None,
    code_paths: Sequence[str] = (),
    pip_requirements: Sequence[str] | None = None,
    input_example: Any = None,
) -> None:
    """Write a fitted model into a local directory, which must not exist; see `log_model` for the arguments.

    Raises:
        ModelError: the model was saved by a release that didn't note its columns.
        SavedModelError: the path exists.
    """
    from spark_dl.ml.logged import logged

    flavor.save_model(path, logged(model, cache_dir), None, code_paths, pip_requirements, input_example)


def load_model(model_uri: str, *, cache_dir: str | None = None) -> Any:
    """The fitted model or Pipeline, as a Transformer of the class that it had.

    Args:
        model_uri: a directory, or a URI such as "models:/name@alias", "models:/name/2" or "runs:/run/model".
        cache_dir: see `log_model`.

    Raises:
        SavedModelError: there is none, it is damaged, another flavor's, or of a newer release.
    """
    from spark_dl.ml.fetched import fetched_model

    return fetched_model(model_uri, cache_dir)


def follow(model_uri: str) -> Callable[[], Any]:
    """Whatever model an alias names at the time: for jobs that run while others appoint models.

        champion = spark_dl.mlflow.follow("models:/price@champion")
        stream.writeStream.foreachBatch(lambda rows, _: champion().transform(rows).write.save(...)).start()

    Args:
        model_uri: "models:/name@alias" or "models:/name/latest".

    Returns:
        what gives the model: it asks the registry each time, and loads the model when it is another version. Where the
        registry doesn't answer, it goes on with the one that it has, with a warning.

    Raises:
        SavedModelError: there is no such model now.
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
            pinned = flavor.pinned(self._uri)
            if pinned != self._pinned:
                self._model, self._pinned = load_model(pinned), pinned
        except SavedModelError as error:
            if self._model is None:
                raise
            warn(f"Going on with {self._pinned}. {error}", 2)
        return self._model


class _Pyfunc:
    """What MLflow calls: `predict` of a model in this process."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        found = self._served.predict(model_input)
        # Lists, which all that reads the result knows: JSON, and Spark's conversion to Arrow.
        arrays = [name for name in found if len(found) and isinstance(found[name].iloc[0], np.ndarray)]
        return found.assign(**{name: [row.tolist() for row in found[name]] for name in arrays})


def _load_pyfunc(path: str) -> _Pyfunc:
    """MLflow's way in."""
    flavor.import_code(Path(path))
    serving, content = flavor.served_content(Path(path))
    return _Pyfunc(Served(Serving.of_json(serving), content))
