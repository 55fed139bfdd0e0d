"""One cluster of two executor processes for the folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession
from sessions import session


@pytest.fixture(scope="package")
def spark() -> Iterator[SparkSession]:
    with session("local-cluster[2,1,1024]") as made:
        yield made
