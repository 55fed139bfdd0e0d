"""Versions of a registered model that are registered once, and the alias that names one of them."""

from __future__ import annotations

import mlflow
from mlflow.exceptions import MlflowException

from spark_dl.track import flavor
from spark_dl.track.tracker import LoggedModel

__all__ = ["aliased_version", "publish"]


def aliased_version(name: str, alias: str) -> str:
    """Return the version that an alias names; "" if there is no such model or alias.

    Raises:
        MlflowException: The registry doesn't answer.
    """
    try:
        return str(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return ""
        raise


def publish(model: LoggedModel, name: str, alias: str, run_id: str, mark: str) -> str:
    """Register a model, and let an alias name it; a version with the same mark isn't registered again.

    Args:
        model: The model.
        name: The name of the registered model.
        alias: The alias.
        run_id: The id of the run that the model is logged to.
        mark: What tells this version from others of the run, such as its step.

    Returns:
        The version.
    """
    client = mlflow.MlflowClient()
    tag = "spark_dl.mark"
    mark = f"{run_id}/{mark}"
    known = [one for one in _versions(client, name) if one.tags.get(tag) == mark]
    if known:
        version = str(known[0].version)
    else:
        experiment = client.get_run(run_id).info.experiment_id
        made = client.create_logged_model(experiment, "model", source_run_id=run_id)
        flavor.log(model, "model", run_id=run_id, model_id=made.model_id)
        version = str(mlflow.register_model(f"models:/{made.model_id}", name, tags={tag: mark}).version)
    client.set_registered_model_alias(name, alias, version)
    return version


def _versions(client: mlflow.MlflowClient, name: str) -> list[mlflow.entities.model_registry.ModelVersion]:
    quote = '"' if "'" in name else "'"  # MLflow's filters have no escapes
    condition = f"name={quote}{name}{quote}"
    try:
        return list(client.search_model_versions(condition, order_by=["version_number DESC"], max_results=20))
    except MlflowException:  # a registry that can't sort
        return list(client.search_model_versions(condition))
