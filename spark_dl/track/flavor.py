"""MLflow flavor "spark_dl": a model directory that Spark ML, Keras and MLflow's own tools can load.

    MLmodel                   flavors spark_dl, keras and python_function; the signature
    data/model.keras          the whole Keras model, as mlflow.keras loads it
    spark_dl/stage.json       the Spark ML stage without the Keras model
    spark_dl/serving.json     the conversion of rows to inputs, and of outputs to columns
    spark_dl/scored.keras     the Keras model that is served, if it isn't the whole model
    code/spark_dl.zip         this package, for processes that don't have it installed
    code/spark_dl_model.py    MLflow's loader module, which imports the package from the archive

A fitted Pipeline, or another model saved by Spark's own writer, has the writer's files in spark_dl/stage, and no other
flavor. Nothing in the directory is pickled.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import importlib.util
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import mlflow
import pandas as pd
import requests
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME, ModelInfo
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType, Array, DataType
from mlflow.utils import environment
from mlflow.utils.yaml_utils import write_yaml

from spark_dl import errors
from spark_dl.errors import SavedModelError, StoreError, explain
from spark_dl.io.paths import is_name
from spark_dl.io.store import Store
from spark_dl.io.swap import replacing
from spark_dl.track.tracker import LoggedModel, LoggedStage

__all__ = [
    "FLAVOR",
    "fetched",
    "import_code",
    "log",
    "pinned",
    "register",
    "save_model",
    "schema_of",
    "served_content",
    "stage_content",
    "stage_files",
]

FLAVOR = "spark_dl"
_ARCHIVE, _LOADER = "spark_dl.zip", "spark_dl_model"
# The module that MLflow imports to load a pyfunc. It adds the archive to sys.path unless the package is imported.
_LOADER_CODE = f"""import sys
from pathlib import Path

if "spark_dl" not in sys.modules:
    sys.path.insert(0, str(Path(__file__).with_name({_ARCHIVE!r})))

