"""Reading of models of the MLflow flavor "spark_dl", from a registry, a run or a directory."""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cloudpickle
import mlflow
import requests
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from spark_dl._compat.mlflow import registered_version
from spark_dl.errors import SavedModelError, StoreError, explain
from spark_dl.io.paths import is_name
from spark_dl.io.store import Store
from spark_dl.track.flavor_layout import FLAVOR, KERAS, SCORED, SERVING, STAGE, STAGE_FILES

__all__ = ["fetched", "import_code", "pinned", "served_content", "stage_content", "stage_files"]


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
                    fix="Check the URI, and the store (MLFLOW_TRACKING_URI, MLFLOW_REGISTRY_URI).",
                )
            ) from error
        if FLAVOR not in found:
            raise SavedModelError(
                explain(
                    f"The model at {uri!r} isn't one of spark_dl.",
                    expected=FLAVOR,
                    received=", ".join(found),
                    fix="Load it with the flavor that it has (mlflow.pyfunc.load_model loads most).",
                )
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
        name, version = registered_version(mlflow.MlflowClient(), uri)
        return f"models:/{name}/{version}"
    except (MlflowException, requests.RequestException, ValueError) as error:
        raise SavedModelError(
            explain(
                f"It is unknown which version {uri!r} is.",
                expected="'models:/name@alias' or 'models:/name/latest'",
                received=f"{type(error).__name__}: {error}",
                fix="Check the name, the alias and the registry (MLFLOW_REGISTRY_URI).",
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
        raise SavedModelError(
            explain(
                "The model's record is damaged.",
                expected="names of modules",
                received=modules,
                fix="Log the model again.",
            )
        )
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
                    f"The model's code can't be imported: {name}.",
                    expected="a module that can be imported here",
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
                    f"The model's code has another module {name!r} than the one that is imported here.",
                    expected=f"the same as {known.__file__}",
                    received=f"another file of this name in {code}",
                    fix="Load it in a separate process, or rename the modules of one of the models.",
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
    return (str(found["stage_class"]), root / STAGE_FILES) if "stage_class" in found else None


def stage_content(root: Path) -> tuple[str, bytes]:
    """Read the Spark ML stage's JSON and the bytes of the whole Keras model."""
    return (root / STAGE).read_text(), (root / KERAS).read_bytes()


def served_content(root: Path) -> tuple[str, bytes]:
    """Read the description of serving, as JSON, and the bytes of the model that is served."""
    scored = next((root / SCORED).parent.glob(f"{Path(SCORED).name}.*"), root / KERAS)
    return (root / SERVING).read_text(), scored.read_bytes()
