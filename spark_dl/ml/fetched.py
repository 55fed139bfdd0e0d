"""Loading of models from MLflow as Spark ML stages; only allowed classes are imported."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spark_dl.errors import SavedModelError, explain
from spark_dl.io.paths import is_name
from spark_dl.io.workspace import Workspace
from spark_dl.ml.class_names import current_name
from spark_dl.ml.persistence import revived
from spark_dl.spark.session import master_of, running_session

__all__ = ["SPARK_CONTAINER_MODELS", "fetched_model"]

# Spark's models that can contain this package's.
SPARK_CONTAINER_MODELS = (
    "pyspark.ml.pipeline.PipelineModel",
    "pyspark.ml.tuning.CrossValidatorModel",
    "pyspark.ml.tuning.TrainValidationSplitModel",
)
# Saved in searches.
_ESTIMATORS = tuple(f"spark_dl.Keras{task}" for task in ("Estimator", "Classifier", "Regressor", "Tagger"))
_OURS = tuple(f"spark_dl.Keras{task}Model" for task in ("", "Classifier", "Regressor", "Tagger"))


def fetched_model(uri: str, cache_dir: str | None = None) -> Any:
    """Load a logged, registered or saved model as a Spark ML stage.

    Args:
        uri: The model's directory or MLflow URI.
        cache_dir: A directory that driver and executors share, where Spark reads a Pipeline from; None for a temporary
            one.

    Raises:
        SavedModelError: There is no model, or it is damaged, of another flavor, or of a newer release.
    """
    from spark_dl.track import flavor_reading  # late import: loads MLflow

    with flavor_reading.fetched(uri) as root:
        modules = flavor_reading.import_code(root)
        if (written := flavor_reading.stage_files(root)) is not None:
            return _read_by_spark(uri, *written, modules, cache_dir)
        stage, content = flavor_reading.stage_content(root)
    try:
        metadata = json.loads(stage)
        name = current_name(str(metadata["class"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _unread(uri, "metadata as JSON", f"{type(error).__name__}: {error}") from error
    if name not in _OURS:
        raise _unread(uri, f"metadata of one of {', '.join(_OURS)}", name)
    return revived(_named(name), metadata, content, uri)


def _read_by_spark(uri: str, kind: str, root: Path, modules: Sequence[str], cache_dir: str | None) -> Any:
    if kind not in SPARK_CONTAINER_MODELS:
        raise _unread(uri, " or ".join(SPARK_CONTAINER_MODELS), kind)
    _check_stages(uri, root, modules)
    spark = running_session()
    with contextlib.ExitStack() as owned:
        workspace = owned.enter_context(Workspace(cache_dir, master_of(spark)))
        filesystem, path = workspace.child("stage").open()
        for file in sorted(root.rglob("*")):
            place = f"{path}/{file.relative_to(root).as_posix()}"
            if file.is_dir():
                filesystem.create_dir(place, recursive=True)
            else:
                with filesystem.open_output_stream(place) as stream:
                    stream.write(file.read_bytes())
        try:
            loaded = _named(kind).load(workspace.child("stage").url)
        except SavedModelError:
            raise
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise _unread(uri, f"a saved {kind.rpartition('.')[2]}", first) from error
        atexit.register(owned.pop_all().close)  # some of Spark's models read their files lazily
    return loaded


def _check_stages(uri: str, root: Path, modules: Sequence[str]) -> None:
    """Check that all stages are of Spark's classes, this package's, or the code logged with the model.

    Spark would import any class that the metadata name.
    """
    allowed = ("org.apache.spark.ml.", "pyspark.ml.", "spark_dl.", *(f"{name}." for name in modules))
    for file in sorted(root.rglob("metadata/part-*")):
        try:
            metadata = json.loads(file.read_bytes().partition(b"\n")[0])
            kind, names = current_name(str(metadata["class"])), _names_below(metadata["paramMap"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unread(uri, "metadata as Spark writes them", f"{type(error).__name__}: {error}") from error
        if not kind.startswith(allowed) or (kind.startswith("spark_dl.") and kind not in (*_OURS, *_ESTIMATORS)):
            fix = "Bring its module along (code_paths)."
            raise _unread(uri, f"stages of {', '.join(allowed)}", f"one of {kind}", fix)
        if not all(map(is_name, names)):
            raise _unread(uri, "stages in its own directory", f"one in {next(n for n in names if not is_name(n))}")


def _names_below(params: Mapping[str, Any]) -> list[Any]:
    """List the subdirectories that a stage's metadata name: stages, and params that are stages."""
    maps = params.get("estimatorParamMaps") or []
    values = [one for several in maps if isinstance(several, list) for one in several if isinstance(one, dict)]
    # The JVM writes booleans as strings.
    return [
        *(params.get("stageUids") or []),
        *(one["value"] for one in values if str(one.get("isJson", True)).lower() == "false"),
    ]


def _named(kind: str) -> Any:
    """Import a class by its full name."""
    module, _, name = kind.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _unread(uri: str, expected: str, received: str, fix: str = "") -> SavedModelError:
    return SavedModelError(
        explain(f"The model at {uri!r} can't be loaded.", expected=expected, received=received, fix=fix)
    )
