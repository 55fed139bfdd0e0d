"""A quiet Spark of two local cores, for benches."""

from pathlib import Path

from pyspark.sql import SparkSession

__all__ = ["local_session"]

_QUIET = Path(__file__).resolve().parents[2] / "conf" / "log4j2-quiet.properties"


def local_session() -> SparkSession:
    """On local[2], with 4 GB for its one process."""
    return (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile=file:{_QUIET}")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
