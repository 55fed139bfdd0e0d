"""The MLflow flavor "spark_dl": a directory that Spark ML, Keras and MLflow's own tools each load their way.

    MLmodel                   flavors spark_dl, keras and python_function; the signature
    data/model.keras          the whole Keras model, as mlflow.keras loads it
    spark_dl/stage.json       the Spark ML stage without it
    spark_dl/serving.json     how rows become its inputs, and its outputs columns
    spark_dl/scored.keras     what is served, where that isn't the whole model
    code/spark_dl.zip         this package, for processes that haven't installed it
    code/spark_dl_model.py    MLflow's way in, which finds it there

A fitted Pipeline, and what else Spark's own writer has written, has that under spark_dl/stage, and no other flavor.
Nothing in it is pickled.
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
# What MLflow imports to load a model as a pyfunc: the package is found in its archive where it isn't imported yet.
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
# What a process imports that serves a model, by the names of the distributions that may bring it.
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
        model: what is written.
        name: of the logged model.
        registered_model_name: the registered model that it becomes a version of, if any.
        code_paths: files and directories with the user's own code, such as custom layers; each is a module that is
            imported where the model is loaded.
        pip_requirements: in place of those that this process has.
        input_example: rows as the served model takes them, which is tried at once; None for a row that is made up.
        run_id: the run; None for the active one.
        model_id: of the logged model, where it has been made; None to make one.
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
    """Make a logged model a version of a registered model."""
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
    """Write the directory, which must not exist; see `log` for the arguments. The last is MLflow's own.

    Raises:
        SavedModelError: The path exists, or isn't local.
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
        with contextlib.suppress(Exception):  # made up: a model without one is a model all the same
            _save_example(mlflow_model, pd.DataFrame([model.example]), str(root))
    elif input_example is not None:
        _save_example(mlflow_model, input_example, str(root))
    mlflow_model.save(str(root / MLMODEL_FILE_NAME))
    _write_environment(root, pip_requirements)


def _write_model(root: Path, model: LoggedModel, mlflow_model: Model) -> dict[str, str]:
    """Write the files of a model and note what else can load it; gives what our own flavor must know."""
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
    """A local copy of a logged, saved or registered model, while the `with` lasts.

    Raises:
        SavedModelError: there is none, or it is another flavor's.
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
    """The directory that a path or a file: URL names; None where it is another URI, or names none."""
    try:
        store = Store.at(uri)
    except StoreError:  # models:/, runs:/ and others that MLflow knows
        return None
    return Path(store.path) if store.is_local and Path(store.path).is_dir() else None


def pinned(uri: str) -> str:
    """The URI of the version that a registered model's URI names now.

    Raises:
        SavedModelError: there is none, or the registry doesn't answer.
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
    """Import the user's own code that a model brings along, which registers its layers with Keras.

    What is made of it travels to Spark's workers by value: they can't import it.

    Returns:
        the names of the modules.

    Raises:
        SavedModelError: it can't be imported, or another module of that name has been.
    """
    modules: list[str] = Model.load(str(root)).flavors[FLAVOR].get("modules", [])
    if not modules:
        return []
    if not all(map(is_name, modules)):
        raise SavedModelError(explain("The model's record is damaged.", expected="names of modules", received=modules))
    code = Path(tempfile.mkdtemp(prefix="spark-dl-code-"))  # the model's own directory may go
    atexit.register(shutil.rmtree, code, ignore_errors=True)
    shutil.copytree(root / "code", code, dirs_exist_ok=True)
    sys.path.append(str(code))  # where they import each other
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
    """The module of this name in this directory, and no other."""
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
    """The class of what Spark's own writer has written, and its directory; None where it is a model of ours."""
    found = Model.load(str(root)).flavors[FLAVOR]
    return (str(found["stage_class"]), root / _STAGE_FILES) if "stage_class" in found else None


def stage_content(root: Path) -> tuple[str, bytes]:
    """The stage's JSON, and the Keras model's bytes."""
    return (root / _STAGE).read_text(), (root / _KERAS).read_bytes()


def served_content(root: Path) -> tuple[str, bytes]:
    """How it is served, as JSON, and the bytes of what is."""
    scored = root / _SCORED
    return (root / _SERVING).read_text(), (scored if scored.exists() else root / _KERAS).read_bytes()


def _pack_package(path: Path) -> None:
    """This package as one archive: as so many files it would take a tracking server as many requests."""
    package = Path(errors.__file__).parent
    if package.parent.is_file():  # it was itself imported from one
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
    """Columns, with types as `LoggedModel` has them, as MLflow has them."""
    return Schema([ColSpec(_type(kind), name) for name, kind in columns])


def _type(kind: Any) -> Any:
    if kind == "any":
        return AnyType()
    return DataType[kind] if isinstance(kind, str) else Array(_type(kind[1]))


def _save_example(mlflow_model: Model, example: Any, path: str) -> None:
    from mlflow.models.utils import _save_example as save

    save(mlflow_model, example, path)


def _write_environment(root: Path, pip_requirements: Sequence[str] | None) -> None:
    """What an environment needs to serve the model, in the files that MLflow's tools read."""
    given = list(pip_requirements) if pip_requirements is not None else list(map(_pinned, _NEEDED))
    conda, requirements, _ = environment._process_pip_requirements(given, None, None)
    write_yaml(str(root), _CONDA, conda)
    (root / "requirements.txt").write_text("\n".join(requirements) + "\n")
    environment._PythonEnv.current().to_yaml(str(root / _PYTHON))


def _pinned(names: Sequence[str]) -> str:
    """The first of these distributions that is installed, with its version."""
    for name in names:
        try:
            return f"{name}=={importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return names[0]  # as its environment has it: one that isn't installed here under any of these names
