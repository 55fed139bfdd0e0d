"""MLflow flavor "spark_dl": a model directory that Spark ML, Keras and MLflow's own tools can load.

    MLmodel                   flavors spark_dl, keras and python_function; the signature
    data/model.keras          the whole Keras model, as mlflow.keras loads it
    spark_dl/stage.json       the Spark ML stage without the Keras model
    spark_dl/serving.json     the conversion of rows to inputs, and of outputs to columns
    spark_dl/scored.*         the model that is served, if it isn't the whole Keras model
    code/spark_dl.zip         this package, for processes that don't have it installed
    code/spark_dl_model.py    MLflow's loader module, which imports the package from the archive

A fitted Pipeline, or another model saved by Spark's own writer, has the writer's files in spark_dl/stage, and no other
flavor. Nothing in the directory is pickled.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import io
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME, ModelInfo
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType, Array, DataType

from spark_dl import errors
from spark_dl._compat.mlflow import CONDA_FILE, PYTHON_FILE, log_model, save_input_example, write_environment
from spark_dl.errors import SavedModelError, explain
from spark_dl.installed import version_of
from spark_dl.io.store import Store
from spark_dl.io.swap import replacing
from spark_dl.track.flavor_layout import FLAVOR, KERAS, SCORED, SERVING, STAGE, STAGE_FILES
from spark_dl.track.tracker import LoggedModel, LoggedStage

__all__ = [
    "log",
    "register",
    "save_model",
    "schema_of",
]

_ARCHIVE, _LOADER = "spark_dl.zip", "spark_dl_model"
# The module that MLflow imports to load a pyfunc. It adds the archive to sys.path unless the package is imported.
_LOADER_CODE = f"""import sys
from pathlib import Path

if "spark_dl" not in sys.modules:
    sys.path.insert(0, str(Path(__file__).with_name({_ARCHIVE!r})))

