"""The estimator and the rows of a training configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spark_dl.cli.config import Config, read_config
from spark_dl.cli.keys import OutputKeys, TrainKeys, check_source, required, train_options
from spark_dl.cli.references import import_module, import_object, is_reference, resolve_objects
from spark_dl.errors import OptionError, StoreError, explain
from spark_dl.quiet import quiet_start

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_dl.ml.estimator import KerasEstimator

__all__ = ["ConfiguredFit", "check_output", "read_train_config"]


def read_train_config(entries: Mapping[str, Any]) -> Config[TrainKeys]:
    """Check a training configuration, and import what it names, before there is a Spark session.

    Args:
        entries: The values by key.

    Returns:
        The configuration, whose options are values for the estimator. modelFn is one of them if `model` names one.

    Raises:
        OptionError: A key or a value can't be used, or a module can't be imported.
    """
    estimator = entries.get("estimator", TrainKeys().estimator)
    config = read_config(entries, TrainKeys, train_options(estimator))
    check_source(config.keys)
    for module in config.keys.modules or ():
        import_module("modules", module)
    model, params = required(config.keys, "model"), resolve_objects(config.options)
    if is_reference(model):
        params["modelFn"] = import_object("model", model)
        if not callable(params["modelFn"]):
            received = type(params["modelFn"]).__name__
            raise OptionError(
                explain(
                    "model isn't a reference to a function.",
                    expected="model: module:function",
                    received=received,
                    fix="Name a function that returns the Keras model.",
                )
            )
    return replace(config, options=params)


def check_output(spark: SparkSession, keys: OutputKeys) -> None:
    """Check before training that the fitted model can be saved.

    Args:
        spark: The Spark session.
        keys: The keys with `output`.

    Raises:
        StoreError: The directory exists, and `overwrite` isn't set.
    """
    from spark_dl.ml.spark_files import has_files

    if keys.output is not None and not keys.overwrite and has_files(spark, keys.output):
        raise StoreError(
            explain(
                "output exists.",
                expected="a new directory for the fitted model",
                received=keys.output,
                fix="Set output elsewhere, or overwrite: true (--overwrite).",
            )
        )


@dataclass(frozen=True)
class ConfiguredFit:
    """The estimator and the rows of a training configuration.

    Attributes:
        estimator: The estimator, with its model and options.
        rows: The rows.
    """

    estimator: KerasEstimator
    rows: DataFrame

    @staticmethod
    def of(spark: SparkSession, config: Config[TrainKeys], *, log_json: bool) -> ConfiguredFit:
        """Make them from a configuration.

        Args:
            spark: The Spark session.
            config: The checked configuration.
            log_json: Whether progress is written as JSON lines, and not shown otherwise.

        Raises:
            DataError: Spark can't read the rows.
            SavedModelError: The model can't be loaded.
            OptionError: A value can't be used.
        """
        from spark_dl.cli.rows import read_rows, read_validation_rows
        from spark_dl.ml.classifier import KerasClassifier
        from spark_dl.ml.estimator import KerasEstimator
        from spark_dl.ml.regressor import KerasRegressor
        from spark_dl.ml.tagger import KerasTagger

        quiet_start()
        keys, params = config.keys, {"verbose": _verbose(log_json), **config.options}
        rows = read_rows(spark, keys)
        if keys.validation_data is not None:
            params["validationData"] = read_validation_rows(spark, keys, keys.validation_data)
        if "modelFn" not in params:
            params |= _saved_model(spark, required(keys, "model"))
        kinds: dict[str, type[KerasEstimator]] = {
            "classifier": KerasClassifier,
            "regressor": KerasRegressor,
            "tagger": KerasTagger,
        }
        return ConfiguredFit(kinds.get(keys.estimator, KerasEstimator)(**params), rows)

    def slots(self) -> str:
        """Describe the slots that the fit needs and the cluster has.

        Raises:
            ClusterError: The cluster can't run the fit.
        """
        from spark_dl.launch.settings import LaunchSettings
        from spark_dl.launch.slots import check_cluster, setting_of, slots_of
        from spark_dl.spark.session import master_of

        spark, options = self.rows.sparkSession, self.estimator._options()
        settings = LaunchSettings.of(options)
        check_cluster(spark, options.num_workers, settings)
        slots = slots_of(master_of(spark), setting_of(spark), settings)
        has = "as many as the cluster manager gives" if slots is None else str(slots)
        return f"slots: numWorkers={options.num_workers} of {has} on {master_of(spark)}"


def _verbose(log_json: bool) -> int:
    """Return the default of `verbose`: a bar on a terminal, lines elsewhere, nothing beside JSON lines."""
    if log_json:
        return 0
    return 1 if sys.stderr.isatty() else 2


def _saved_model(spark: SparkSession, path: str) -> dict[str, Any]:
    from spark_dl.ml.loading import load_keras_file, load_model

    return {"model": load_keras_file(path)} if path.endswith(".keras") else {"warmStart": load_model(spark, path)}
