"""The fitted model and the rows of a scoring configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dl.cli.config import Config, read_config
from spark_dl.cli.keys import ScoreKeys, check_source, required, score_options
from spark_dl.cli.references import import_module

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["ConfiguredModel", "read_score_config"]


def read_score_config(values: Mapping[str, Any]) -> Config[ScoreKeys]:
    """Check a scoring configuration, and import its modules, before there is a Spark session.

    Args:
        values: The values by key.

    Raises:
        OptionError: A key or a value can't be used, or a module can't be imported.
    """
    config = read_config(values, ScoreKeys, score_options())
    required(config.keys, "model")
    check_source(config.keys)
    for module in config.keys.modules or ():
        import_module("modules", module)
    return config


@dataclass(frozen=True)
class ConfiguredModel:
    """The fitted model and the rows of a scoring configuration.

    Attributes:
        model: The fitted model or Pipeline, with the configuration's options.
        rows: The rows.
    """

    model: Any
    rows: DataFrame

    @staticmethod
    def of(spark: SparkSession, config: Config[ScoreKeys]) -> ConfiguredModel:
        """Load the model, set the options of a configuration, and read the rows.

        Args:
            spark: The Spark session.
            config: The checked configuration.

        Raises:
            SavedModelError: The model can't be loaded.
            ModelError: The model is a Pipeline without a KerasModel, which takes no options.
            OptionError: The model has no such option.
            DataError: Spark can't read the rows.
        """
        from spark_dl.cli.rows import read_rows
        from spark_dl.ml.evaluation import keras_stage
        from spark_dl.ml.loading import load_model

        model = load_model(spark, required(config.keys, "model"))
        if config.options:
            stage = keras_stage(model)
            # A configuration with every key has those of other classes, too, at their defaults.
            given = {name: one for name, one in config.options.items() if stage.hasParam(name) or one != _default(name)}
            stage.setParams(**given)
        return ConfiguredModel(model, read_rows(spark, config.keys))

    def scored(self) -> DataFrame:
        """Return the rows with the model's output columns."""
        scored: DataFrame = self.model.transform(self.rows)
        return scored

    def evaluated(self) -> dict[str, Any]:
        """Return the loss and the metrics on the rows.

        Raises:
            ModelError: The model is a Pipeline without a KerasModel.
            DataError: A column or a value can't be converted for the model, or there are no rows.
        """
        from spark_dl.ml.evaluation import evaluate
        from spark_dl.quiet import quiet_start

        quiet_start()  # the driver loads the model, too
        return evaluate(self.model, self.rows)


def _default(name: str) -> Any:
    return next(one.default for one in score_options() if one.name == name)