from spark_dl.mlflow import _load_pyfunc
"""
_KERAS_MODULE = "data/keras_module.txt"
# The requirements of serving a model besides what computes it, and the distributions that may provide one.
_NEEDED = ("cloudpickle", "numpy", "pandas", "pyarrow")
_OF_STAGES = ("keras", "tensorflow")
_OTHER_NAMES = {"tensorflow": ("tensorflow", "tensorflow-cpu")}


def log(  # noqa: PLR0913
    model: LoggedModel | LoggedStage,
    name: str,
    registered_model_name: str | None = None,
    code_paths: Sequence[str] = (),
    pip_requirements: Sequence[str] | None = None,
    input_example: Any = None,
    run_id: str | None = None,
    model_id: str | None = None,
) -> ModelInfo:
    """Log a model into a run.

    Args:
        model: The model.
        name: The name of the logged model.
        registered_model_name: The registered model that gets a new version; None for no registration.
        code_paths: The files and directories with the user's own code, such as custom layers. Each is a module that is
            imported when the model is loaded.
        pip_requirements: The pip requirements; None for the versions installed in this process.
        input_example: Rows as the served model takes them, with which serving is validated; None for a generated row.
        run_id: The id of the run; None for the active one.
        model_id: The id of the logged model, if it exists already; None to create one.

    Returns:
        MLflow's record of the logged model.
    """
    return log_model(
        sys.modules[__name__],
        FLAVOR,
        name=name,
        registered_model_name=registered_model_name,
        model=model,
        code_paths=code_paths,
        pip_requirements=pip_requirements,
        input_example=input_example,
        validate_serving_input=input_example is not None,
        run_id=run_id,
        model_id=model_id,
    )


def register(model_id: str, name: str) -> None:
    """Register a logged model as a new version of a registered model.

    Args:
        model_id: The id of the logged model.
        name: The name of the registered model.
    """
    mlflow.register_model(f"models:/{model_id}", name)


def save_model(
    path: str,
    model: LoggedModel | LoggedStage,
    mlflow_model: Model | None = None,
    code_paths: Sequence[str] = (),
    pip_requirements: Sequence[str] | None = None,
    input_example: Any = None,
    validate_serving_input: bool = True,
) -> None:
    """Save a model as a local directory, as MLflow calls it for a flavor.

    Args:
        path: The directory, which must not exist or must be empty.
        model: The model.
        mlflow_model: The MLmodel file's content so far; None for a new one.
        code_paths: As in `log`.
        pip_requirements: As in `log`.
        input_example: As in `log`.
        validate_serving_input: Ignored; MLflow passes it to every flavor.

    Raises:
        SavedModelError: The path exists with content, or isn't local.
    """
    target = Store.at(path)
    if not target.is_local:
        raise SavedModelError(
            explain(f"{path} isn't local.", expected="a local directory", received=path, fix="Use log_model.")
        )
    there = Path(target.path)
    if there.exists() and (not there.is_dir() or any(there.iterdir())):
        raise SavedModelError(
            explain(
                f"{path} already exists.",
                expected="a new directory",
                received=path,
                fix="Choose another path, or remove it.",
            )
        )
    with replacing(target, overwrite=False) as aside:
        _write_directory(Path(aside.path), model, mlflow_model, code_paths, pip_requirements, input_example)


def _write_directory(
    root: Path,
    model: LoggedModel | LoggedStage,
    mlflow_model: Model | None,
    code_paths: Sequence[str],
    pip_requirements: Sequence[str] | None,
    input_example: Any,
) -> None:
    mlflow_model = mlflow_model or Model()
    if isinstance(model, LoggedModel):
        facts = _write_model(root, model, mlflow_model)
    else:
        _write_files(root, {f"{STAGE_FILES}/{name}": content for name, content in model.files.items()})
        facts = {"stage_files": STAGE_FILES, "stage_class": model.kind}
    (root / "code").mkdir()
    _pack_package(root / "code" / _ARCHIVE)
    (root / "code" / f"{_LOADER}.py").write_text(_LOADER_CODE)
    _copy_code(code_paths, root / "code")
    version, modules = version_of("spark_dl"), [Path(path).stem for path in code_paths]
    mlflow_model.add_flavor(FLAVOR, version=version, code="code", modules=modules, **facts)
    if input_example is None and isinstance(model, LoggedModel) and model.inputs is not None and model.example:
        with contextlib.suppress(Exception):  # the example is generated, and optional
            save_input_example(mlflow_model, pd.DataFrame([model.example]), str(root))
    elif input_example is not None:
        save_input_example(mlflow_model, input_example, str(root))
    mlflow_model.save(str(root / MLMODEL_FILE_NAME))
    if pip_requirements is None:
        needs = model.needs if isinstance(model, LoggedModel) else _OF_STAGES
        pip_requirements = [_pinned(_OTHER_NAMES.get(name, (name,))) for name in sorted({*_NEEDED, *needs})]
    write_environment(root, pip_requirements)


def _write_model(root: Path, model: LoggedModel, mlflow_model: Model) -> dict[str, str]:
    """Write a model's files, and add the flavors keras and python_function.

    Returns:
        The entries for the flavor of this package.
    """
    contents = {
        KERAS: model.keras,
        _KERAS_MODULE: b"keras",
        STAGE: model.stage.encode(),
        SERVING: model.serving.encode(),
        **({} if model.scored is None else {f"{SCORED}.{model.scored_extension}": model.scored}),
    }
    _write_files(root, contents)
    if model.inputs is not None:
        mlflow_model.signature = ModelSignature(inputs=schema_of(model.inputs), outputs=schema_of(model.outputs))
    mlflow_model.add_flavor(
        "keras",
        data="data",
        keras_version=version_of("keras"),
        keras_backend="tensorflow",
        save_exported_model=False,
    )
    pyfunc.add_to_model(mlflow_model, loader_module=_LOADER, code="code", conda_env=CONDA_FILE, python_env=PYTHON_FILE)
    return {"stage": STAGE}


def _write_files(root: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _pack_package(path: Path) -> None:
    """Pack this package as one archive, since a tracking server needs one request per file."""
    package = Path(errors.__file__).parent
    if package.parent.is_file():  # the package was imported from an archive
        shutil.copy2(package.parent, path)
        return
    path.write_bytes(_packed(package))


@functools.cache
def _packed(package: Path) -> bytes:
    """Return the archive of a package's modules, built once per process."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(package.rglob("*.py")):
            archive.write(file, str(file.relative_to(package.parent)))
    return content.getvalue()


def _copy_code(paths: Sequence[str], into: Path) -> None:
    for path in map(Path, paths):
        if path.is_dir():
            shutil.copytree(path, into / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, into / path.name)


def schema_of(columns: Sequence[tuple[str, Any]]) -> Schema:
    """Convert columns to an MLflow schema.

    Args:
        columns: The columns with their types, named as in `LoggedModel.inputs`.
    """
    return Schema([ColSpec(_type(kind), name) for name, kind in columns])


def _type(kind: Any) -> Any:
    if kind == "any":
        return AnyType()
    return DataType[kind] if isinstance(kind, str) else Array(_type(kind[1]))


def _pinned(names: Sequence[str]) -> str:
    """Pin the first of these distributions that is installed to its version."""
    for name in names:
        try:
            return f"{name}=={version_of(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return names[0]  # none is installed here under these names, so the version stays open