from spark_dl.mlflow import _load_pyfunc
"""
_KERAS, _KERAS_MODULE = "data/model.keras", "data/keras_module.txt"
_STAGE, _SERVING, _SCORED = "spark_dl/stage.json", "spark_dl/serving.json", "spark_dl/scored.keras"
_STAGE_FILES = "spark_dl/stage"
_CONDA, _PYTHON = "conda.yaml", "python_env.yaml"
# The requirements of serving a model, each with the distributions that may provide it.
_NEEDED = (("cloudpickle",), ("keras",), ("numpy",), ("pandas",), ("pyarrow",), ("tensorflow", "tensorflow-cpu"))


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
    info: ModelInfo = Model.log(
        artifact_path=None,
        name=name,
        flavor=sys.modules[__name__],
        flavor_name=FLAVOR,
        registered_model_name=registered_model_name,
        model=model,
        code_paths=code_paths,
        pip_requirements=pip_requirements,
        input_example=input_example,
        validate_serving_input=input_example is not None,
        run_id=run_id,
        model_id=model_id,
    )
    return info


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
        raise SavedModelError(explain(f"{path} isn't local.", expected="a local directory", fix="Use log_model."))
    there = Path(target.path)
    if there.exists() and (not there.is_dir() or any(there.iterdir())):
        raise SavedModelError(explain(f"{path} exists already.", fix="Choose another path, or remove it."))
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
        _write_files(root, {f"{_STAGE_FILES}/{name}": content for name, content in model.files.items()})
        facts = {"stage_files": _STAGE_FILES, "stage_class": model.kind}
    (root / "code").mkdir()
    _pack_package(root / "code" / _ARCHIVE)
    (root / "code" / f"{_LOADER}.py").write_text(_LOADER_CODE)
    _copy_code(code_paths, root / "code")
    version, modules = importlib.metadata.version("spark_dl"), [Path(path).stem for path in code_paths]
    mlflow_model.add_flavor(FLAVOR, version=version, code="code", modules=modules, **facts)
    if input_example is None and isinstance(model, LoggedModel) and model.inputs is not None and model.example:
        with contextlib.suppress(Exception):  # the example is generated, and optional
            _save_example(mlflow_model, pd.DataFrame([model.example]), str(root))
    elif input_example is not None:
        _save_example(mlflow_model, input_example, str(root))
    mlflow_model.save(str(root / MLMODEL_FILE_NAME))
    _write_environment(root, pip_requirements)


def _write_model(root: Path, model: LoggedModel, mlflow_model: Model) -> dict[str, str]:
    """Write a model's files, and add the flavors keras and python_function.

    Returns:
        The entries for the flavor of this package.
    """
    contents = {
        _KERAS: model.keras,
        _KERAS_MODULE: b"keras",
        _STAGE: model.stage.encode(),
        _SERVING: model.serving.encode(),
        **({} if model.scored is None else {_SCORED: model.scored}),
    }
    _write_files(root, contents)
    if model.inputs is not None:
        mlflow_model.signature = ModelSignature(inputs=schema_of(model.inputs), outputs=schema_of(model.outputs))
    mlflow_model.add_flavor(
        "keras",
        data="data",
        keras_version=importlib.metadata.version("keras"),
        keras_backend="tensorflow",
        save_exported_model=False,
    )
    pyfunc.add_to_model(mlflow_model, loader_module=_LOADER, code="code", conda_env=_CONDA, python_env=_PYTHON)
    return {"stage": _STAGE}


def _write_files(root: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@contextlib.contextmanager
def fetched(uri: str) -> Iterator[Path]:
    """Fetch a logged, saved or registered model to a local directory, which exists while the `with` lasts.

    A model that is local already isn't copied.

    Args:
        uri: The path or URI of the model.

    Raises:
        SavedModelError: There is no model, or it lacks this package's flavor.
    """
    with tempfile.TemporaryDirectory(prefix="spark-dl-model-") as directory:
        try:
            if (local := _local_directory(uri)) is not None:
                root = local
            else:
                root = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=directory))
            found = Model.load(str(root)).flavors
        except Exception as error:
            raise SavedModelError(
                explain(
                    f"There is no model at {uri!r}.",
                    expected="a directory, or a URI such as 'models:/name@alias' or 'runs:/run/model'",
                    received=f"{type(error).__name__}: {error}",
                )
            ) from error
        if FLAVOR not in found:
            raise SavedModelError(
                explain(f"The model at {uri!r} isn't one of spark_dl.", expected=FLAVOR, received=", ".join(found))
            )
        yield root


def _local_directory(uri: str) -> Path | None:
    """Return the local directory that a path or a file: URL names; None if it is another URI or there is none."""
    try:
        store = Store.at(uri)
    except StoreError:  # models:/, runs:/ and other schemes that MLflow knows
        return None
    return Path(store.path) if store.is_local and Path(store.path).is_dir() else None


def pinned(uri: str) -> str:
    """Resolve a registered model's URI to that of the version that it names now.

    Args:
        uri: The URI, such as `models:/name@alias` or `models:/name/latest`.

    Raises:
        SavedModelError: There is no such version, or the registry doesn't answer.
    """
    try:
        name, version = get_model_name_and_version(mlflow.MlflowClient(), uri)
        return f"models:/{name}/{version}"
    except (MlflowException, requests.RequestException, ValueError) as error:
        raise SavedModelError(
            explain(
                f"It can't be told which version {uri!r} is.",
                expected="'models:/name@alias' or 'models:/name/latest'",
                received=f"{type(error).__name__}: {error}",
            )
        ) from error


def import_code(root: Path) -> list[str]:
    """Import the user's own code that was saved with a model, which registers its layers with Keras.

    The modules are pickled by value for Spark's Python workers, which can't import them.

    Args:
        root: The model's directory.

    Returns:
        The names of the modules.

    Raises:
        SavedModelError: A module can't be imported, another module of that name is imported already, or the
            names in the MLmodel file are damaged.
    """
    modules: list[str] = Model.load(str(root)).flavors[FLAVOR].get("modules", [])
    if not modules:
        return []
    if not all(map(is_name, modules)):
        raise SavedModelError(explain("The model's record is damaged.", expected="names of modules", received=modules))
    code = Path(tempfile.mkdtemp(prefix="spark-dl-code-"))  # the model's directory may be temporary
    atexit.register(shutil.rmtree, code, ignore_errors=True)
    shutil.copytree(root / "code", code, dirs_exist_ok=True)
    sys.path.append(str(code))  # lets the modules import each other
    for name in modules:
        try:
            module = _module(name, code)
        except SavedModelError:
            raise
        except Exception as error:
            raise SavedModelError(
                explain(
                    f"The code that the model brings along can't be imported: {name}.",
                    received=f"{type(error).__name__}: {error}",
                    fix="Install what it needs.",
                )
            ) from error
        cloudpickle.register_pickle_by_value(module)
    return modules


def _module(name: str, code: Path) -> ModuleType:
    """Import a module from a directory, or return the imported module if its file has the same content.

    Raises:
        SavedModelError: Another module of that name is imported already.
    """
    package = (code / name).is_dir()
    file = code / name / "__init__.py" if package else code / f"{name}.py"
    known = sys.modules.get(name)
    if known is not None:
        if Path(known.__file__ or "").read_bytes() != file.read_bytes():
            raise SavedModelError(
                explain(
                    f"The model brings along another module {name!r} than the one that is imported here.",
                    expected=f"the same as {known.__file__}",
                    received=f"another file of this name in {code}",
                    fix="Load it in a process of its own, or give modules that change other names.",
                )
            )
        return known
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(code / name)] if package else None
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def stage_files(root: Path) -> tuple[str, Path] | None:
    """Return the class and the directory of a model saved by Spark's own writer; None for this package's models."""
    found = Model.load(str(root)).flavors[FLAVOR]
    return (str(found["stage_class"]), root / _STAGE_FILES) if "stage_class" in found else None


def stage_content(root: Path) -> tuple[str, bytes]:
    """Read the Spark ML stage's JSON and the bytes of the whole Keras model."""
    return (root / _STAGE).read_text(), (root / _KERAS).read_bytes()


