"""One local session for the folder, whose Python workers have TensorFlow from the start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession
from sessions import session


@pytest.fixture(scope="package")
def spark() -> Iterator[SparkSession]:
    with session("local[2]", python_daemon_module="spark_dl.spark.python_daemon") as made:
        yield made
