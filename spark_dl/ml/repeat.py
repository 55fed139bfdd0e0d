"""Reproducing a fit from its logged run."""

from __future__ import annotations

import json
from typing import Any

from pyspark.sql import SparkSession

from spark_dl.errors import DataError, SavedModelError, explain
from spark_dl.ml.artifacts import ESTIMATOR_MODEL, ESTIMATOR_STAGE, LEFT_OUT
from spark_dl.ml.class_names import class_name, current_name
from spark_dl.ml.classifier import KerasClassifier
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.logged import digest_of
from spark_dl.ml.model import KerasModel
from spark_dl.ml.persistence import revived
from spark_dl.ml.regressor import KerasRegressor
from spark_dl.ml.tagger import KerasTagger
from spark_dl.redaction import is_redacted

__all__ = ["repeat"]


def repeat(spark: SparkSession, run_id: str, data: str | None = None, kind: str = "parquet") -> KerasModel:
    """Repeat a fit with the options and the untrained model of its run, as a new run of the same experiment.

    Args:
        spark: The Spark session.
        run_id: The id of the MLflow run.
        data: The path of the rows; None for the path of the run's dataset, whose rows must be unchanged.
        kind: The Spark data source format of the rows.

    Returns:
        The new fitted model.

    Raises:
        TrackingError: There is no such run, or no fit has logged it.
        SavedModelError: The estimator is damaged, or has callbacks, onEpoch, validationData or objects that can't be
            saved.
        DataError: The path of the rows is unknown or redacted, or the rows have changed.
    """
    from spark_dl.track.runs import logged_fit  # late import: loads MLflow

    logged = logged_fit(run_id, (ESTIMATOR_STAGE, ESTIMATOR_MODEL))
    estimator = _estimator(logged.files[ESTIMATOR_STAGE], logged.files[ESTIMATOR_MODEL], run_id)
    path = data or logged.source
    if not path:
        raise DataError(
            explain(
                f"The run {run_id!r} has no path of its rows.",
                expected="a DataFrame that was read from files",
                received="a DataFrame from another source",
                fix="Give the path of the rows (--data).",
            )
        )
    if is_redacted(path):
        raise DataError(
            explain(
                f"The run {run_id!r} has the path of its rows without its credentials.",
                expected="the path with which Spark can read them",
                received=path,
                fix="Give the path of the rows (--data), or let Spark have the credentials by its settings.",
            )
        )
    if not estimator.isSet("experimentName"):
        estimator.set(estimator.getParam("experimentName"), logged.experiment)
    with estimator.convert(spark.read.format(kind).load(path)) as rows:
        digest = digest_of(rows._dataset, validation=False)
        if data is None and logged.digest != digest:
            raise DataError(
                explain(
                    f"The rows at {path} aren't those that the run {run_id!r} was trained on.",
                    expected=f"the digest {logged.digest}",
                    received=f"{digest}: they have changed, or were a part of these, or changed on their way to fit",
                    fix="Give the path of the rows (--data); any are taken there.",
                )
            )
        return estimator.fitOnDataset(rows)


def _estimator(stage: bytes, content: bytes, run_id: str) -> KerasEstimator:
    known = (KerasEstimator, KerasClassifier, KerasRegressor, KerasTagger)
    kinds: dict[str, Any] = {class_name(kind): kind for kind in known}
    where = f"The estimator of run {run_id!r}"
    try:
        metadata = json.loads(stage)
        left_out, kind = metadata[LEFT_OUT], kinds[current_name(metadata["class"])]
    except (ValueError, KeyError, TypeError) as error:
        raise SavedModelError(
            explain(
                f"{where} can't be loaded.",
                expected=f"metadata of one of {', '.join(kinds)}",
                received=f"{type(error).__name__}: {error}",
                fix="Fit and log the estimator with this version of spark_dl.",
            )
        ) from error
    if left_out:
        raise SavedModelError(
            explain(
                f"{where} isn't whole: {', '.join(left_out)} can't be saved.",
                expected="a fit without",
                received=", ".join(f"{name}={value}" for name, value in left_out.items()),
                fix="Fit from the program that has them.",
            )
        )
    estimator: KerasEstimator = revived(kind, metadata, content, where)
    return estimator
