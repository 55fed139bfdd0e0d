"""A quiet local Spark, for benches."""

from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import SparkSession

__all__ = ["local_session"]

_BENCHES = Path(__file__).resolve().parent
_QUIET = _BENCHES.parents[1] / "conf" / "log4j2-quiet.properties"


def local_session(master: str = "local[2]", settings: Mapping[str, str] | None = None) -> SparkSession:
    """With 4 GB for the driver, which local[2] has for its one process, and more settings.

    Python workers can import the modules of this directory.
    """
    return (
        SparkSession.builder.config(map=dict(settings or {}))
        .master(master)
        .config("spark.executorEnv.PYTHONPATH", str(_BENCHES))
        .config("spark.driver.memory", "4g")
        .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile=file:{_QUIET}")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