def served_content(root: Path) -> tuple[str, bytes]:
    """Read the description of serving, as JSON, and the bytes of the Keras model that is served."""
    scored = root / _SCORED
    return (root / _SERVING).read_text(), (scored if scored.exists() else root / _KERAS).read_bytes()


def _pack_package(path: Path) -> None:
    """Pack this package as one archive, since a tracking server needs one request per file."""
    package = Path(errors.__file__).parent
    if package.parent.is_file():  # the package was imported from an archive
        shutil.copy2(package.parent, path)
        return
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(package.rglob("*.py")):
            archive.write(file, str(file.relative_to(package.parent)))


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


def _save_example(mlflow_model: Model, example: Any, path: str) -> None:
    from mlflow.models.utils import _save_example as save

    save(mlflow_model, example, path)


def _write_environment(root: Path, pip_requirements: Sequence[str] | None) -> None:
    """Write the requirements of serving as conda.yaml, python_env.yaml and requirements.txt."""
    given = list(pip_requirements) if pip_requirements is not None else list(map(_pinned, _NEEDED))
    conda, requirements, _ = environment._process_pip_requirements(given, None, None)
    write_yaml(str(root), _CONDA, conda)
    (root / "requirements.txt").write_text("\n".join(requirements) + "\n")
    environment._PythonEnv.current().to_yaml(str(root / _PYTHON))


def _pinned(names: Sequence[str]) -> str:
    """Pin the first of these distributions that is installed to its version."""
    for name in names:
        try:
            return f"{name}=={importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return names[0]  # none is installed here under these names, so the version stays open
