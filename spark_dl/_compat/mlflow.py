"""MLflow internals: active runs of other threads, the end of a run, and files of a logged model.

Each docstring names the symbol behind the function. Checked with MLflow 3.0, 3.8 and 3.17, which have the same
names. `tests/unit/test_compat.py` has a test for each.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import RunStatus
from mlflow.models import Model
from mlflow.models.model import ModelInfo
from mlflow.models.utils import _save_example
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.tracking.context.registry import resolve_tags
from mlflow.tracking.fluent import _active_run_stack, _get_experiment_id
from mlflow.utils import environment
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID
from mlflow.utils.rest_utils import http_request
from mlflow.utils.yaml_utils import write_yaml
from packaging.version import Version

__all__ = [
    "CONDA_FILE",
    "DATASET_CONTEXT_TAG",
    "PARENT_RUN_TAG",
    "PYTHON_FILE",
    "active_run_of_thread",
    "check_server",
    "context_tags",
    "current_experiment_id",
    "end_run",
    "log_model",
    "registered_version",
    "save_input_example",
    "write_environment",
]

# Tags that MLflow's UI knows (`mlflow.utils.mlflow_tags`).
DATASET_CONTEXT_TAG: str = MLFLOW_DATASET_CONTEXT
PARENT_RUN_TAG: str = MLFLOW_PARENT_RUN_ID
# Files that `write_environment` writes besides requirements.txt.
CONDA_FILE, PYTHON_FILE = "conda.yaml", "python_env.yaml"


def active_run_of_thread(thread_id: int | None) -> str:
    """Return the id of a thread's innermost active run, or "" (`fluent._active_run_stack`).

    `mlflow.active_run` knows the current thread only.
    """
    runs = _active_run_stack.get_all_thread_values().get(thread_id)
    return str(runs[-1].info.run_id) if runs else ""


def current_experiment_id() -> str:
    """Return the id of the experiment that a new run without a name for it belongs to (`fluent._get_experiment_id`).

    It is set by `mlflow.set_experiment`, the environment or the notebook; MLflow has no public getter.
    """
    return str(_get_experiment_id())


def context_tags(tags: dict[str, str] | None = None) -> dict[str, str]:
    """Return tags with those that MLflow adds to each run: user, source, commit (`context.registry.resolve_tags`)."""
    found: dict[str, str] = resolve_tags(tags)
    return found


def end_run(client: mlflow.MlflowClient, run_id: str, status: str) -> None:
    """End a run as `MlflowClient.set_terminated` does, but without printing the server's URL with its credentials.

    Behind it is `update_run_info` of `MlflowClient._tracking_client.store`. `MlflowClient.update_run` sets no end time.

    Args:
        client: The client of the tracking store.
        run_id: The id of the run.
        status: "FINISHED", "FAILED" or "KILLED".
    """
    now = int(time.time() * 1000)
    client._tracking_client.store.update_run_info(run_id, RunStatus.from_string(status), now, None)


def check_server(uri: str, timeout: float) -> None:
    """Request the health of a tracking server once, with MLflow's credentials; any answer will do.

    Behind it are `rest_utils.http_request` and `credentials.get_default_host_creds`. MLflow's own calls retry for
    minutes.

    Args:
        uri: The http URL of the server.
        timeout: Seconds.

    Raises:
        Exception: There is no answer in time; MlflowException or an error of requests.
    """
    credentials = get_default_host_creds(uri)
    http_request(credentials, "/health", "GET", max_retries=0, timeout=timeout, raise_on_status=False)


def log_model(flavor: Any, flavor_name: str, **arguments: Any) -> ModelInfo:
    """Log a model with a flavor's `save_model` (`Model.log`).

    From MLflow 3.3 on, `Model.log` takes the flavor's name for its telemetry; earlier versions hand it to `save_model`.

    Args:
        flavor: The module with `save_model`.
        flavor_name: The name of the flavor.
        **arguments: The arguments of `Model.log` and of the flavor's `save_model`.
    """
    named = {"flavor_name": flavor_name} if Version(mlflow.__version__) >= Version("3.3") else {}
    info: ModelInfo = Model.log(artifact_path=None, flavor=flavor, **named, **arguments)
    return info


def registered_version(client: mlflow.MlflowClient, uri: str) -> tuple[str, str]:
    """Return the name and the version of a registered model that a URI such as `models:/name@alias` names.

    Behind it is `store.artifact.utils.models.get_model_name_and_version`.

    Raises:
        ValueError: The URI names a logged model.
        MlflowException: There is no such version.
    """
    name, version = get_model_name_and_version(client, uri)
    return str(name), str(version)


def save_input_example(model: Model, example: Any, directory: str) -> None:
    """Write an input example into a model's directory and note it in its MLmodel (`models.utils._save_example`)."""
    _save_example(model, example, directory)


def write_environment(root: Path, requirements: Sequence[str]) -> None:
    """Write the requirements of serving as conda.yaml, python_env.yaml and requirements.txt, with MLflow itself.

    Behind it are `environment._process_pip_requirements` and `environment._PythonEnv`, with which each flavor of
    MLflow writes these files.
    """
    conda, pinned = _environment(tuple(requirements))
    write_yaml(str(root), CONDA_FILE, dict(conda))
    (root / "requirements.txt").write_text("\n".join(pinned) + "\n")
    environment._PythonEnv.current().to_yaml(str(root / PYTHON_FILE))


@functools.cache
def _environment(requirements: tuple[str, ...]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the content of conda.yaml and the requirements, once per process: MLflow reads every package's files."""
    conda, pinned, _ = environment._process_pip_requirements(list(requirements), None, None)
    return conda, tuple(pinned)
